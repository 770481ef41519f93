"""Transactions: how many of each name there are, how long they take, and how many fail."""

from typing import NamedTuple
from uuid import UUID

from opensentry_ingest.reading import (
    IN_PERIOD,
    NOT_FLATTENED,
    ORIGIN,
    Buckets,
    Connection,
    Page,
    Period,
    Row,
    buckets,
    cursor_of,
    fetch,
    values_of,
)
from opensentry_ingest.reading.percentiles import part, percentile, summed
from opensentry_ingest.reading.traces import OF_TRANSACTIONS

SORTS = ("total_ms", "count", "failure_rate", "p95_ms")

SAMPLE = 1000
"""The newest transactions whose spans are counted: a bound on the time that it takes."""

EDGES = [factor * 10**power for power in range(9) for factor in (1, 2, 5)]
"""Where the bars of a histogram of durations begin, in milliseconds; before the first is one more."""


class Chart(NamedTuple):
    """Transactions over time: for each bucket the values; a percentile is None where there are none."""

    buckets: Buckets
    counts: list[int]
    failed: list[int]
    p50_ms: list[float | None]
    p95_ms: list[float | None]


class Summary(NamedTuple):
    """The transactions of one name in a period.

    Attributes:
        totals: count, failed, total_ms, p50_ms, p95_ms and p99_ms.
        chart: the same over time.
        histogram: rows with from_ms, below_ms (None: no limit) and count, without gaps.
    """

    totals: Row
    chart: Chart
    histogram: list[Row]


_OF_NAME = f"{IN_PERIOD} AND name = %(name)s"


def _list(sort: str) -> str:
    return f"""
        WITH
            histogram AS (
                SELECT
                    project_id, name, part, count(*) AS count,
                    count(*) FILTER (WHERE status = 'error') AS failed,
                    sum(duration_ms)::double precision AS total_ms
                FROM (
                    SELECT project_id, name, {part("duration_ms")} AS part, status, duration_ms, {NOT_FLATTENED}
                    FROM opensentry.transactions
                    WHERE {IN_PERIOD}
                ) AS t
                GROUP BY project_id, name, part
            ),
            named AS (
                SELECT
                    md5(project_id::text || name)::uuid AS id, project_id, name, sum(count)::bigint AS count,
                    sum(failed)::bigint AS failed, (sum(failed) / sum(count))::double precision AS failure_rate,
                    sum(total_ms) AS total_ms,
                    {percentile(0.5)} AS p50_ms, {percentile(0.95)} AS p95_ms, {percentile(0.99)} AS p99_ms
                FROM {summed("histogram", "project_id, name")}
                GROUP BY project_id, name
            )
        SELECT n.*, p.name AS project
        FROM named AS n
        JOIN opensentry.projects AS p ON p.id = n.project_id
        WHERE %(value)s::double precision IS NULL
            OR (n.{sort}::double precision, n.id) < (%(value)s::double precision, %(id)s::uuid)
        ORDER BY n.{sort}::double precision DESC, n.id DESC
        LIMIT %(limit)s
    """


_LISTS = {sort: _list(sort) for sort in SORTS}


def transactions(
    connection: Connection,
    period: Period,
    *,
    project_id: UUID | None = None,
    sort: str = "total_ms",
    after: str | None = None,
    limit: int = 50,
) -> Page:
    """Return the transactions of a period by name, the greatest of `sort` first.

    Args:
        connection: where they are stored.
        period: of which transactions count.
        project_id: of one project; default: of all.
        sort: one of SORTS.
        after: the cursor of the page before, which had the same filters.
        limit: how many rows, at most.

    Returns:
        Rows with project_id, project, name, count, failed, failure_rate (from 0 to 1), per_minute, total_ms, p50_ms,
        p95_ms and p99_ms. The percentiles are approximate: see `percentiles`.
    """
    value, last = values_of(after, 2)
    values = {**period._asdict(), "project_id": project_id, "value": value, "id": last, "limit": limit + 1}
    rows = fetch(connection, _LISTS[sort], values)
    following = cursor_of(rows[limit - 1][sort], rows[limit - 1]["id"]) if len(rows) > limit else None
    for row in rows:
        del row["id"]
        row["per_minute"] = row["count"] / minutes(period)
    return Page(rows[:limit], following)


