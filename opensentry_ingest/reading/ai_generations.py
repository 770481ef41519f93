"""AI generations: what calls of language models cost, how long they take, and how many fail."""

from datetime import timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from opensentry_ingest.reading import (
    COST_USD,
    NOT_FLATTENED,
    ORIGIN,
    Buckets,
    Connection,
    Period,
    Row,
    buckets,
    divide,
    fetch,
    of_each_project,
)
from opensentry_ingest.reading.percentiles import part, percentiles

MODELS = 50
"""How many models are shown by name, of the dearest; strangers may send a new name with each call."""

CHARTED = 5
"""How many models have a part of the chart of their own."""

SAMPLE = 2000
"""The newest calls of each project that the keys of tags are taken from."""


class Costs(NamedTuple):
    """What was spent in a period, by model and over time.

    Attributes:
        totals: calls, failed, input_tokens, output_tokens, cached_input_tokens, total_tokens, cost_usd and
            calls_without_cost. What no client said is None.
        models: the same for each provider and model, the dearest first, with p50_ms, p95_ms, p50_first_token_ms and
            p95_first_token_ms, which are approximate: see `percentiles`. A provider and model of None are the others.
        buckets: the parts of the period: days, if it is longer than three.
        charted: the cost in each of them by model, of the dearest; None are the other models. A cost is None where
            there were calls, and no client said what they cost.
    """

    totals: Row
    models: list[Row]
    buckets: Buckets
    charted: dict[str | None, list[Decimal | None]]


_IN_PERIOD = """
    received_at >= %(since)s AND received_at < %(until)s
    AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
"""

_SUMS = (
    "calls",
    "failed",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "total_tokens",
    "cost_usd",
    "calls_without_cost",
)

_COLUMNS = ", ".join(f"sum({name}) AS {name}" for name in _SUMS)


def costs(connection: Connection, period: Period, *, project_id: UUID | None = None) -> Costs:
    """Return what was spent in a period, by model and over time."""
    divided = buckets(period)
    days = divide(period, timedelta(days=1))
    if period.until - period.since > timedelta(days=3) and len(days.starts) <= 62:
        divided = days
    values = {
        **period._asdict(),
        "project_id": project_id,
        "step": divided.step,
        "origin": ORIGIN,
        "models": MODELS,
    }
    rows = fetch(connection, _COSTS, values)
    models: dict[tuple[str | None, str | None], Row] = {}
    totals: Row = dict.fromkeys(_SUMS)
    for row in rows:
        model = models.setdefault((row["provider"], row["model"]), dict.fromkeys(_SUMS))
        for name in _SUMS:
            for each in (model, totals):
                each[name] = _sum(each[name], row[name])
    values["providers"] = [provider for provider, _ in models if provider is not None]
    values["names"] = [model for provider, model in models if provider is not None]
    parts: dict[tuple[str, str, bool], list[tuple[int | None, int, float]]] = {}
    for row in fetch(connection, _LATENCIES, values) if models else ():
        key = row["provider"], row["model"], row["is_latency"]
        parts.setdefault(key, []).append((row["part"], row["calls"], row["total_ms"]))
    for (provider, named), model in models.items():
        for kind, is_latency in (("ms", True), ("first_token_ms", False)):
            found = percentiles(parts.get((provider or "", named or "", is_latency), []), (0.5, 0.95))
            model[f"p50_{kind}"], model[f"p95_{kind}"] = found
    return Costs(
        totals,
        [{"provider": provider, "model": model, **row} for (provider, model), row in models.items()],
        divided,
        _charted(rows, divided),
    )


def _sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return one if other is None else other if one is None else one + other


def _charted(rows: list[Row], divided: Buckets) -> dict[str | None, list[Decimal | None]]:
    """Return the costs over time of the models that rows, the dearest first, are of."""
    names = list(dict.fromkeys(row["model"] for row in rows if row["model"] is not None and row["total_usd"]))[:CHARTED]
    charted: dict[str | None, list[Decimal | None]] = {}
    unknown = set()
    for row in rows:
        place = (row["bucket"] - divided.starts[0]) // divided.step
        if row["cost_usd"] is None:
            unknown.add(place)
            continue
        name = row["model"] if row["model"] in names else None
        series = charted.setdefault(name, [Decimal(0)] * len(divided.starts))
        series[place] = _sum(series[place], row["cost_usd"])
    for series in charted.values():
        for place in unknown:
            if not any(each[place] for each in charted.values()):
                series[place] = None
    if None in charted:
        charted[None] = charted.pop(None)
    return charted


