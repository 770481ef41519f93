"""The two formats of an OTLP request, JSON and protobuf, as one plain structure.

The rules that hold here: a member that is unknown, or not of its type, is as good as absent; no text is longer, and no
list has more entries, than what the request brought; ids are lower-case hexadecimal, "" if they are invalid; times are
nanoseconds since 1970, 0 if they are unknown. The extra `otlp` brings protobuf.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple

from opensentry_ingest import payload
from opensentry_ingest.errors import InvalidPayload, InvalidProtobuf

try:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    has_protobuf = True
except ImportError:
    has_protobuf = False

MAX_DEPTH = 16
"""How deep the value of an attribute is nested at most; what is deeper is left out."""

MAX_LISTED = 128
"""The most events, and the most links, of a span: the default limit of OpenTelemetry's SDKs."""

Attributes = dict[str, Any]


class Event(NamedTuple):
    """Something that happened during a span."""

    name: str
    time: int
    attributes: Attributes


class Link(NamedTuple):
    """Another span that a span is related to."""

    trace_id: str
    span_id: str
    attributes: Attributes


class Span(NamedTuple):
    """A span, with the attributes of its resource and the name of what made it."""

    resource: Attributes
    scope: str
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start: int
    end: int
    attributes: Attributes
    events: list[Event]
    links: list[Link]
    status: int
    status_message: str
    trace_state: str

    @property
    def failed(self) -> bool:
        """Whether what it describes failed."""
        return self.status == 2 or bool(self.attributes.get("error.type"))


def from_json(data: bytes) -> Iterator[Span | None]:
    """Yield the spans of a request in JSON; None for one that is no object.

    Raises:
        InvalidJSON: it is not JSON.
        InvalidPayload: it is not an object with an array `resourceSpans`.
    """
    request = payload.parse(data, lenient=True)[1]
    groups = request.get("resourceSpans") if isinstance(request, dict) else 0
    if not isinstance(groups, list | None):
        raise InvalidPayload("resourceSpans must be an array")
    for group in _objects(groups):
        resource = _attributes(_object(group.get("resource")).get("attributes"))
        # The last is what it was called before version 1.
        scopes = [*_objects(group.get("scopeSpans")), *_objects(group.get("instrumentationLibrarySpans"))]
        for scoped in scopes:
            scope = _text(_object(scoped.get("scope")).get("name"))
            spans = scoped.get("spans")
            for span in spans if isinstance(spans, list) else ():
                yield _span(span, resource, scope) if isinstance(span, dict) else None


def from_protobuf(data: bytes) -> Iterator[Span | None]:
    """Yield the spans of a request in protobuf.

    Raises:
        InvalidProtobuf: it is not an `ExportTraceServiceRequest`.
    """
    request = trace_service_pb2.ExportTraceServiceRequest()
    try:
        request.ParseFromString(data)
    except DecodeError:
        # Its text names no place.
        raise InvalidProtobuf("not an ExportTraceServiceRequest") from None
    for group in request.resource_spans:
        resource = _unpacked(group.resource.attributes)
        for scoped in group.scope_spans:
            for span in scoped.spans:
                yield _unpacked_span(span, resource, scoped.scope.name)


def _span(span: Mapping[str, Any], resource: Attributes, scope: str) -> Span:
    status = _object(span.get("status"))
    return Span(
        resource,
        scope,
        _id(span.get("traceId"), 32),
        _id(span.get("spanId"), 16),
        _id(span.get("parentSpanId"), 16),
        _text(span.get("name")),
        _integer(span.get("kind")),
        _integer(span.get("startTimeUnixNano")),
        _integer(span.get("endTimeUnixNano")),
        _attributes(span.get("attributes")),
        [
            Event(_text(event.get("name")), _integer(event.get("timeUnixNano")), _attributes(event.get("attributes")))
            for event in _objects(span.get("events"))[:MAX_LISTED]
        ],
        [
            Link(_id(link.get("traceId"), 32), _id(link.get("spanId"), 16), _attributes(link.get("attributes")))
            for link in _objects(span.get("links"))[:MAX_LISTED]
        ],
        _integer(status.get("code")),
        _text(status.get("message")),
        _text(span.get("traceState")),
    )


def _unpacked_span(span: Any, resource: Attributes, scope: str) -> Span:
    return Span(
        resource,
        scope,
        _hex(span.trace_id, 16),
        _hex(span.span_id, 8),
        _hex(span.parent_span_id, 8),
        span.name,
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _unpacked(span.attributes),
        [Event(event.name, event.time_unix_nano, _unpacked(event.attributes)) for event in span.events[:MAX_LISTED]],
        [
            Link(_hex(link.trace_id, 16), _hex(link.span_id, 8), _unpacked(link.attributes))
            for link in span.links[:MAX_LISTED]
        ],
        span.status.code,
        span.status.message,
        span.trace_state,
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if type(value) is str else ""


def _id(value: Any, digits: int) -> str:
    valid = type(value) is str and len(value) == digits and _HEX.fullmatch(value) and value.strip("0")
    return value.lower() if valid else ""


def _hex(value: bytes, length: int) -> str:
    return value.hex() if len(value) == length and any(value) else ""


def _integer(value: Any) -> int:
    """Return a number that is not negative and has up to 64 bits, or its decimal text, as a number; else 0."""
    if type(value) is str and _DIGITS.fullmatch(value):
        value = int(value)
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 2**64 else 0


def _attributes(pairs: Any, depth: int = 0) -> Attributes:
    named = ((_text(pair.get("key")), _value(pair.get("value"), depth)) for pair in _objects(pairs))
    return {name: value for name, value in named if value is not None}


def _value(value: Any, depth: int) -> Any:
    for kind, inner in _object(value).items():
        if kind in ("stringValue", "bytesValue"):
            return inner if type(inner) is str else None
        if kind == "boolValue":
            return inner if type(inner) is bool else None
        if kind == "intValue":
            whole = type(inner) is int or (type(inner) is str and _DIGITS.fullmatch(inner.removeprefix("-")))
            return int(inner) if whole and -(2**63) <= int(inner) < 2**63 else None
        if kind == "doubleValue":
            return inner if type(inner) in (int, float, str) else None
        if kind == "arrayValue" and depth < MAX_DEPTH:
            return [_value(each, depth + 1) for each in _objects(_object(inner).get("values"))]
        if kind == "kvlistValue" and depth < MAX_DEPTH:
            return _attributes(_object(inner).get("values"), depth + 1)
    return None


def _unpacked(pairs: Iterable[Any], depth: int = 0) -> Attributes:
    named = ((pair.key, _unpacked_value(pair.value, depth)) for pair in pairs)
    return {name: value for name, value in named if value is not None}


def _unpacked_value(value: Any, depth: int) -> Any:
    kind = value.WhichOneof("value")
    if kind in ("string_value", "bool_value", "int_value"):
        return getattr(value, kind)
    if kind == "double_value":
        # In JSON these are texts as well.
        return value.double_value if isfinite(value.double_value) else _NOT_FINITE[str(value.double_value)]
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    if kind == "array_value" and depth < MAX_DEPTH:
        return [_unpacked_value(each, depth + 1) for each in value.array_value.values]
    if kind == "kvlist_value" and depth < MAX_DEPTH:
        return _unpacked(value.kvlist_value.values, depth + 1)
    return None


_DIGITS = re.compile(r"[0-9]{1,20}")
_HEX = re.compile(r"[0-9a-fA-F]+")
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
