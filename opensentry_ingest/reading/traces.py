"""A trace: the transactions, spans, AI generations and errors that share a trace id, as a tree."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from opensentry_ingest.reading import Connection, Row, fetch


class Trace(NamedTuple):
    """What belongs to a trace, in the order of a waterfall: a row is followed by what happened within it.

    Attributes:
        started_at: the earliest start, by the clients' clocks; None if no start is known.
        duration_ms: from there to the latest end.
        rows: each with kind (error, transaction, span or ai_generation), depth (from 0), offset_ms (from the start of
            the trace; None if its client did not say when it began), duration_ms (None for an error), status, name, op,
            project_id, project, batch_id, position, span_index, fingerprint (of an error), span_id, parent_span_id,
            started_at, received_at, cost_usd and cost_source (of an AI generation: sent, computed or unknown).
        cut: whether there is more than `limit` rows, of which the others are left out.
    """

    started_at: datetime | None
    duration_ms: float
    rows: list[Row]
    cut: bool


def trace(connection: Connection, trace_id: str, limit: int = 2000) -> Trace:
    """Return a trace; it has no rows if nothing with this id is stored, or the id has over 200 characters."""
    # Every project is asked, because the indexes lead with it, and by a list, because that is a condition of the index.
    projects = {row["id"]: row["name"] for row in fetch(connection, "SELECT id, name FROM opensentry.projects", {})}
    values = {"projects": list(projects), "trace_id": trace_id, "limit": limit + 1}
    found = fetch(connection, _ITEMS, values)
    found += _spans(connection, [row for row in found if row["kind"] == "transaction"], limit + 1)
    for row in found:
        row["started_at"] = _started_at(row.pop("timestamp"), row.pop("before_ms"))
    # What a span or an error belongs to comes before it, so that it is not what is left out.
    found.sort(key=_order)
    rows = _as_tree(found[:limit])
    started_at = min((row["started_at"] for row in rows if row["started_at"]), default=None)
    duration_ms = 0.0
    for row in rows:
        row["project"] = projects[row["project_id"]]
        row["offset_ms"] = None
        if row["started_at"] and started_at:
            row["offset_ms"] = (row["started_at"] - started_at).total_seconds() * 1000
            duration_ms = max(duration_ms, row["offset_ms"] + (row["duration_ms"] or 0))
    return Trace(started_at, duration_ms, rows, len(found) > limit)


# Each kind is bounded by itself, so that PostgreSQL stops there: nothing keeps a client from one trace id for all that
# it sends. The condition on the length is that of the indexes.
_ITEMS = """
    (
        SELECT
            'error' AS kind, project_id, batch_id, position, NULL::integer AS span_index, fingerprint, received_at,
            timestamp, 0::bigint AS before_ms, NULL::bigint AS duration_ms, level AS status,
            span_id, NULL AS parent_span_id, NULL AS op,
            opensentry.issue_title(exception_type, exception_value) AS name, NULL::numeric AS cost_usd,
            NULL AS cost_source
        FROM opensentry.events
        WHERE project_id = ANY(%(projects)s) AND trace_id = %(trace_id)s AND length(trace_id) <= 200
        LIMIT %(limit)s
    )
    UNION ALL
    (
        SELECT
            'transaction', project_id, batch_id, position, NULL, NULL, received_at,
            timestamp, duration_ms, duration_ms, status,
            span_id, parent_span_id, op, name, NULL, NULL
        FROM opensentry.transactions
        WHERE project_id = ANY(%(projects)s) AND trace_id = %(trace_id)s AND length(trace_id) <= 200
        LIMIT %(limit)s
    )
    UNION ALL
    (
        SELECT
            'ai_generation', project_id, batch_id, position, NULL, NULL, received_at,
            timestamp, coalesce(latency_ms, 0), latency_ms, status,
            span_id, NULL, provider, model, cost_usd, cost_source
        FROM opensentry.ai_generation_costs
        WHERE project_id = ANY(%(projects)s) AND trace_id = %(trace_id)s AND length(trace_id) <= 200
        LIMIT %(limit)s
    )
