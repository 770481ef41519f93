"""The migrations: `sql/NNNN_name.sql`, applied in order, each once, each in a transaction of its own."""

import hashlib

import psycopg
from psycopg.sql import SQL

from opensentry_ingest import indexes, resources
from opensentry_ingest.errors import CommandError

LOCK = 0x6F73696E67657374
"""The advisory lock that lets one migration run at a time in a database ("osingest" as a number)."""


def migrate(connection: psycopg.Connection[tuple[object, ...]]) -> list[str]:
    """Apply the migrations that the database does not have.

    Args:
        connection: a connection in autocommit mode, of a role that may create the schema.

    Returns:
        The names of the files that were applied.

    Raises:
        CommandError: a file that was applied has changed since.
        psycopg.Error: PostgreSQL refused something; what was applied before it stays.
    """
    applied = []
    for path in sorted(resources.folder("sql").glob("*.sql")):
        text = path.read_text("utf-8")
        checksum = hashlib.sha256(text.encode()).hexdigest()
        with connection.transaction():
            # Within the transaction, so that a second migration waits here and then sees what the first has done.
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            known = _checksum(connection, path.name)
            if known is None:
                connection.execute(SQL(text))
                connection.execute(
                    "INSERT INTO opensentry.migrations (name, checksum) VALUES (%s, %s)", (path.name, checksum)
                )
                applied.append(path.name)
            elif known != checksum:
                raise CommandError(
                    f"{path.name} is not what this database was migrated with: put the file back, and add a new one"
                )
    indexes.build(connection)
    return applied


def _checksum(connection: psycopg.Connection[tuple[object, ...]], name: str) -> object:
    """Return the checksum that a migration was applied with, or None; make the record where it is missing."""
    if connection.execute("SELECT to_regclass('opensentry.migrations')").fetchone() == (None,):
        # An administrator may have made the schema for a role that could not.
        if connection.execute("SELECT to_regnamespace('opensentry')").fetchone() == (None,):
            connection.execute("CREATE SCHEMA opensentry")
        connection.execute(
            "CREATE TABLE opensentry.migrations "
            "(name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
    row = connection.execute("SELECT checksum FROM opensentry.migrations WHERE name = %s", (name,)).fetchone()
    return row[0] if row else None
