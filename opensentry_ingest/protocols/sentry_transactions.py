"""Transactions of Sentry's SDKs as transaction items, and the calls of language models among their spans.

The rules of `sentry_conversion` hold here too.
"""

from datetime import datetime
from typing import Any, NamedTuple

from opensentry_ingest.protocols import gen_ai, traces
from opensentry_ingest.protocols.sentry_conversion import (
    LARGEST,
    UNCONVERTED,
    Conversion,
    Members,
    moment,
    own_names,
    scalar,
    string,
    take_common,
    trace_context,
)

NO_NAME = "<unlabeled transaction>"
"""What Sentry calls a transaction without a name."""


class _Span(NamedTuple):
    """What the counting of calls needs of a span. Its times are microseconds."""

    span_id: str
    parent_id: str
    start: int
    end: int
    scope: str
    failed: bool
    attributes: Members


def transaction_items(event: Members, fallback_trace_id: str) -> list[Members]:
    """Return a transaction as items: itself, then the calls of language models that it consists of.

    Args:
        event: the transaction.
        fallback_trace_id: what correlates its parts if it has no trace.
    """
    done = Conversion(event, _TRANSACTION)
    item, rest = done.item, done.rest
    item["type"] = "transaction"
    if rest.get("type") == "transaction":
        del rest["type"]
    began, ended = moment(rest.get("start_timestamp")), moment(rest.get("timestamp"))
    done.take("transaction", string, "name")
    item.setdefault("name", NO_NAME)
    take_common(done)
    trace = trace_context(rest)
    for name, member in (("parent_span_id", "parentSpanId"), ("op", "op")):
        if type(trace.get(name)) is str:
            item[member] = trace[name]
    item.setdefault("traceId", fallback_trace_id)
    item["durationMs"] = _milliseconds(began, ended)
    status = _status(trace.get("status"))
    if status:
        item["status"] = status
    listed = rest.pop("spans", None)
    # An object that is none, such as null, cannot be a span.
    spans = [span for span in listed if _is_span(span)] if isinstance(listed, list) else []
    wrong = [span for span in listed if span is not None and not _is_span(span)] if isinstance(listed, list) else listed
    if spans:
        item["spans"] = [_span(span, began, item["traceId"]) for span in spans]
    root = {**trace, "start_timestamp": event.get("start_timestamp"), "timestamp": event.get("timestamp")}
    calls = _calls([root, *spans], item)
    item = done.finish()
    if wrong:
        item.setdefault(UNCONVERTED, {})["spans"] = wrong
    return [item, *calls]


def _is_span(value: Any) -> bool:
    return isinstance(value, dict) and type(value.get("span_id")) is str


def _span(source: Members, transaction_began: datetime | None, trace_id: str) -> Members:
    done = Conversion(source, _SPAN)
    item, rest = done.item, done.rest
    began, ended = moment(rest.get("start_timestamp")), moment(rest.get("timestamp"))
    if began and ended:
        del rest["timestamp"]
        if transaction_began:
            del rest["start_timestamp"]
            item["startMs"] = _milliseconds(transaction_began, began)
    if rest.get("trace_id") == trace_id:
        del rest["trace_id"]
    item["durationMs"] = _milliseconds(began, ended)
    done.take("span_id", string, "spanId")
    done.take("parent_span_id", string, "parentSpanId")
    done.take("op", string)
    item.setdefault("op", "default")
    done.take("description", scalar)
    status = _status(rest.get("status"))
    if status:
        item["status"] = status
        if rest["status"] == status:
            del rest["status"]
    return done.finish()


def _calls(spans: list[Members], transaction: Members) -> list[Members]:
    """Return the spans that are calls of language models as AI generation items.

    Two integrations may describe one call. It counts once, by the rule of `traces.calls_of`.
    """
    calls = [index for index, span in enumerate(spans) if _is_call(span)]
    if len(calls) > 1:
        trace = [_traced(span) for span in spans]
        calls = traces.calls_of(trace, traces.parents_of(trace), calls, lambda index: _is_step(spans[index]))
    shared: Members = {}
    for name in ("traceId", "environment", "release") if calls else ():
        value = transaction.get(name, "")
        if 0 < len(value) <= gen_ai.MAX_CHARACTERS:
            shared[name] = value
    return [_generation(spans[index], shared) for index in calls]


def _traced(span: Members) -> _Span:
    span_id, parent_id, scope = (
        value if type(value) is str else "" for value in map(span.get, ("span_id", "parent_span_id", "origin"))
    )
    moments = (moment(span.get(name)) for name in ("start_timestamp", "timestamp"))
    start, end = (int(when.timestamp() * 1_000_000) if when else 0 for when in moments)
    return _Span(span_id, parent_id, start, end, scope, _failed(span), _attributes(span))


def _attributes(span: Members) -> Members:
    data = span.get("data")
    return data if isinstance(data, dict) else {}


def _is_call(span: Members) -> bool:
    op = span.get("op")
    if isinstance(op, str) and op.startswith("gen_ai."):
        return op.removeprefix("gen_ai.") in gen_ai.OPERATIONS
    operation = _attributes(span).get("gen_ai.operation.name")
    return isinstance(operation, str) and operation in gen_ai.OPERATIONS


def _is_step(span: Members) -> bool:
    if _is_call(span):
        return False
    op = span.get("op")
    return (isinstance(op, str) and op.startswith("gen_ai.")) or gen_ai.is_step(_attributes(span))


def _failed(span: Members) -> bool:
    return _status(span.get("status")) not in (None, "ok") or bool(_attributes(span).get("error.type"))


def _generation(span: Members, shared: Members) -> Members:
    attributes = _attributes(span)
    item = {**gen_ai.generation(attributes), **shared}
    began, ended = moment(span.get("start_timestamp")), moment(span.get("timestamp"))
    if began and ended:
        item["latencyMs"] = _milliseconds(began, ended)
    if ended:
        item["timestamp"] = ended.isoformat()
    if isinstance(span.get("span_id"), str):
        item["spanId"] = span["span_id"]
    if _failed(span):
        item["status"] = "error"
    return item


def _milliseconds(began: datetime | None, ended: datetime | None) -> int:
    """Return the time between two moments; 0 if one is unknown or they are the wrong way round."""
    return min(max(0, round((ended - began).total_seconds() * 1000)), LARGEST) if began and ended else 0


def _status(value: Any) -> str | None:
    """Return how an operation ended, of which Sentry knows more ways; None if that is unknown."""
    if type(value) is not str or value in ("", "unknown", "unset"):
        return None
    return value if value in ("ok", "cancelled") else "error"


_TRANSACTION = own_names("transaction-item.json")
_SPAN = own_names("span.json")
