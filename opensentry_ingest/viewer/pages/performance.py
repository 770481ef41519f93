"""The pages of transactions: all names, and one."""

from typing import Any

from opensentry_ingest.reading import Connection
from opensentry_ingest.reading import transactions as reading
from opensentry_ingest.viewer import charts
from opensentry_ingest.viewer.errors import BadRequest
from opensentry_ingest.viewer.request import Request


def performance(request: Request, connection: Connection) -> dict[str, Any]:
    """Return the transactions of the period by name, and all of them over time."""
    page = reading.transactions(
        connection,
        request.period,
        project_id=request.project_id,
        sort=request.choice("sort", reading.SORTS) or reading.SORTS[0],
        after=request.query.get("after"),
    )
    return {
        "period": request.period._asdict(),
        **_charts(reading.chart(connection, request.period, project_id=request.project_id)),
        "transactions": page.rows,
        "after": page.after,
    }


def transaction(request: Request, connection: Connection) -> dict[str, Any]:
    """Return the transactions of one name: over time, by duration, the slowest, and what takes the time in them."""
    name = request.query.get("name")
    if not name:
        raise BadRequest("The parameter name is the name of a transaction.")
    period, project_id = request.period, request.project_id
    data = {"period": period._asdict(), "name": name}
    found = reading.summary(connection, period, name, project_id=project_id)
    if found is None:
        return {**data, "totals": None}
    return {
        **data,
        "totals": {**found.totals, "per_minute": found.totals["count"] / reading.minutes(period)},
        **_charts(found.chart),
        "histogram": found.histogram,
        "slowest": reading.slowest(connection, period, name, project_id=project_id),
        "spans": reading.spans(connection, period, name, project_id=project_id),
        "sample": min(found.totals["count"], reading.SAMPLE),
    }


def _charts(chart: reading.Chart) -> dict[str, charts.Data]:
    passed = [count - failed for count, failed in zip(chart.counts, chart.failed, strict=True)]
    return {
        "counts": charts.data(chart.buckets, {"not failed": passed, "failed": chart.failed}),
        "durations": charts.data(chart.buckets, {"p50": chart.p50_ms, "p95": chart.p95_ms}),
    }
