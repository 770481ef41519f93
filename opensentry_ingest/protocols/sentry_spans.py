"""Spans that Sentry's SDKs send in items of the type `span`, as parts of transactions.

Newer SDKs stream spans: an item has a list of them ("span v2"), and no transaction comes. Some move only the calls of
language models out of a transaction, into such an item beside it. Older SDKs send a single span in an item.

The rules that hold here: each span becomes a part of one transaction, or one of its own; a span that is repeated within
an envelope counts once; and a bad span is left out and counted, and costs nothing else.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from opensentry_ingest.protocols import traces
from opensentry_ingest.protocols.sentry_conversion import Members, trace_context


class _Span(NamedTuple):
    span_id: str
    parent_id: str
    members: Members
    """As those of the spans of a transaction are named."""


def spans_of(content: Any) -> list[Any]:
    """Return the spans of an item: those of its list, or itself."""
    several = content.get("items") if isinstance(content, dict) else None
    return several if isinstance(several, list) else [content]


def join(spans: Iterable[Any], transactions: Iterable[Members]) -> tuple[list[Members], int]:
    """Make spans parts of transactions.

    Args:
        spans: those of an envelope, whatever was sent as such.
        transactions: the transactions of the same envelope. The spans that belong to them are added there.

    Returns:
        A transaction for each span whose parent is not in the envelope, with those below it as its spans; and how many
        spans are left out.
    """
    places = {place: event for event in transactions for place in _places(event)}
    known = set(places)
    by_trace: dict[str, list[_Span]] = {}
    kept = left_out = 0
    for span in spans:
        # There may be millions that are not even objects.
        if kept == traces.MAX_SPANS or not isinstance(span, dict):
            left_out += 1
            continue
        members = _members(span)
        trace_id, span_id, parent_id = (_text(members.get(name)) for name in ("trace_id", "span_id", "parent_span_id"))
        if not (trace_id and span_id) or (trace_id, span_id) in known:
            left_out += 1
            continue
        kept += 1
        known.add((trace_id, span_id))
        by_trace.setdefault(trace_id, []).append(_Span(span_id, parent_id, members))
    made = []
    for trace_id, trace in by_trace.items():
        below: dict[int, list[Members]] = {}
        for index, root in enumerate(traces.roots_of(traces.parents_of(trace))):
            found = below.setdefault(root, [])
            if index != root:
                found.append(trace[index].members)
        for root, found in below.items():
            first = trace[root]
            if event := places.get((trace_id, first.parent_id)):
                _parts(event).extend([first.members, *found])
            else:
                made.append(_transaction(first.members, found))
    return made, left_out


def _places(event: Members) -> Iterator[tuple[str, str]]:
    """Yield the ids of a transaction's trace and of each span in it, its own included."""
    trace = trace_context(event)
    for span in (trace, *_parts(event)):
        if isinstance(span, dict) and _text(span.get("span_id")):
            yield _text(trace.get("trace_id")), span["span_id"]


def _parts(event: Members) -> list[Any]:
    """Return the list of a transaction's spans, which may be added to."""
    listed = event.get("spans")
    parts: list[Any] = listed if isinstance(listed, list) else [] if listed is None else [listed]
    event["spans"] = parts
    return parts


def _members(span: Members) -> Members:
    """Return the members of a span with the names that those of a transaction have."""
    members = {name if _NAMES.get(name, name) in span else _NAMES[name]: value for name, value in span.items()}
    if isinstance(span.get("attributes"), dict):
        data = {**_object(members.get("data")), **_values(members.pop("attributes"))}
        for name, member in _ATTRIBUTES.items():
            if type(data.get(name)) is str and member not in members:
                members[member] = data.pop(name)
        members["data"] = data
    if isinstance(span.get("links"), list):
        members["links"] = [_link(link) for link in span["links"]]
    return members


def _values(attributes: Members) -> Members:
    """Return attributes without their types: `{"a": 1}` for `{"a": {"type": "integer", "value": 1}}`."""
    return {
        name: value["value"] if isinstance(value, dict) and "value" in value else value
        for name, value in attributes.items()
    }


def _link(link: Any) -> Any:
    attributes = _object(link).get("attributes")
    return {**link, "attributes": _values(attributes)} if isinstance(attributes, dict) else link


def _transaction(span: Members, below: list[Members]) -> Members:
    """Return a span and those below it as the transaction that an SDK would send."""
    data = _object(span.get("data"))
    for part in below:
        if isinstance(part.get("data"), dict):
            part["data"] = {name: value for name, value in part["data"].items() if not _is_repeated(name, value, data)}
    names = [span.get("description"), data.get("sentry.segment.name")]
    if span.get("is_segment") is True:
        names.reverse()
    event = {
        "type": "transaction",
        "transaction": next((name for name in names if _text(name)), None),
        "user": {member: data.get(f"user.{name}") for name, member in _USER.items()},
        "environment": data.get("sentry.environment"),
        "release": data.get("sentry.release"),
        "spans": below,
    }
    times: Members = {name: span[name] for name in ("start_timestamp", "timestamp") if name in span}
    trace = {name: value for name, value in span.items() if name not in times}
    return {**event, **times, "contexts": {"trace": trace}}


def _is_repeated(name: str, value: Any, first: Members) -> bool:
    """Return whether an attribute is one that SDKs repeat with each span of a trace, and says what the first says."""
    return name.startswith(_REPEATED) and name in first and first[name] == value


def _object(value: Any) -> Members:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if type(value) is str else ""


_NAMES = {"name": "description", "end_timestamp": "timestamp"}
_ATTRIBUTES = {"sentry.op": "op", "sentry.origin": "origin"}
_USER = {"id": "id", "email": "email", "name": "username", "ip_address": "ip_address"}
_REPEATED = ("sentry.", "user.", "user_agent.", "process.runtime.")
