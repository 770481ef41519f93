"""The page of a trace."""

from typing import Any

from opensentry_ingest.reading import Connection, traces
from opensentry_ingest.viewer.errors import BadRequest, NotFound
from opensentry_ingest.viewer.request import Request


def trace(request: Request, connection: Connection) -> dict[str, Any]:
    """Return a trace as a waterfall: each row is followed by what happened within it."""
    trace_id = request.query.get("id")
    if not trace_id:
        raise BadRequest("The parameter id is the id of a trace.")
    found = traces.trace(connection, trace_id)
    if not found.rows:
        raise NotFound(f"Nothing that is stored belongs to the trace {trace_id!r}.")
    return {"trace_id": trace_id, **found._asdict()}
