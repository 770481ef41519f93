"""The indexes of partitions that exist already, built while ingest goes on.

A migration makes such an index for the partitioned table alone, which leaves it invalid. It becomes valid when every
partition has one of the same definition that is attached to it (PostgreSQL, "ALTER INDEX ... ATTACH PARTITION").
"""

import time
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

Connection = psycopg.Connection[Any]

POLL_SECONDS = 0.5
"""The pause before looking again at an index that somebody else is building."""

LOCK_TIMEOUT = "200ms"
"""The longest wait for the lock on an index that is to be attached, because ingest waits behind it."""

RETRY_SECONDS = 2.0
"""The pause after such a wait that was in vain."""

# One partition that has no index yet, and what there is of it: nothing, one that is being built, one whose build was
# cut short, or one that only has to be attached.
_MISSING = """
    SELECT
        parent.relname, partition.relname, substring(pg_get_indexdef(parent.oid) FROM ' USING .*'),
        CASE
            WHEN own.indexrelid IS NULL THEN 'missing'
            WHEN own.indisvalid THEN 'valid'
            WHEN EXISTS (
                SELECT FROM pg_stat_progress_create_index AS p WHERE p.index_relid = own.indexrelid
            ) THEN 'building'
            ELSE 'invalid'
        END,
        name
    FROM pg_index AS i
    JOIN pg_class AS parent ON parent.oid = i.indexrelid AND parent.relkind = 'I'
    JOIN pg_class AS parent_table ON parent_table.oid = i.indrelid
    JOIN pg_inherits AS child ON child.inhparent = i.indrelid
    JOIN pg_class AS partition ON partition.oid = child.inhrelid
    CROSS JOIN LATERAL (
        SELECT partition.relname || substr(parent.relname, length(parent_table.relname) + 1) AS name
    ) AS named
    LEFT JOIN pg_index AS own
        ON own.indrelid = partition.oid AND own.indexrelid = to_regclass(format('opensentry.%I', name))
    WHERE parent.relnamespace = 'opensentry'::regnamespace AND NOT i.indisvalid AND NOT EXISTS (
        SELECT
        FROM pg_inherits AS attached
        JOIN pg_index AS a ON a.indexrelid = attached.inhrelid
        WHERE attached.inhparent = i.indexrelid AND a.indrelid = partition.oid
    )
    ORDER BY partition.relname, parent.relname
    LIMIT 1
"""

# What a statement raises if another `migrate` has done its work in the meantime, or is doing it.
_OVERTAKEN = (
    psycopg.errors.DuplicateTable,
    psycopg.errors.UniqueViolation,
    psycopg.errors.UndefinedTable,
    psycopg.errors.DependentObjectsStillExist,
    psycopg.errors.DeadlockDetected,
)


def build(connection: Connection) -> None:
    """Build what is missing, one index at a time. It may be cut short, and two may run at once.

    It waits for transactions that began before it, for as long as they take. Ingest does not.

    Args:
        connection: a connection in autocommit mode, of the role that owns the tables.
    """
    while row := connection.execute(_MISSING).fetchone():
        parent, partition, definition, state, name = row
        try:
            if state == "missing":
                connection.execute(
                    SQL("CREATE INDEX CONCURRENTLY {} ON {} {}").format(
                        Identifier(name), Identifier("opensentry", partition), SQL(definition)
                    )
                )
            elif state == "invalid":
                connection.execute(SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(Identifier("opensentry", name)))
            elif state == "valid":
                with connection.transaction():
                    connection.execute(SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT))
                    connection.execute(
                        SQL("ALTER INDEX {} ATTACH PARTITION {}").format(
                            Identifier("opensentry", parent), Identifier("opensentry", name)
                        )
                    )
            else:
                time.sleep(POLL_SECONDS)
        except psycopg.errors.LockNotAvailable:
            time.sleep(RETRY_SECONDS)
        except _OVERTAKEN:
            time.sleep(POLL_SECONDS)
