"""Projects."""

from opensentry_ingest.reading import Connection, Row, fetch


def find(connection: Connection, name: str) -> Row | None:
    """Return the id and name of a project, by its name or id; None if there is no such project."""
    rows = fetch(connection, _FIND, {"name": name})
    return rows[0] if rows else None


def exist(connection: Connection) -> bool:
    """Return whether there is a project."""
    return bool(fetch(connection, "SELECT FROM opensentry.projects LIMIT 1", {}))


# A name may look like the id of another project: the name counts.
_FIND = """
    SELECT id, name
    FROM opensentry.projects
    WHERE name = %(name)s OR id::text = %(name)s
    ORDER BY name = %(name)s DESC
    LIMIT 1
"""
