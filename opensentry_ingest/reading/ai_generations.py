"""AI generations: what calls of language models cost, how long they take, and how many fail."""

from datetime import timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from opensentry_ingest.reading import (
    IN_PERIOD,
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
        totals: calls, failed, input_tokens, output_tokens, cached_input_tokens, total_tokens, cost_usd,
            computed_cost_usd (the part of it that is computed from prices), calls_without_cost and calls_without_price
            (those of them whose model has none). What is not known is None.
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


_SUMS = (
    "calls",
    "failed",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "total_tokens",
    "cost_usd",
    "computed_cost_usd",
    "calls_without_cost",
    "calls_without_price",
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
            model[name] = _sum(model[name], row[name])
    for model in models.values():
        for name in _SUMS:
            totals[name] = _sum(totals[name], model[name])
    # If all are shown by name, there is nothing to leave out.
    others = (None, None) in models
    values["providers"] = [provider for provider, _ in models if provider is not None] if others else None
    values["names"] = [model for provider, model in models if provider is not None] if others else None
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


# The sums by model and time, then those of the models beyond MODELS as one.
_COSTS = f"""
    WITH
        counted AS (
            SELECT *, start AS bucket, errors AS failed
            FROM opensentry.ai_generation_sums(%(since)s, %(until)s, %(step)s, %(project_id)s)
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

# One pass for both: by pairs of parts first, of which there are few, and as one key, because PostgreSQL would expect as
# many groups of several keys as there are rows. It is the first key, because numbers are compared fastest. A part of -1
# is that of calls without the number.
_LATENCIES = f"""
    WITH pairs AS MATERIALIZED (
        SELECT provider, model, pair, count(*) AS calls, sum(latency_ms) AS latency_ms, sum(first_ms) AS first_ms
        FROM (
            SELECT
                provider, model, latency_ms, time_to_first_token_ms AS first_ms, {NOT_FLATTENED},
                1024 * (1 + coalesce({part("latency_ms")}, -1)) + 1 + coalesce({part("time_to_first_token_ms")}, -1)
                    AS pair
            FROM opensentry.ai_generations
            WHERE {IN_PERIOD}
        ) AS a
        WHERE %(providers)s::text[] IS NULL
            OR (provider, model) IN (SELECT * FROM unnest(%(providers)s::text[], %(names)s::text[]))
        GROUP BY pair, model, provider
    )
    SELECT
        provider, model, true AS is_latency, pair / 1024 AS part, sum(calls)::bigint AS calls,
        sum(latency_ms)::double precision AS total_ms
    FROM pairs
    WHERE pair / 1024 > 0
    GROUP BY provider, model, pair / 1024
    UNION ALL
    SELECT
        provider, model, false, pair %% 1024, sum(calls)::bigint, sum(first_ms)::double precision
    FROM pairs
    WHERE pair %% 1024 > 0
    GROUP BY provider, model, pair %% 1024
"""


def prices(connection: Connection, period: Period, *, project_id: UUID | None = None) -> str | None:
    """Return the prices that the calls of a period need, as PostgreSQL wrote them; None if they need none.

    They are looked up by reading the period, so once for a page.
    """
    (row,) = fetch(
        connection,
        "SELECT opensentry.ai_generation_prices(%(since)s, %(until)s, %(project_id)s)::text AS prices",
        {**period._asdict(), "project_id": project_id},
    )
    found: str | None = row["prices"]
    return found


def by_user(
    connection: Connection, period: Period, prices: str | None, *, project_id: UUID | None = None, limit: int = 10
) -> list[Row]:
    """Return the users whose calls cost most.

    Returns:
        Rows with user (None: calls without one), calls, total_tokens, cost_usd, computed_cost_usd and
        calls_without_cost.
    """
    values = {**period._asdict(), "prices": prices, "project_id": project_id, "limit": limit}
    return fetch(connection, _by('"user"', '"user"'), values)


def by_tag(
    connection: Connection,
    period: Period,
    prices: str | None,
    key: str,
    *,
    project_id: UUID | None = None,
    limit: int = 10,
) -> list[Row]:
    """Return the values of a tag whose calls cost most.

    Returns:
        Rows with value (None: calls without the tag), calls, total_tokens, cost_usd, computed_cost_usd and
        calls_without_cost.
    """
    values = {**period._asdict(), "prices": prices, "project_id": project_id, "key": key, "limit": limit}
    return fetch(connection, _by("tags ->> %(key)s", "value", NOT_FLATTENED), values)


def _by(expression: str, name: str, fence: str = "NULL") -> str:
    # Of users, unlike tags, PostgreSQL knows about how many there are, and so when several processes do not help.
    return f"""
        SELECT
            {name}, count(*) AS calls, sum(total_tokens) AS total_tokens, sum(cost_usd) AS cost_usd,
            sum(cost_usd) FILTER (WHERE cost_source = 'computed') AS computed_cost_usd,
            count(*) - count(cost_usd) AS calls_without_cost
        FROM (
            SELECT {expression} AS {name}, total_tokens, cost_usd, cost_source, {fence}
            FROM opensentry.ai_generation_costs_at(%(since)s, %(until)s, %(prices)s::jsonb, %(project_id)s)
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


def dearest(
    connection: Connection, period: Period, prices: str | None, *, project_id: UUID | None = None, limit: int = 10
) -> list[Row]:
    """Return the calls that cost most, of those whose cost is known.

    Returns:
        Rows with batch_id, position, received_at, provider, model, user, total_tokens, cost_usd, cost_source (sent or
        computed), latency_ms, status and trace_id.
    """
    return fetch(connection, _DEAREST, {**period._asdict(), "prices": prices, "project_id": project_id, "limit": limit})


_DEAREST = """
    SELECT
        batch_id, position, received_at, provider, model, "user", total_tokens, cost_usd, cost_source, latency_ms,
        status, trace_id
    FROM opensentry.ai_generation_costs_at(%(since)s, %(until)s, %(prices)s::jsonb, %(project_id)s)
    WHERE cost_usd IS NOT NULL
    ORDER BY cost_usd DESC, batch_id DESC, position
    LIMIT %(limit)s
"""


def without_price(
    connection: Connection, period: Period, *, project_id: UUID | None = None, limit: int = 50
) -> list[Row]:
    """Return the models whose calls have no cost because no price was valid, those with most tokens first.

    Returns:
        Rows with provider, model, calls and total_tokens.
    """
    values = {**period._asdict(), "project_id": project_id, "limit": limit}
    return fetch(connection, _WITHOUT_PRICE, values)


_WITHOUT_PRICE = """
    SELECT provider, model, sum(calls_without_price)::bigint AS calls, sum(tokens_without_price) AS total_tokens
    FROM opensentry.ai_generation_sums(%(since)s, %(until)s, '1 day', %(project_id)s)
    WHERE calls_without_price > 0
    GROUP BY provider, model
    ORDER BY total_tokens DESC, provider, model
    LIMIT %(limit)s
"""
