"""Distribution over the nodes of a Citus cluster: projects everywhere, and what comes in by the project it is of.

The rules that hold here: what there is to do is read from the database, and `plan` decides it by nothing else; each
step is one transaction, after which ingest works, so a run that was cut short is continued by the next; and a database
that is distributed stays so, because `migrate` does here what its new tables and functions need.
"""

from collections.abc import Callable
from typing import NamedTuple

import psycopg

from opensentry_ingest import migrations
from opensentry_ingest.distribution_state import DISTRIBUTED_TABLES, REFERENCE_TABLES, Connection, State, read
from opensentry_ingest.errors import CommandError

Report = Callable[[str], object]


class Step(NamedTuple):
    """Statements that belong together, and what they do."""

    statement: str
    does: str
    copies: str = ""
    """The rows that it copies, which may take long."""


def distribute(connection: Connection, report: Report, dry_run: bool = False) -> None:
    """Distribute a database over the nodes of its cluster. It may run again at any time.

    Ingest into a table waits while its rows are copied; into the others it goes on.

    Args:
        connection: a connection to the coordinator in autocommit mode, of the role that owns the tables.
        report: is called with each line about what was done.
        dry_run: change nothing, and report what would have been done.

    Raises:
        CommandError: there is no Citus, this is not the coordinator, the role may not, or the database is not migrated.
    """
    _check(connection)
    if dry_run:
        for step in plan(read(connection)):
            report(f"would have {step.does}")
        return
    _run(connection, report)


def follow(connection: Connection, report: Report) -> None:
    """Distribute what migrations have added to a database that is distributed; do nothing to any other."""
    if is_distributed(connection):
        _run(connection, report)


def distribute_partition(connection: Connection, table: str, partition: str) -> None:
    """Distribute a new table like the one that it will be a partition of, if that is distributed."""
    if is_distributed(connection):
        connection.execute(
            "SELECT create_distributed_table(%s, 'project_id', colocate_with => %s)",
            (f"opensentry.{partition}", f"opensentry.{table}"),
        )


def refuse_worker(connection: Connection) -> None:
    """Raise CommandError on a worker node of a cluster."""
    if _has_citus(connection) and connection.execute("SELECT groupid FROM pg_dist_local_group").fetchone() != (0,):
        raise CommandError("this is a worker node: use the DATABASE_URL of the coordinator")


def is_distributed(connection: Connection) -> bool:
    """Return whether the tables are distributed, and this is the coordinator."""
    return _has_citus(connection) and (
        connection.execute(
            "SELECT citus_is_coordinator() AND EXISTS ("
            "SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass('opensentry.issues'))"
        ).fetchone()
        == (True,)
    )


def plan(state: State) -> list[Step]:
    """Return what is to be done, in this order. There is nothing in it for what is done already."""
    steps = []
    first = DISTRIBUTED_TABLES[0]
    tables = [state.tables[name] for name in (*REFERENCE_TABLES, *DISTRIBUTED_TABLES) if name in state.tables]
    for table in tables:
        name = f"opensentry.{table.name}"
        copies = f"about {table.rows:,} rows of {name}" if table.rows else ""
        if table.kind:
            continue
        if table.name in REFERENCE_TABLES:
            steps.append(Step(f"SELECT create_reference_table('{name}')", f"copied {name} to every node", copies))
            continue
        colocated = "none" if table.name == first else f"opensentry.{first}"
        steps.append(
            Step(
                f"SELECT create_distributed_table('{name}', 'project_id', colocate_with => '{colocated}')",
                f"distributed {name} by project_id",
                copies,
            )
        )
    for name, statement in state.alone.items():
        steps.append(Step(statement, f"created {name} on every node"))
    for function, definition in state.inlined.items():
        steps.append(Step(definition, f"made {function} one that Citus can execute"))
    for name, statements in state.rights.items():
        steps.append(Step("; ".join(statements), f"gave the roles the same rights to {name} on every node"))
    for role, statement in state.logins.items():
        steps.append(Step(statement, f"created the role {role} on every node"))
    for table in tables:
        for name in table.left:
            steps.append(
                Step(
                    f"SELECT truncate_local_data_after_distributing_table('opensentry.{name}')",
                    f"freed the space of {name} on the coordinator",
                )
            )
    return steps


def _run(connection: Connection, report: Report) -> None:
    """Do what the plan says until nothing is left: some steps are known only when those before them are done."""
    connection.add_notice_handler(lambda notice: _progress(notice, report))
    done: set[Step] = set()
    while True:
        with migrations.exclusive_transaction(connection, lambda: report("waiting for another command to finish")):
            # Under the lock, because another run may have done a part of it.
            step = next((step for step in plan(read(connection)) if step not in done), None)
            if step is None:
                return
            if step.copies:
                report(f"copying {step.copies}")
            # At this level Citus reports how many rows it has copied.
            connection.execute("SET LOCAL client_min_messages = debug1")
            for statement in migrations.statements(step.statement):
                for success, result in _results(connection, statement):
                    if not success:
                        raise CommandError(f"a node refused a statement: {result}")
        done.add(step)
        report(step.does)


def _results(connection: Connection, statement: str) -> list[tuple[bool, str]]:
    """Execute a statement; return whether it succeeded on each node, if it tells."""
    cursor = connection.execute(statement.encode())
    names = [column.name for column in cursor.description or ()]
    return cursor.fetchall() if names == ["success", "result"] else []


def _progress(notice: psycopg.errors.Diagnostic, report: Report) -> None:
    text = notice.message_primary or ""
    if text.startswith("Copied "):
        report(f"c{text[1:]} so far" if text.endswith("000 rows") else f"c{text[1:]}")


def _check(connection: Connection) -> None:
    """Raise CommandError if the database cannot be distributed."""
    if connection.execute("SELECT to_regclass('opensentry.issues')").fetchone() == (None,):
        raise CommandError("the database is not migrated: run `opensentry-ingest migrate`")
    if not _has_citus(connection):
        raise CommandError(
            "this database has no Citus: run CREATE EXTENSION citus on every node, and see docs/scaling.md"
        )
    refuse_worker(connection)
    if connection.execute("SELECT count(*) FROM citus_get_active_worker_nodes()").fetchone() == (0,):
        raise CommandError(
            "the cluster has no worker node: run SELECT citus_set_coordinator_host('HOST'), then "
            "SELECT citus_add_node('HOST', 5432) for each"
        )
    owners = connection.execute(
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'opensentry'::regnamespace "
        "AND NOT pg_has_role(relowner, 'USAGE')"
    ).fetchall()
    if owners:
        raise CommandError(f"only the owner of the tables may distribute them: use the DATABASE_URL of {owners[0][0]}")


def _has_citus(connection: Connection) -> bool:
    return connection.execute("SELECT FROM pg_extension WHERE extname = 'citus'").fetchone() is not None