def minutes(period: Period) -> float:
    """Return how long a period is."""
    return (period.until - period.since).total_seconds() / 60


def chart(connection: Connection, period: Period, *, project_id: UUID | None = None) -> Chart:
    """Return all transactions of a period over time."""
    divided = buckets(period)
    values = {**period._asdict(), "project_id": project_id, "step": divided.step, "origin": ORIGIN}
    # PostgreSQL expects five times the groups that there are, and would not let several processes count a week.
    return _chart(divided, fetch(connection, _CHART, values, parallel_tuple_cost="0.05"))


_COUNTED = """
    count(*) AS count, count(*) FILTER (WHERE status = 'error') AS failed,
    sum(duration_ms)::double precision AS total_ms
"""

_CHART = f"""
    WITH histogram AS MATERIALIZED (
        SELECT bucket, part, {_COUNTED}
        FROM (
            SELECT
                date_bin(%(step)s, received_at, %(origin)s) AS bucket, {part("duration_ms")} AS part,
                status, duration_ms, {NOT_FLATTENED}
            FROM opensentry.transactions
            WHERE {IN_PERIOD}
        ) AS t
        GROUP BY bucket, part
    )
    SELECT
        bucket, sum(count)::bigint AS count, sum(failed)::bigint AS failed,
        {percentile(0.5)} AS p50_ms, {percentile(0.95)} AS p95_ms
    FROM {summed("histogram", "bucket")}
    GROUP BY bucket
"""


def summary(connection: Connection, period: Period, name: str, *, project_id: UUID | None = None) -> Summary | None:
    """Return what is known of the transactions of one name in a period; None if there are none."""
    divided = buckets(period)
    values = {
        **period._asdict(),
        "project_id": project_id,
        "name": name,
        "step": divided.step,
        "origin": ORIGIN,
        "edges": EDGES,
    }
    rows = fetch(connection, _SUMMARY, values)
    if not rows:
        return None
    (totals,) = (row for row in rows if row["bucket"] is None and row["bar"] is None)
    counts = {row["bar"]: row["count"] for row in rows if row["bar"] is not None}
    bars = {bar: counts.get(bar, 0) for bar in range(min(counts), max(counts) + 1)}
    histogram = [
        {
            "from_ms": EDGES[bar - 1] if bar else 0,
            "below_ms": EDGES[bar] if bar < len(EDGES) else None,
            "count": count,
        }
        for bar, count in bars.items()
    ]
    names = ("count", "failed", "total_ms", "p50_ms", "p95_ms", "p99_ms")
    return Summary(
        {name: totals[name] for name in names},
        _chart(divided, [row for row in rows if row["bucket"] is not None]),
        histogram,
    )


def _histogram(key: str) -> str:
    """Return the subquery with the parts of the durations of each bucket, or of all with an empty key."""
    return f"""(
        SELECT {key} part, sum(count) AS count, sum(failed) AS failed, sum(total_ms) AS total_ms
        FROM counted
        GROUP BY {key} part
    ) AS h"""


