"""The page of AI generations: what calls of language models cost."""

from typing import Any

from opensentry_ingest.reading import Connection
from opensentry_ingest.reading import ai_generations as reading
from opensentry_ingest.viewer import charts
from opensentry_ingest.viewer.request import Request


def ai_generations(request: Request, connection: Connection) -> dict[str, Any]:
    """Return what was spent in the period: over time, by model, by user, by a tag, and the dearest calls."""
    period, project_id, tag = request.period, request.project_id, request.query.get("tag")
    data: dict[str, Any] = {"period": period._asdict()}
    costs = reading.costs(connection, period, project_id=project_id)
    if not costs.models:
        return {**data, "totals": None}
    totals = costs.totals
    # If every client sent its costs, nothing is looked up.
    needs_prices = totals["calls_without_cost"] or totals["computed_cost_usd"] is not None
    prices = reading.prices(connection, period, project_id=project_id) if needs_prices else None
    return {
        **data,
        "totals": totals,
        "chart": charts.data(costs.buckets, costs.charted),
        "models": costs.models,
        "without_price": reading.without_price(connection, period, project_id=project_id)
        if totals["calls_without_price"]
        else [],
        "users": reading.by_user(connection, period, prices, project_id=project_id),
        "tag_keys": reading.tag_keys(connection, period, project_id=project_id),
        "tag": tag,
        "tag_values": reading.by_tag(connection, period, prices, tag, project_id=project_id) if tag else [],
        "dearest": reading.dearest(connection, period, prices, project_id=project_id),
    }
