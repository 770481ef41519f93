"""The rows of a batch."""

import psycopg

from opensentry_ingest.errors import CommandError
from opensentry_ingest.reading import Connection
from opensentry_ingest.tables import ITEM_TABLES


def batch(connection: Connection, batch_id: str) -> str:
    """Return the rows of a batch, by table, as JSON. PostgreSQL formats it, so that no number is rounded.

    Raises:
        CommandError: the id is malformed, or no such batch is stored.
    """
    try:
        row = connection.execute(_BATCH, [batch_id] * len(ITEM_TABLES)).fetchone()
    except psycopg.DataError:
        raise CommandError(f"{batch_id!r} is not the id of a batch: give the `id` from the body of a 202") from None
    if not row or not any(row[0]):
        raise CommandError(f"no batch {batch_id} is stored in this database")
    rows: str = row[1]
    return rows


# All projects are listed, because the primary keys start with the project.
_BATCH = (
    "SELECT ARRAY["
    + ", ".join(f"{table} IS NOT NULL" for table in ITEM_TABLES)
    + "] AS lists, json_build_object("
    + ", ".join(f"'{table}', coalesce({table}, '[]')" for table in ITEM_TABLES)
    + ")::text AS rows FROM "
    + ", ".join(
        f"(SELECT json_agg(t ORDER BY {'position, span_index' if table == 'spans' else 'position'}) AS {table} "
        f"FROM opensentry.{table} AS t "
        f"WHERE t.project_id IN (SELECT id FROM opensentry.projects) AND t.batch_id = %s) AS of_{table}"
        for table in ITEM_TABLES
    )
)
