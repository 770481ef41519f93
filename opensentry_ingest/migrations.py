"""The migrations: `sql/NNNN_name.sql`, applied in order, each once and in its own transaction."""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL

from opensentry_ingest import indexes, resources
from opensentry_ingest.errors import CommandError

Connection = psycopg.Connection[Any]

ADVISORY_LOCK = 0x6F73696E67657374
"""The key of the lock that lets only one `migrate` or `maintain` change a database at a time ("osingest")."""

LOCK_POLL_SECONDS = 0.2
"""The pause between two attempts to take that lock."""

LOCK_TIMEOUT = "1s"
"""The longest wait of a migration for each lock on a table. Ingest waits behind it, so it must be short."""

RETRY_DELAYS_SECONDS = (0.5, 1, 2, *repeat(5, 60))
"""The pauses between attempts of a migration that did not get a lock: about five minutes."""


CITUS_SETTINGS = (
    # A transaction can define a table and fill it only if both use the same connection to a node.
    "citus.multi_shard_modify_mode = sequential",
    # lock_timeout and the time zone must hold on every node.
    "citus.propagate_set_commands = local",
)
"""What an exclusive transaction sets. PostgreSQL without Citus ignores it."""


def migrate(connection: Connection) -> list[str]:
    """Apply the migrations that the database does not have yet.

    Args:
        connection: a connection in autocommit mode, of a role that may create the schema.

    Returns:
        The names of the files that were applied.

    Raises:
        CommandError: a file has changed since it was applied, or a table was locked for too long.
        psycopg.Error: PostgreSQL rejected a statement; the migrations before it remain applied.
    """
    applied = [path.name for path in sorted(resources.folder("sql").glob("*.sql")) if _apply(connection, path)]
    indexes.build(connection)
    return applied


def _apply(connection: Connection, path: Path) -> bool:
    """Apply one migration unless it was applied before; return whether it was applied now."""
    for delay in RETRY_DELAYS_SECONDS:
        try:
            return _try_to_apply(connection, path)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(delay)
    raise CommandError(
        f"{path.name} was not applied, because a long transaction holds a lock on a table: "
        "end it (pg_stat_activity shows it), and run `opensentry-ingest migrate` again"
    )


def _try_to_apply(connection: Connection, path: Path) -> bool:
    text = path.read_text("utf-8")
    checksum = hashlib.sha256(text.encode()).hexdigest()
    with exclusive_transaction(connection):
        connection.execute(SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT))
        known = _checksum(connection, path.name)
        if known is None:
            for statement in statements(text):
                connection.execute(statement.encode())
            connection.execute(
                "INSERT INTO opensentry.migrations (name, checksum) VALUES (%s, %s)", (path.name, checksum)
            )
        elif known != checksum:
            raise CommandError(
                f"{path.name} has changed since it was applied to this database: "
                "restore the file, and put the change in a new one"
            )
    return known is None


def statements(text: str) -> list[str]:
    """Return the statements of a file, because Citus sends a node the whole text of what is executed at once."""
    ends = [match.end() for match in _TOKEN.finditer(text) if match[0] == ";"]
    parts = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [part for part in parts if part.strip()]


# Where a semicolon ends no statement: in comments, strings, names, and function bodies.
_TOKEN = re.compile(r"""--[^\n]*|'[^']*'|"[^"]*"|(\$[a-z]*\$).*?\1|;""", re.DOTALL)


@contextmanager
def exclusive_transaction(connection: Connection, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Open a transaction once no other exclusive transaction is open in the database.

    The lock belongs to the transaction, not to the session. So it works through a pooler in transaction mode, where the
    next statement of a session may run on another connection, and it never outlives the process that took it.

    Args:
        connection: a connection in autocommit mode.
        on_wait: is called once if the transaction has to wait.
    """
    waited = False
    while True:
        with connection.transaction():
            if connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (ADVISORY_LOCK,)).fetchone() == (True,):
                for setting in CITUS_SETTINGS:
                    connection.execute(f"SET LOCAL {setting}".encode())
                yield
                return
        # pg_advisory_xact_lock() would wait within a statement, which holds back VACUUM and a pooler's connection.
        if not waited:
            on_wait()
        waited = True
        time.sleep(LOCK_POLL_SECONDS)


def _checksum(connection: Connection, name: str) -> object:
    """Return the checksum that a migration was applied with, or None; create the table of them if it is missing."""
    if connection.execute("SELECT to_regclass('opensentry.migrations')").fetchone() == (None,):
        # An administrator may have created the schema for a role that may not.
        if connection.execute("SELECT to_regnamespace('opensentry')").fetchone() == (None,):
            connection.execute("CREATE SCHEMA opensentry")
        connection.execute(
            "CREATE TABLE opensentry.migrations "
            "(name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
    row = connection.execute("SELECT checksum FROM opensentry.migrations WHERE name = %s", (name,)).fetchone()
    return row[0] if row else None
