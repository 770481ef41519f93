"""The connection of a page, and what its errors mean to whoever looks.

A page borrows a connection, because to open one, and to learn the tables again, takes several times as long as to count
a day.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

import psycopg
from psycopg import IsolationLevel
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from opensentry_ingest.pool import Pool
from opensentry_ingest.reading import Connection
from opensentry_ingest.settings import Settings
from opensentry_ingest.viewer import errors

WORK_MEM_KB = 65_536
"""The least memory that a sort or a hash table of a statement may take."""

MOST_CONNECTIONS = 1000
"""More than a process has threads that show a page at the same time."""

ROLE = "CREATE ROLE viewer LOGIN PASSWORD '...' IN ROLE opensentry_reader;"


def pool(settings: Settings) -> Pool:
    """Return the connections of a viewer; none is opened yet."""
    seconds = settings.database_timeout
    parameters: dict[str, Any] = {
        "fallback_application_name": "opensentry-viewer",
        # What a network drops without a word ends here too.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": ceil(seconds * 1000) + 5000,
        **conninfo_to_dict(settings.database_url),
    }
    return Pool(make_conninfo("", **parameters), MOST_CONNECTIONS, seconds)


@contextmanager
def connection(pool: Pool, settings: Settings, *, read_only: bool = True) -> Iterator[Connection]:
    """Lend a connection in a transaction, which sees one state of the database throughout and bounds each statement.

    Args:
        pool: where it is from.
        settings: how long the database may take.
        read_only: whether PostgreSQL refuses to change anything.

    Raises:
        PageError: the database is unreachable or unfit, or takes too long.
    """
    seconds = settings.database_timeout
    try:
        with pool.connection() as connected:
            # Behind a pooler the next transaction may be on another connection.
            connected.prepare_threshold = None
            connected.read_only = read_only
            connected.isolation_level = IsolationLevel.REPEATABLE_READ if read_only else IsolationLevel.READ_COMMITTED
            with connected.transaction():
                # JIT takes longer than most statements of a page. What groups many rows needs memory, or it uses the
                # disk.
                connected.execute(
                    """
                    SELECT
                        set_config('statement_timeout', %s, true), set_config('timezone', 'UTC', true),
                        set_config('jit', 'off', true),
                        set_config(
                            'work_mem', greatest(%s, pg_size_bytes(current_setting('work_mem')) / 1024)::text, true
                        )
                    """,
                    [f"{seconds * 1000:.0f}ms", WORK_MEM_KB],
                )
                yield connected
    except psycopg.Error as error:
        raise _explained(error, seconds) from error


def _explained(error: psycopg.Error, seconds: float) -> Exception:
    """Return what a page says of an error of PostgreSQL; the error itself if it is a bug of ours."""
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return errors.Unfit(
            "The role in DATABASE_URL may not read what came in. Give the viewer a role of its own:", ROLE
        )
    if isinstance(error, (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)):
        return errors.Unfit(
            "It is not migrated. As the role that owns it, run:",
            "opensentry-ingest migrate",
        )
    if isinstance(error, psycopg.errors.QueryCanceled):
        return errors.Unavailable(
            f"A query took longer than {seconds:g} seconds and was cancelled. "
            "Choose a shorter time range, or raise OPENSENTRY_DATABASE_TIMEOUT."
        )
    if isinstance(error, psycopg.DataError):
        return errors.BadRequest("A parameter of the URL is not valid. Start again from one of the pages above.")
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return errors.Unavailable("The database is read-only now, so nothing can be changed.")
    if isinstance(error, psycopg.OperationalError):
        return errors.Unavailable(
            "PostgreSQL is unreachable or does not let the viewer in. Check that it runs and that DATABASE_URL is "
            "right, then reload this page. The log says more."
        )
    return error