# First by model and time, then the models beyond MODELS as one. Sums of tokens are numeric, so that no client makes one
# too large for its type.
_COSTS = f"""
    WITH
        counted AS (
            SELECT
                provider, model, bucket, count(*) AS calls, count(*) FILTER (WHERE status = 'error') AS failed,
                sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
                sum(cached_input_tokens) AS cached_input_tokens, sum(total_tokens) AS total_tokens,
                sum(cost_usd) AS cost_usd, count(*) - count(cost_usd) AS calls_without_cost
            FROM (
                SELECT
                    provider, model, date_bin(%(step)s, received_at, %(origin)s) AS bucket, status, input_tokens,
                    output_tokens, cached_input_tokens, total_tokens, {COST_USD} AS cost_usd, {NOT_FLATTENED}
                FROM opensentry.ai_generations
                WHERE {_IN_PERIOD}
            ) AS a
            GROUP BY provider, model, bucket
        ),
        ranked AS (
            SELECT
                provider, model, sum(cost_usd) AS total_usd,
                row_number() OVER (ORDER BY sum(cost_usd) DESC NULLS LAST, sum(calls) DESC, provider, model) AS rank
            FROM counted
            GROUP BY provider, model
        )
    SELECT
        CASE WHEN rank <= %(models)s THEN provider END AS provider,
        CASE WHEN rank <= %(models)s THEN model END AS model,
        bucket, min(rank) AS rank, sum(total_usd) AS total_usd, {_COLUMNS}
    FROM counted
    JOIN ranked USING (provider, model)
    GROUP BY 1, 2, bucket
    ORDER BY rank, bucket
"""

_LATENCIES = f"""
    SELECT provider, model, is_latency, part, count(*) AS calls, sum(ms)::double precision AS total_ms
    FROM (
        SELECT provider, model, is_latency, ms, {part("ms")} AS part, {NOT_FLATTENED}
        FROM opensentry.ai_generations
        CROSS JOIN LATERAL (VALUES (true, latency_ms), (false, time_to_first_token_ms)) AS v (is_latency, ms)
        WHERE {_IN_PERIOD} AND ms IS NOT NULL
    ) AS a
    WHERE (provider, model) IN (SELECT * FROM unnest(%(providers)s::text[], %(names)s::text[]))
    GROUP BY provider, model, is_latency, part
"""


def by_user(connection: Connection, period: Period, *, project_id: UUID | None = None, limit: int = 10) -> list[Row]:
    """Return the users whose calls cost most.

    Returns:
        Rows with user (None: calls without one), calls, total_tokens, cost_usd and calls_without_cost.
    """
    values = {**period._asdict(), "project_id": project_id, "limit": limit}
    return fetch(connection, _by('opensentry.user_key("user")', '"user"'), values)


def by_tag(
    connection: Connection, period: Period, key: str, *, project_id: UUID | None = None, limit: int = 10
) -> list[Row]:
    """Return the values of a tag whose calls cost most.

    Returns:
        Rows with value (None: calls without the tag), calls, total_tokens, cost_usd and calls_without_cost.
    """
    values = {**period._asdict(), "project_id": project_id, "key": key, "limit": limit}
    return fetch(connection, _by("tags ->> %(key)s", "value"), values)


def _by(expression: str, name: str) -> str:
    return f"""
        SELECT
            {name}, count(*) AS calls, sum(total_tokens) AS total_tokens, sum(cost_usd) AS cost_usd,
            count(*) - count(cost_usd) AS calls_without_cost
        FROM (
            SELECT {expression} AS {name}, total_tokens, {COST_USD} AS cost_usd, {NOT_FLATTENED}
            FROM opensentry.ai_generations
            WHERE {_IN_PERIOD}
        ) AS a
        GROUP BY {name}
        ORDER BY sum(cost_usd) DESC NULLS LAST, count(*) DESC, {name}
        LIMIT %(limit)s
    """


def tag_keys(connection: Connection, period: Period, *, project_id: UUID | None = None) -> list[str]:
    """Return the keys of the tags of the newest calls of a period, the most frequent first, at most 50."""
    newest, projects = of_each_project(connection, project_id, _NEWEST)
    values = {**period._asdict(), **projects, "sample": SAMPLE}
    return [row["key"] for row in fetch(connection, _TAG_KEYS.format(newest=newest), values)] if projects else []


# The primary key finds the newest.
_NEWEST = """
    SELECT tags
    FROM opensentry.ai_generations
    WHERE project_id = %(project)s AND received_at >= %(since)s AND received_at < %(until)s
    ORDER BY batch_id DESC
    LIMIT %(sample)s
"""

_TAG_KEYS = """
    SELECT key
    FROM {newest} AS newest, LATERAL jsonb_object_keys(tags) AS key
    WHERE jsonb_typeof(tags) = 'object'
    GROUP BY key
    ORDER BY count(*) DESC, key
    LIMIT 50
"""


def dearest(connection: Connection, period: Period, *, project_id: UUID | None = None, limit: int = 10) -> list[Row]:
    """Return the calls that cost most, of those whose cost is known.

    Returns:
        Rows with batch_id, position, received_at, provider, model, user, total_tokens, cost_usd, latency_ms, status and
        trace_id.
    """
    return fetch(connection, _DEAREST, {**period._asdict(), "project_id": project_id, "limit": limit})


_DEAREST = f"""
    SELECT
        batch_id, position, received_at, provider, model, opensentry.user_key("user") AS "user", total_tokens,
        {COST_USD} AS cost_usd, latency_ms, status, trace_id
    FROM opensentry.ai_generations
    WHERE {_IN_PERIOD} AND {COST_USD} IS NOT NULL
    ORDER BY cost_usd DESC, batch_id DESC, position
    LIMIT %(limit)s
"""