"""


def _spans(connection: Connection, transactions: list[Row], limit: int) -> list[Row]:
    """Return the spans of transactions, as other items."""
    if not transactions:
        return []
    of = {(row["batch_id"], row["position"]): row for row in transactions}
    received = [row["received_at"] for row in transactions]
    values = {
        "projects": list({row["project_id"] for row in transactions}),
        "batches": [row["batch_id"] for row in transactions],
        "positions": [row["position"] for row in transactions],
        "first": min(received), "last": max(received), "limit": limit,
    }  # fmt: skip
    spans = fetch(connection, _SPANS, values)
    for span in spans:
        transaction = of[span["batch_id"], span["position"]]
        start_ms = span.pop("start_ms")
        span["timestamp"] = transaction["timestamp"]
        span["before_ms"] = None if start_ms is None else transaction["duration_ms"] - start_ms
    return spans


OF_TRANSACTIONS = """
    project_id = ANY(%(projects)s) AND batch_id = ANY(%(batches)s)
    AND received_at >= %(first)s AND received_at <= %(last)s
    AND (batch_id, position) IN (SELECT * FROM unnest(%(batches)s::uuid[], %(positions)s::integer[]))
"""
"""The condition on spans: the first lines are those of the primary key and of the partitions."""

_SPANS = f"""
    SELECT
        'span' AS kind, project_id, batch_id, position, span_index, NULL AS fingerprint, received_at, start_ms,
        duration_ms, status, span_id, parent_span_id, op, coalesce(description, op) AS name, NULL AS cost_usd,
        NULL AS cost_source
    FROM opensentry.spans
    WHERE {OF_TRANSACTIONS}
    LIMIT %(limit)s
"""

_KINDS = ("transaction", "span", "ai_generation", "error")


def _started_at(timestamp: datetime, before_ms: int | None) -> datetime | None:
    # In Python, because a duration of a million years is valid, and makes PostgreSQL refuse the whole query.
    try:
        return None if before_ms is None else timestamp - timedelta(milliseconds=before_ms)
    except OverflowError:
        return None


def _order(row: Row) -> tuple[Any, ...]:
    started_at = row["started_at"] or row["received_at"]
    return _KINDS.index(row["kind"]), started_at, row["batch_id"], row["position"], row["span_index"] or 0


def _as_tree(rows: list[Row]) -> list[Row]:
    """Return the rows depth first, each with its depth.

    The parent of a row is what has the span id that it names, best in its own transaction; else, of a span, its
    transaction. What has no parent is at the top. Span ids are strangers' text: they may repeat, or name each other in
    a circle.
    """
    by_span: dict[object, Row] = {}
    transactions: dict[tuple[UUID, int], Row] = {}
    for row in rows:
        item = row["batch_id"], row["position"]
        if row["kind"] == "transaction":
            transactions[item] = row
        if row["span_id"] is not None and row["kind"] in ("transaction", "span"):
            by_span.setdefault(row["span_id"], row)
            by_span.setdefault((*item, row["span_id"]), row)
    children: dict[int | None, list[Row]] = {}
    for row in rows:
        item = row["batch_id"], row["position"]
        within = row["parent_span_id"] if row["kind"] in ("transaction", "span") else row["span_id"]
        parent = by_span.get((*item, within)) or by_span.get(within)
        if parent is None and row["kind"] == "span":
            parent = transactions.get(item)
        children.setdefault(None if parent is None else id(parent), []).append(row)

    ordered: list[Row] = []
    placed: set[int] = set()
    # After those at the top come those in circles, which nothing at the top leads to.
    for top in [*sorted(children.get(None, ()), key=_start), *rows]:
        stack = [(top, 0)]
        while stack:
            row, depth = stack.pop()
            if id(row) in placed:
                continue
            placed.add(id(row))
            ordered.append(row)
            row["depth"] = depth
            within_row = sorted(children.get(id(row), ()), key=_start, reverse=True)
            stack += [(child, depth + 1) for child in within_row]
    return ordered


def _start(row: Row) -> tuple[datetime, tuple[Any, ...]]:
    return row["started_at"] or row["received_at"], _order(row)
