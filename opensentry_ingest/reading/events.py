"""Single events."""

from opensentry_ingest.reading import Connection, fetch


def pretty(connection: Connection, json: str) -> str:
    """Return a JSON text with a line for each member. PostgreSQL writes it, so that no number is rounded."""
    text: str = fetch(connection, "SELECT jsonb_pretty(%(json)s::jsonb) AS text", {"json": json})[0]["text"]
    return text
