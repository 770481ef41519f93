"""Spans of OpenTelemetry as items of our schema.

The rules that hold here: each span becomes a transaction or a span of one, and none becomes both; an exception and a
call of a language model are counted once, however many spans describe them; what comes out is valid by the schema;
and what one resource says is repeated with each of its spans only as far as it is short.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from opensentry_ingest.protocols import gen_ai, traces
from opensentry_ingest.protocols.otlp_formats import Attributes, Event, Span

MAX_ERRORS = 1_000
"""The most errors of a request. Further ones stay with their spans."""

MAX_RESOURCE_CHARACTERS = 2_000
"""How much of what describes a resource is stored with each of its transactions."""

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
"""What kind of operation a span is, by its number."""

Members = dict[str, Any]


class Items(NamedTuple):
    """The items of a request, and how many parts of it are not stored, by kind."""

    items: list[Members]
    skipped: Counter[str]


def convert(spans: Iterable[Span | None], keep_prompts: bool) -> Items:
    """Return spans as items: transactions with their spans, calls of language models, and errors.

    Args:
        spans: those of one request; None for one that cannot be read.
        keep_prompts: whether what a model was asked and what it answered is kept.
    """
    skipped: Counter[str] = Counter()
    by_trace: dict[str, list[Span]] = {}
    number = 0
    resource: Attributes = {}
    short: Attributes = {}
    for span in spans:
        if span and span.resource is not resource:
            resource = span.resource
            short = _shortened(resource, keep_prompts)
        if span is None or not (span.trace_id and span.span_id):
            skipped["span_without_id"] += 1
        elif number == traces.MAX_SPANS:
            skipped["span_over_limit"] += 1
        else:
            number += 1
            kept = span._replace(resource=short)
            by_trace.setdefault(span.trace_id, []).append(kept if keep_prompts else _without_prompts(kept))
    items: list[Members] = []
    errors: list[Members] = []
    for trace in by_trace.values():
        parents = traces.parents_of(trace)
        stored = set()
        for index, event in _thrown(trace, parents):
            if len(errors) < MAX_ERRORS:
                errors.append(_error(trace[index], event))
                stored.add(id(event))
            else:
                skipped["exception"] += 1
        items += _transactions(trace, parents, stored)
        items += [_generation(trace[index]) for index in _calls(trace, parents)]
    return Items(items + errors, skipped)


def _shortened(resource: Attributes, keep_prompts: bool) -> Attributes:
    """Return what of a resource is stored: what has a member of ours, then the rest, as far as it is short."""
    whole = resource if keep_prompts else gen_ai.without_content(resource)
    kept: Attributes = {}
    left = MAX_RESOURCE_CHARACTERS
    for name in dict.fromkeys([*_RESOURCE_NAMES, *whole]):
        size = len(name) + len(str(whole[name])) if name in whole else left + 1
        if size <= left:
            left -= size
            kept[name] = whole[name]
    return kept


def _without_prompts(span: Span) -> Span:
    return span._replace(
        attributes=gen_ai.without_content(span.attributes),
        events=[_event_without_prompts(event) for event in span.events],
        links=[link._replace(attributes=gen_ai.without_content(link.attributes)) for link in span.links],
    )


def _event_without_prompts(event: Event) -> Event:
    within = event.name if gen_ai.is_about_models(event.name) else ""
    return event._replace(attributes=gen_ai.without_content(event.attributes, within))


def _transactions(trace: list[Span], parents: list[int], stored: set[int]) -> list[Members]:
    found: dict[int, Members] = {}
    roots = traces.roots_of(parents)
    for index, root in enumerate(roots):
        if index == root:
            found[index] = _transaction(trace[index], stored)
    for index, root in enumerate(roots):
        if index != root:
            found[root].setdefault("spans", []).append(_part(trace[index], trace[root], stored))
    return list(found.values())


def _transaction(span: Span, stored: set[int]) -> Members:
    item: Members = {
        "type": "transaction",
        "name": span.name,
        "traceId": span.trace_id,
        "durationMs": _milliseconds(span.start, span.end),
        "op": _op(span),
        "status": "error" if span.status == 2 else "ok",
        **_ids(span),
        **_origin(span),
        **_rest(span, stored),
    }
    if span.end:
        item["timestamp"] = _timestamp(span.end)
    if span.resource:
        item["resource"] = span.resource
    return item


def _part(span: Span, root: Span, stored: set[int]) -> Members:
    item: Members = {
        "op": _op(span),
        "description": span.name,
        "durationMs": _milliseconds(span.start, span.end),
        **_ids(span),
        **_rest(span, stored),
    }
    if root.start and span.start:
        item["startMs"] = _milliseconds(root.start, span.start)
    if span.status in (1, 2):
        item["status"] = "error" if span.status == 2 else "ok"
    service = _short(span.resource.get("service.name"))
    if service and service != root.resource.get("service.name"):
        item["service.name"] = service
    return item


def _ids(span: Span) -> Members:
    ids = {"spanId": span.span_id}
    if span.parent_id:
        ids["parentSpanId"] = span.parent_id
    return ids


def _rest(span: Span, stored: set[int]) -> Members:
    """Return what has no member of ours; PostgreSQL keeps it in `extra`."""
    rest: Members = {
        "attributes": span.attributes,
        "events": [
            {"name": event.name, "timestamp": _timestamp(event.time), "attributes": event.attributes}
            for event in span.events
            if id(event) not in stored
        ],
        "links": [
            {"traceId": link.trace_id, "spanId": link.span_id, "attributes": link.attributes} for link in span.links
        ],
        "statusMessage": span.status_message,
        "traceState": span.trace_state,
        "scope": _short(span.scope),
    }
    return {name: value for name, value in rest.items() if value}


def _origin(span: Span) -> Members:
    """Return the members that say where something happened."""
    origin: Members = {}
    for member, names in _RESOURCE.items():
        for name in names:
            if text := _short(span.resource.get(name)):
                origin[member] = text
                break
    if service := _short(span.resource.get("service.name")):
        origin["tags"] = {"service.name": service}
    return origin


def _error(span: Span, event: Event) -> Members:
    exception: Members = {}
    for name, member in (("exception.type", "type"), ("exception.message", "value")):
        if type(event.attributes.get(name)) is str:
            exception[member] = event.attributes[name]
    stack = event.attributes.get("exception.stacktrace")
    if stack:
        exception["stacktrace"] = {"text": stack}
    item = {"type": "error", "exception": exception, "traceId": span.trace_id, "spanId": span.span_id, **_origin(span)}
    if event.time:
        item["timestamp"] = _timestamp(event.time)
    attributes = {name: value for name, value in event.attributes.items() if name not in _EXCEPTION}
    if attributes:
        item["attributes"] = attributes
    return item


def _thrown(trace: list[Span], parents: list[int]) -> list[tuple[int, Event]]:
    """Return the exceptions that become errors, with the indexes of their spans.

    An exception that leaves several spans is recorded by each of them. The innermost counts.
    """
    recorded = [
        (index, event) for index, span in enumerate(trace) for event in span.events if event.name == "exception"
    ]
    within = {(parents[index], *_kind(event)) for index, event in recorded if parents[index] != index}
    return [(index, event) for index, event in recorded if (index, *_kind(event)) not in within]


def _kind(event: Event) -> tuple[str, str]:
    return str(event.attributes.get("exception.type")), str(event.attributes.get("exception.message"))


def _calls(trace: list[Span], parents: list[int]) -> list[int]:
    calls = [index for index, span in enumerate(trace) if gen_ai.is_call(span.attributes)]
    return traces.calls_of(trace, parents, calls, lambda index: gen_ai.is_step(trace[index].attributes))


def _generation(span: Span) -> Members:
    service = {"service.name": span.resource["service.name"]} if "service.name" in span.resource else {}
    item = {**_origin(span), **gen_ai.generation({**service, **span.attributes})}
    item |= {"traceId": span.trace_id, "spanId": span.span_id, "latencyMs": _milliseconds(span.start, span.end)}
    if span.end:
        item["timestamp"] = _timestamp(span.end)
    if span.failed:
        item["status"] = "error"
    return item


def _op(span: Span) -> str:
    return KINDS[span.kind] if 0 <= span.kind < len(KINDS) else KINDS[0]


def _short(value: Any) -> str:
    return value if type(value) is str and len(value) <= gen_ai.MAX_CHARACTERS else ""


def _milliseconds(start: int, end: int) -> int:
    """Return the time between two moments in nanoseconds; 0 if one is unknown or they are the wrong way round."""
    return max(0, (end - start + 500_000) // 1_000_000) if start and end else 0


def _timestamp(time: int) -> str:
    return (_EPOCH + timedelta(microseconds=time // 1000)).isoformat()


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_RESOURCE = {
    "environment": ("deployment.environment.name", "deployment.environment"),
    "release": ("service.version",),
}
_RESOURCE_NAMES = ("service.name", *(name for names in _RESOURCE.values() for name in names))
_EXCEPTION = ("exception.type", "exception.message", "exception.stacktrace")
