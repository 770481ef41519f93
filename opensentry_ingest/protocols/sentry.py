"""Sentry's protocol: what any of its SDKs sends, in an envelope or, if it is old, as one event.

The rules that hold here: events, transactions and spans are stored, and everything else is skipped and counted; an
event is stored once, because its id is the id of the batch and its idempotency key, and so are spans, whose digest is
the key if they come by themselves; and nothing to store is no error.
"""

import hashlib
import re
from collections import Counter
from functools import lru_cache
from typing import Any, NamedTuple

from opensentry_ingest import body, credentials, metrics, payload, uuids
from opensentry_ingest.errors import InvalidJSON, InvalidPayload, MissingKey, PayloadTooLarge, RequestError
from opensentry_ingest.protocols import Batch, sentry_spans, streams
from opensentry_ingest.protocols.envelope import Envelope
from opensentry_ingest.protocols.sentry_conversion import Members, without_prompts
from opensentry_ingest.protocols.sentry_events import error_item
from opensentry_ingest.protocols.sentry_transactions import transaction_items

ROUTES = ("/api/{project}/envelope/", "/api/{project}/store/")
"""The paths, also without the last slash. The project in them is ignored: the key names it."""

SENT_LIMIT_BYTES = 20_971_520
"""The largest envelope as sent: 20 MiB."""

UNPACKED_LIMIT_BYTES = 104_857_600
"""The largest envelope unpacked: 100 MiB."""

EVENT_LIMIT_BYTES = 1_048_576
"""The largest event or transaction: 1 MiB."""

SPANS_LIMIT_BYTES = 6_291_456
"""The largest item of spans, and the most of an envelope that is stored: 6 MiB. SDKs send spans when they have about
5 MB of them, and one event or transaction in an envelope."""

STORED = {"event": EVENT_LIMIT_BYTES, "transaction": EVENT_LIMIT_BYTES, "span": SPANS_LIMIT_BYTES}
"""The kinds of items that are stored, and the most bytes of each."""

SKIPPED = frozenset(
    [
        "attachment",
        "check_in",
        "client_report",
        "feedback",
        "log",
        "otel_log",
        "profile",
        "profile_chunk",
        "replay_event",
        "replay_recording",
        "replay_video",
        "session",
        "sessions",
        "span",
        "statsd",
        "trace_metric",
        "user_report",
    ]
)
"""The kinds of items that are skipped and counted by name; others are counted as "other". Of spans, bad ones are."""

# A server in front would take "/api/../envelope/" for another path, and not limit it.
_PATH = re.compile(r"/api/(?!\.\.?/)[^/]+/(envelope|store)/?")
_ID = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class _Received(NamedTuple):
    """What came in, with the JSON of events not parsed yet."""

    public_key: str
    event_id: Any
    events: list[tuple[str, bytes]]
    skipped: Counter[str]
    length: int


@lru_cache(maxsize=100)
def route(path: str) -> str:
    """Return which of `ROUTES` a path belongs to; "" if none."""
    match = _PATH.fullmatch(path)
    return f"/api/{{project}}/{match[1]}/" if match else ""


def read(environ: dict[str, Any], batch_id: str, keep_prompts: bool = False) -> Batch:
    """Make a batch of a WSGI request."""
    streams.bound(environ)
    try:
        received = metrics.timed("read", _receive, environ)
    except RequestError:
        # A server in front would turn an answer that comes too early into an error of its own.
        body.drain(environ, SENT_LIMIT_BYTES)
        raise
    event_id, items, text = metrics.timed("parse", _items, received, batch_id, keep_prompts)
    metrics.timed("validate", payload.validate_each, items)
    idempotency_key = None
    # Without items the key stays unused: what is skipped often has the id of an event that comes later.
    if items and event_id:
        idempotency_key = f"sentry:{event_id}"
    elif items and _has_only_spans(received):
        digest = hashlib.sha256(b"\n".join(content for _, content in received.events))
        idempotency_key = f"sentry-spans:{digest.hexdigest()}"
    return Batch(
        received.public_key, event_id or batch_id, text, items, received.length, idempotency_key, received.skipped
    )


