"""The page of projects: how to send to each, and what came in."""

from typing import Any

from opensentry_ingest.reading import Connection
from opensentry_ingest.reading import projects as reading
from opensentry_ingest.viewer.request import Request

NOTHING = {"errors": 0, "transactions": 0, "ai_generations": 0, "last_received_at": None}


def projects(request: Request, connection: Connection) -> dict[str, Any]:
    """Return the projects, or the one that is asked for, with what came in of each during the period."""
    counted = {str(row.pop("project_id")): row for row in reading.counts(connection, request.period)}
    shown = [request.project] if request.project else request.projects
    return {
        "period": request.period._asdict(),
        "projects": [{**project, **counted.get(project["id"], NOTHING)} for project in shown],
    }
