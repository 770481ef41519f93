"""Projects and keys: what an operator may do with them, on a connection of the role that owns them."""

import secrets
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import dict_row

from opensentry_ingest.errors import CommandError

Connection = psycopg.Connection[Any]
Record = dict[str, Any]


def dsn(public_url: str, public_key: str) -> str:
    """Return the DSN of a key: the URL of the ingest endpoint, with the key as its user name."""
    parts = urlsplit(public_url)
    return parts._replace(netloc=f"{public_key}@{parts.netloc}", path=parts.path.rstrip("/") + "/v1/ingest").geturl()


def sentry_dsn(public_url: str, public_key: str) -> str:
    """Return the DSN of a key for Sentry's SDKs, which want a number as its path: the key names the project."""
    parts = urlsplit(public_url)
    return parts._replace(netloc=f"{public_key}@{parts.netloc}", path=parts.path.rstrip("/") + "/1").geturl()


def otlp_endpoint(public_url: str) -> str:
    """Return what an exporter of OpenTelemetry appends its paths to."""
    return public_url.rstrip("/")


def create_project(connection: Connection, name: str) -> Record:
    """Create a project with one key; return its id, name and public_key.

    Raises:
        CommandError: the name is empty or taken.
    """
    if not name.strip():
        raise CommandError("a project needs a name that is not empty")
    with connection.transaction():
        row = _one(
            connection,
            "INSERT INTO opensentry.projects (name) VALUES (%s) ON CONFLICT DO NOTHING RETURNING id::text, name",
            name,
        )
        if row is None:
            raise CommandError(f"the project {name!r} exists already: `key create` creates another key for it")
        return {**row, "public_key": create_key(connection, name)["public_key"]}


def projects(connection: Connection) -> list[Record]:
    """Return the projects, oldest first, each with its newest valid key, or None."""
    return _all(
        connection,
        "SELECT p.id::text, p.name, ("
        "SELECT k.public_key FROM opensentry.project_keys AS k WHERE k.project_id = p.id AND k.revoked_at IS NULL "
        "ORDER BY k.created_at DESC, k.public_key LIMIT 1"
        ") AS public_key FROM opensentry.projects AS p ORDER BY p.created_at, p.name",
    )


def create_key(connection: Connection, project: str) -> Record:
    """Create another key for a project.

    Args:
        connection: of the role that owns the tables.
        project: its name or id.

    Raises:
        CommandError: the project does not exist.
    """
    found = _one(
        connection,
        "SELECT id::text FROM opensentry.projects WHERE name = %s OR id::text = %s ORDER BY name = %s DESC",
        project,
        project,
        project,
    )
    if found is None:
        raise CommandError(f"no project {project!r}: `project list` shows all projects")
    public_key = secrets.token_hex(16)
    connection.execute(
        "INSERT INTO opensentry.project_keys (public_key, project_id) VALUES (%s, %s)", (public_key, found["id"])
    )
    return _all(connection, _KEY, public_key)[0]


def keys(connection: Connection, project: str) -> list[Record]:
    """Return the keys of a project, oldest first, including revoked ones.

    Args:
        connection: of the role that owns the tables.
        project: its name or id.

    Raises:
        CommandError: the project does not exist.
    """
    if _one(connection, "SELECT 1 FROM opensentry.projects WHERE name = %s OR id::text = %s", project, project) is None:
        raise CommandError(f"no project {project!r}: `project list` shows all projects")
    return _all(
        connection,
        "SELECT k.public_key, k.created_at::text, k.revoked_at::text FROM opensentry.project_keys AS k "
        "JOIN opensentry.projects AS p ON p.id = k.project_id WHERE p.name = %s OR p.id::text = %s "
        "ORDER BY k.created_at, k.public_key",
        project,
        project,
    )


def revoke_key(connection: Connection, public_key: str) -> Record:
    """Revoke a key: from now on, requests with it get a 403. Revoking it again changes nothing.

    Raises:
        CommandError: the key does not exist.
    """
    connection.execute(
        "UPDATE opensentry.project_keys SET revoked_at = now() WHERE public_key = %s AND revoked_at IS NULL",
        (public_key,),
    )
    row = _one(connection, _KEY, public_key)
    if row is None:
        raise CommandError("no such key: `key list PROJECT` shows the keys of a project")
    return row


# A statement of its own: Citus has no now() within an expression, and no cast of a time in RETURNING.
_KEY = "SELECT public_key, created_at::text, revoked_at::text FROM opensentry.project_keys WHERE public_key = %s"


def _all(connection: Connection, statement: str, *arguments: str) -> list[Record]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement, arguments).fetchall()


def _one(connection: Connection, statement: str, *arguments: str) -> Record | None:
    rows = _all(connection, statement, *arguments)
    return rows[0] if rows else None