# One pass for the rows of each bucket, of each bar, and of the whole.
_SUMMARY = f"""
    WITH counted AS MATERIALIZED (
        SELECT bucket, part, bar, {_COUNTED}
        FROM (
            SELECT
                date_bin(%(step)s, received_at, %(origin)s) AS bucket, {part("duration_ms")} AS part,
                width_bucket(duration_ms, %(edges)s::bigint[]) AS bar, status, duration_ms, {NOT_FLATTENED}
            FROM opensentry.transactions
            WHERE {_OF_NAME}
        ) AS t
        GROUP BY bucket, part, bar
    )
    SELECT
        bucket, NULL::integer AS bar, sum(count)::bigint AS count, sum(failed)::bigint AS failed,
        sum(total_ms) AS total_ms,
        {percentile(0.5)} AS p50_ms, {percentile(0.95)} AS p95_ms, {percentile(0.99)} AS p99_ms
    FROM {summed(_histogram("bucket,"), "bucket")}
    GROUP BY bucket
    UNION ALL
    SELECT NULL, bar, sum(count)::bigint, NULL, NULL, NULL, NULL, NULL
    FROM counted
    GROUP BY bar
    UNION ALL
    SELECT
        NULL, NULL, sum(count)::bigint, sum(failed)::bigint, sum(total_ms),
        {percentile(0.5)}, {percentile(0.95)}, {percentile(0.99)}
    FROM {summed(_histogram(""), "")}
    HAVING count(*) > 0
"""


def slowest(
    connection: Connection, period: Period, name: str, *, project_id: UUID | None = None, limit: int = 10
) -> list[Row]:
    """Return the slowest transactions of one name: duration_ms, status, received_at, trace_id, environment, release."""
    values = {**period._asdict(), "project_id": project_id, "name": name, "limit": limit}
    return fetch(connection, _SLOWEST, values)


_SLOWEST = f"""
    SELECT project_id, batch_id, position, duration_ms, status, received_at, trace_id, environment, release
    FROM opensentry.transactions
    WHERE {_OF_NAME}
    ORDER BY duration_ms DESC, batch_id DESC, position
    LIMIT %(limit)s
"""


def spans(
    connection: Connection, period: Period, name: str, *, project_id: UUID | None = None, limit: int = 15
) -> list[Row]:
    """Return the kinds of spans that took the most time in the SAMPLE newest transactions of one name.

    Returns:
        Rows with op, description, count, total_ms and transactions (in which such a span is).
    """
    values = {**period._asdict(), "project_id": project_id, "name": name, "sample": SAMPLE}
    (sample,) = fetch(connection, _SAMPLE, values)
    return fetch(connection, _SPANS, {**sample, "limit": limit}) if sample["batches"] else []


# The values of OF_TRANSACTIONS, as PostgreSQL writes them: a thousand rows take Python longer than the query.
_SAMPLE = f"""
    SELECT
        array_agg(DISTINCT project_id)::text AS projects, array_agg(batch_id)::text AS batches,
        array_agg(position)::text AS positions, min(received_at) AS first, max(received_at) AS last
    FROM (
        SELECT project_id, batch_id, position, received_at
        FROM opensentry.transactions
        WHERE {_OF_NAME}
        ORDER BY received_at DESC
        LIMIT %(sample)s
    ) AS newest
"""

_SPANS = f"""
    SELECT
        op, description, sum(count)::bigint AS count, sum(total_ms)::double precision AS total_ms,
        count(*) AS transactions
    FROM (
        SELECT op, description, count(*) AS count, sum(duration_ms) AS total_ms
        FROM opensentry.spans
        WHERE {OF_TRANSACTIONS} AND span_index < 1000
        GROUP BY project_id, batch_id, position, op, description
    ) AS of_transaction
    GROUP BY op, description
    ORDER BY total_ms DESC, op, description
    LIMIT %(limit)s
"""


def _chart(divided: Buckets, rows: list[Row]) -> Chart:
    number = len(divided.starts)
    found = Chart(divided, [0] * number, [0] * number, [None] * number, [None] * number)

    for row in rows:
        place = (row["bucket"] - divided.starts[0]) // divided.step
        found.counts[place], found.failed[place] = row["count"], row["failed"]
        found.p50_ms[place], found.p95_ms[place] = row["p50_ms"], row["p95_ms"]
    return found
