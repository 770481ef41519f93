"""Projects."""

from opensentry_ingest.reading import Connection, Period, Row, fetch


def find(connection: Connection, name: str) -> Row | None:
    """Return the id and name of a project, by its name or id; None if there is no such project."""
    rows = fetch(connection, _FIND, {"name": name})
    return rows[0] if rows else None


def exist(connection: Connection) -> bool:
    """Return whether there is a project."""
    return bool(fetch(connection, "SELECT FROM opensentry.projects LIMIT 1", {}))


def counts(connection: Connection, period: Period) -> list[Row]:
    """Return what came in of each project that anything came in of.

    Returns:
        Rows with project_id, errors, transactions, ai_generations and last_received_at.
    """
    return fetch(connection, _COUNTS, period._asdict())


def _count(table: str, column: str) -> str:
    columns = ", ".join(
        f"{'count(*)' if each == column else '0'} AS {each}" for each in ("errors", "transactions", "ai_generations")
    )
    return f"""
        SELECT project_id, {columns}, max(received_at) AS last_received_at
        FROM opensentry.{table}
        WHERE received_at >= %(since)s AND received_at < %(until)s
        GROUP BY project_id
    """


_COUNTS = f"""
    SELECT
        project_id, sum(errors)::bigint AS errors, sum(transactions)::bigint AS transactions,
        sum(ai_generations)::bigint AS ai_generations, max(last_received_at) AS last_received_at
    FROM (
        {_count("events", "errors")}
        UNION ALL
        {_count("transactions", "transactions")}
        UNION ALL
        {_count("ai_generations", "ai_generations")}
    ) AS counted
    GROUP BY project_id
"""

# A name may look like the id of another project: the name counts.
_FIND = """
    SELECT id, name
    FROM opensentry.projects
    WHERE name = %(name)s OR id::text = %(name)s
    ORDER BY name = %(name)s DESC
    LIMIT 1
"""
