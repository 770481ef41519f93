"""All that comes in: numbers over time, and item by item as it arrives."""

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from opensentry_ingest.reading import (
    IN_PERIOD,
    ORIGIN,
    Buckets,
    Connection,
    Period,
    Row,
    cursor_of,
    divide,
    fetch,
    values_of,
)


class Stats(NamedTuple):
    """Numbers of a period.

    Attributes:
        totals: of the period: errors, issues, new_issues, users (who had an error), transactions, failed_transactions,
            ai_generations, failed_ai_generations, tokens, cost_usd and computed_cost_usd (the part of it that is
            computed from prices). A cost that is not known is None.
        buckets: the parts of the period.
        rows: for each of them start, errors, transactions, failed_transactions, ai_generations, failed_ai_generations,
            tokens, cost_usd and computed_cost_usd.
    """

    totals: Row
    buckets: Buckets
    rows: list[Row]


def stats(connection: Connection, period: Period, step: timedelta, *, project_id: UUID | None = None) -> Stats:
    """Return how much came in, in all and by buckets of `step`."""
    divided = divide(period, step)
    zeros = dict.fromkeys(_COUNTS, 0)
    rows: list[Row] = [{"start": start, **zeros, **dict.fromkeys(_COSTS)} for start in divided.starts]
    values = {**period._asdict(), "project_id": project_id, "step": step, "origin": ORIGIN}
    for statement in (_ERRORS, _TRANSACTIONS, _AI_GENERATIONS):
        for counted in fetch(connection, statement, values):
            place = (counted.pop("bucket") - divided.starts[0]) // step
            rows[place] |= counted
    (totals,) = fetch(connection, _TOTALS, values)
    totals |= {name: sum(row[name] for row in rows) for name in _COUNTS}
    for name in _COSTS:
        costs = [row[name] for row in rows if row[name] is not None]
        totals[name] = sum(costs) if costs else None
    return Stats(totals, divided, rows)


_COUNTS = ("errors", "transactions", "failed_transactions", "ai_generations", "failed_ai_generations", "tokens")
_COSTS = ("cost_usd", "computed_cost_usd")

_ERRORS = f"""
    SELECT date_bin(%(step)s, received_at, %(origin)s) AS bucket, count(*) AS errors
    FROM opensentry.events
    WHERE {IN_PERIOD}
    GROUP BY bucket
"""

_TRANSACTIONS = f"""
    SELECT
        date_bin(%(step)s, received_at, %(origin)s) AS bucket, count(*) AS transactions,
        count(*) FILTER (WHERE status = 'error') AS failed_transactions
    FROM opensentry.transactions
    WHERE {IN_PERIOD}
    GROUP BY bucket
"""

_AI_GENERATIONS = """
    SELECT
        start AS bucket, sum(calls)::bigint AS ai_generations, sum(errors)::bigint AS failed_ai_generations,
        sum(total_tokens) AS tokens, sum(cost_usd) AS cost_usd, sum(computed_cost_usd) AS computed_cost_usd
    FROM opensentry.ai_generation_sums(%(since)s, %(until)s, %(step)s, %(project_id)s)
    GROUP BY start
"""

# Subqueries with DISTINCT, because count(DISTINCT) sorts, which takes several times as long.
_TOTALS = f"""
    SELECT issues, new_issues, users
    FROM (
        SELECT count(*) AS issues, count(*) FILTER (WHERE i.first_seen >= %(since)s) AS new_issues
        FROM (SELECT DISTINCT project_id, fingerprint FROM opensentry.events WHERE {IN_PERIOD}) AS e
        JOIN opensentry.issues AS i ON i.project_id = e.project_id AND i.fingerprint = e.fingerprint
            AND (%(project_id)s::uuid IS NULL OR i.project_id = %(project_id)s)
    ) AS of_issues, (
        SELECT count("key") AS users
        FROM (SELECT DISTINCT opensentry.user_key("user") AS "key" FROM opensentry.events WHERE {IN_PERIOD}) AS u
    ) AS of_users
"""


def clock(connection: Connection) -> datetime:
    """Return the time by the clock of PostgreSQL, which sets `received_at`."""
    (row,) = fetch(connection, "SELECT now()", {})
    now: datetime = row["now"]
    return now


def arrivals(
    connection: Connection,
    since: datetime,
    *,
    project_id: UUID | None = None,
    after: str | None = None,
    limit: int = 1000,
) -> tuple[list[Row], str | None]:
    """Return the errors, transactions and AI generations that were received from `since` on, in that order.

    An item that is committed late is received before others that were returned already: whoever follows asks again
    from a time before that, and skips what is known by (batch_id, position).

    Returns:
        Rows with kind, project, received_at, timestamp, batch_id, position, name (the title of an error, the model of
        an AI generation), status (the level of an error), duration_ms, tokens, cost_usd, cost_source (sent,
        computed or unknown), environment, release, fingerprint and trace_id; and the cursor of those that follow, or
        None.
    """
    received_at, batch_id, position = values_of(after, 3)
    values = {
        "project_id": project_id,
        "since": since,
        "received_at": received_at,
        "batch_id": batch_id,
        "position": position,
        "limit": limit,
    }
    rows = fetch(connection, _ARRIVALS, values)
    last = [rows[-1][name] for name in ("received_at", "batch_id", "position")] if len(rows) == limit else None
    return rows, cursor_of(*last) if last else None


def _arrivals(table: str, columns: str) -> str:
    return f"""
        (
            SELECT {columns}, project_id, received_at, timestamp, batch_id, position, environment, release, trace_id
            FROM opensentry.{table}
            WHERE received_at >= %(since)s
                AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
                AND (
                    %(received_at)s::timestamptz IS NULL
                    OR (received_at, batch_id, position)
                        > (%(received_at)s::timestamptz, %(batch_id)s::uuid, %(position)s::integer)
                )
            ORDER BY received_at, batch_id, position
            LIMIT %(limit)s
        )
    """


_ARRIVALS = f"""
    SELECT item.*, p.name AS project
    FROM (
        {
    _arrivals(
        "events",
        "'error' AS kind, opensentry.issue_title(exception_type, exception_value) AS name, level AS status, "
        "NULL::bigint AS duration_ms, NULL::bigint AS tokens, NULL::numeric AS cost_usd, "
        "NULL AS cost_source, fingerprint",
    )
}
        UNION ALL
        {_arrivals("transactions", "'transaction', name, status, duration_ms, NULL, NULL, NULL, NULL")}
        UNION ALL
        {
    _arrivals(
        "ai_generation_costs",
        "'ai_generation', model, status, latency_ms, total_tokens, cost_usd, cost_source, NULL",
    )
}
    ) AS item
    JOIN opensentry.projects AS p ON p.id = item.project_id
    ORDER BY received_at, batch_id, position
    LIMIT %(limit)s
"""