def answer(batch: Batch, stored_id: str) -> tuple[int, bytes]:
    """Return the status and the JSON body of an accepted batch."""
    # Some SDKs take any other status than 200 for a failure.
    return 200, f'{{"id": "{stored_id.replace("-", "")}"}}'.encode() if batch.value else b"{}"


def _receive(environ: dict[str, Any]) -> _Received:
    """Read the request to its end, and keep what is to be stored."""
    public_key = credentials.public_key(environ) or credentials.sentry_key(environ)
    is_store = route(environ["PATH_INFO"]) == ROUTES[1]
    if is_store and not public_key:
        raise MissingKey
    pieces = streams.unpacked(environ, SENT_LIMIT_BYTES, EVENT_LIMIT_BYTES if is_store else UNPACKED_LIMIT_BYTES)
    if is_store:
        event = b"".join(pieces)
        # The oldest SDKs, called Raven, pack it so. zlib data begins with 0x78, and its Base64 with a letter with which
        # no JSON does.
        if event.startswith(b"e"):
            event = streams.inflated_base64(event, EVENT_LIMIT_BYTES)
        return _Received(public_key, None, [("", event)], Counter(), len(event))
    envelope = Envelope(pieces)
    public_key = public_key or credentials.dsn_key(envelope.header.get("dsn"))
    if not public_key:
        raise MissingKey
    events = []
    skipped: Counter[str] = Counter()
    left = SPANS_LIMIT_BYTES
    for kind, content in envelope.items(STORED):
        if content is None:
            skipped[kind if kind in SKIPPED else "other"] += 1
        else:
            left -= len(content)
            if left < 0:
                raise PayloadTooLarge
            events.append((kind, content))
    return _Received(public_key, envelope.header.get("event_id"), events, skipped, envelope.length)


def _has_only_spans(received: _Received) -> bool:
    return all(kind == "span" for kind, _ in received.events)


def _items(received: _Received, batch_id: str, keep_prompts: bool) -> tuple[str | None, list[Members], str]:
    """Return the id that the events have, a UUID or None, and the events as items of our schema, parsed and as JSON.

    Spans that are left out are counted as skipped.
    """
    # If spans come by themselves, their envelope has no id of an event; one that it has would be that of another event.
    event_id = None if _has_only_spans(received) else _uuid(received.event_id)
    events: list[tuple[bool, Members]] = []
    spans: list[Any] = []
    try:
        for kind, content in received.events:
            event = payload.parse(content, lenient=True)[1]
            if kind == "span":
                spans += sentry_spans.spans_of(event)
            elif not isinstance(event, dict):
                raise InvalidPayload("an event must be an object")
            else:
                event_id = event_id or _uuid(event.get("event_id"))
                events.append((kind == "transaction" or event.get("type") == "transaction", event))
        if spans:
            made, left_out = sentry_spans.join(spans, [event for is_transaction, event in events if is_transaction])
            events += [(True, event) for event in made]
            if left_out:
                received.skipped["span"] += left_out
        items: list[Members] = []
        trace_id = (event_id or batch_id).replace("-", "")
        for is_transaction, event in events:
            kept = event if keep_prompts else without_prompts(event)
            items += transaction_items(kept, trace_id) if is_transaction else [error_item(kept)]
        return event_id, items, payload.encode(items)
    except RecursionError:
        raise InvalidJSON("nested too deep") from None


def _uuid(value: Any) -> str | None:
    """Return an event id as a UUID; None if it is none, or of zeros only."""
    if type(value) is not str or not _ID.fullmatch(value):
        return None
    digits = value.replace("-", "").lower()
    return uuids.written(digits) if digits.strip("0") else None
