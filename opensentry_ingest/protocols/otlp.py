"""OpenTelemetry's protocol, `POST /v1/traces`: OTLP over HTTP, in JSON or in protobuf.

The rules that hold here: whatever is answered is in the format of the request; a span that cannot be stored is counted
in the answer, and the others are stored; a request that is sent twice is stored once, because the digest of its body
is its idempotency key; and nothing to store is no error.
"""

import hashlib
import json
from typing import Any

from opensentry_ingest import body, credentials, metrics, payload, problems
from opensentry_ingest.errors import MissingKey, RequestError, UnsupportedMediaType
from opensentry_ingest.protocols import Batch, otlp_formats, streams
from opensentry_ingest.protocols.otlp_spans import MAX_ERRORS, Items, convert
from opensentry_ingest.protocols.traces import MAX_SPANS

ROUTE = "/v1/traces"

LIMIT_BYTES = 4_194_304
"""The largest request, as sent and unpacked: 4 MiB."""

JSON = "application/json"
PROTOBUF = "application/x-protobuf"

REASONS = {
    "span_without_id": "spans without a valid traceId and spanId",
    "span_over_limit": f"spans after the first {MAX_SPANS} of a request",
    "exception": f"exceptions after the first {MAX_ERRORS} of a request are kept with their spans only",
}
"""What a client is told of each kind that is not stored."""

# Of google.rpc.Code; exporters go by the HTTP status.
_CODES = {401: 16, 403: 7, 404: 5, 500: 13, 503: 14}
_INVALID_ARGUMENT = 3


def read(environ: dict[str, Any], batch_id: str, keep_prompts: bool = False) -> Batch:
    """Make a batch of a WSGI request."""
    public_key = credentials.public_key(environ)
    if not public_key:
        raise MissingKey
    streams.bound(environ)
    try:
        pieces = streams.unpacked(environ, LIMIT_BYTES, LIMIT_BYTES)
        _check_format(environ)
        data = metrics.timed("read", b"".join, pieces)
    except RequestError:
        # A server in front would turn an answer that comes too early into an error of its own.
        body.drain(environ)
        raise
    found, text = metrics.timed("parse", _items, data, _is_protobuf(environ), keep_prompts)
    metrics.timed("validate", payload.validate_each, found.items)
    # Without items nothing is stored, so there is nothing to repeat.
    idempotency_key = f"otlp:{hashlib.sha256(data).hexdigest()}" if found.items else None
    media_type = PROTOBUF if _is_protobuf(environ) else JSON
    return Batch(public_key, batch_id, text, found.items, len(data), idempotency_key, found.skipped, media_type)


def answer(batch: Batch, stored_id: str) -> tuple[int, bytes]:
    """Return the status and the body of an accepted batch: an `ExportTraceServiceResponse`."""
    rejected = sum(number for kind, number in batch.skipped.items() if kind.startswith("span"))
    text = "; ".join(f"{REASONS[kind]}: {number}" for kind, number in batch.skipped.items())
    if batch.media_type == PROTOBUF:
        return 200, _field(1, _message(rejected, text)) if text else b""
    # Numbers of 64 bits are strings in protobuf's JSON.
    partial = {"partialSuccess": {"rejectedSpans": str(rejected), "errorMessage": text}}
    return 200, json.dumps(partial if text else {}).encode()


def refusal(environ: dict[str, Any], error: RequestError) -> tuple[str, bytes]:
    """Return the media type and the body of a refusal: a `google.rpc.Status`, unless problem details are wanted.

    Args:
        environ: the WSGI environment (PEP 3333).
        error: what the request is refused for.
    """
    if problems.wanted(environ):
        return problems.refusal(environ, error)
    detail = str(error) if error.status in (400, 415) else ""
    text = f"{error.reason}: {detail}" if detail else error.reason
    code = _CODES.get(error.status, _INVALID_ARGUMENT)
    if _is_protobuf(environ):
        return PROTOBUF, _message(code, text)
    return JSON, json.dumps({"code": code, "message": text}).encode()


def _media_type(environ: dict[str, Any]) -> str:
    content_type: str = environ.get("CONTENT_TYPE", "")
    return content_type.partition(";")[0].strip().lower()


def _is_protobuf(environ: dict[str, Any]) -> bool:
    return _media_type(environ) == PROTOBUF


def _check_format(environ: dict[str, Any]) -> None:
    media_type = _media_type(environ)
    if media_type == PROTOBUF and not otlp_formats.has_protobuf:
        raise UnsupportedMediaType(f"{PROTOBUF} needs the extra `otlp` of opensentry-ingest; {JSON} does not")
    if media_type not in ("", JSON, PROTOBUF):
        raise UnsupportedMediaType(f"use {JSON} or {PROTOBUF}")


def _items(data: bytes, is_protobuf: bool, keep_prompts: bool) -> tuple[Items, str]:
    """Return the items of a request, parsed and as JSON."""
    spans = otlp_formats.from_protobuf(data) if is_protobuf else otlp_formats.from_json(data)
    found = convert(spans, keep_prompts)
    return found, payload.encode(found.items)


def _message(number: int, text: str) -> bytes:
    """Return a protobuf message with a number in field 1 and a text in field 2.

    `google.rpc.Status` is such a message, and `ExportTracePartialSuccess`, so that neither needs its class.
    """
    return (b"\x08" + _varint(number) if number else b"") + _field(2, text.encode())


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])
