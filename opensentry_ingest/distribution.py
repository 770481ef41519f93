"""Distribution over the nodes of a Citus cluster: projects everywhere, and what comes in by the project it is of.

The rules that hold here: what there is to do is read from the database, and `plan` decides it by nothing else; each
step is one transaction, after which ingest works, so a run that was cut short is continued by the next; and a database
that is distributed stays so, because `migrate` does here what its new tables and functions need.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg

from opensentry_ingest import migrations
from opensentry_ingest.errors import CommandError

Connection = psycopg.Connection[Any]
Report = Callable[[str], object]

REFERENCE_TABLES = ("projects", "project_keys", "model_prices")
"""Small tables of which every node has a copy."""

DISTRIBUTED_TABLES = ("issues", "events", "transactions", "spans", "ai_generations", "idempotency_keys")
"""Tables whose rows are on the node of their project. The rows of a project are together in all of them."""


class Table(NamedTuple):
    """A table of the schema, as the coordinator knows it."""

    name: str
    kind: str | None = None
    """reference or distributed; None if it is on the coordinator alone."""
    rows: int = 0
    """An estimate."""
    left: Sequence[str] = ()
    """The tables (it, or partitions of it) that still hold rows from before it was distributed, which nobody sees."""


class State(NamedTuple):
    """What a plan depends on."""

    tables: Mapping[str, Table]
    """Those that are there, by name."""
    alone: Mapping[str, str] = {}
    """The functions and views that only the coordinator has, each with the statement that creates it elsewhere."""
    inlined: Mapping[str, str] = {}
    """The functions in SQL that read tables, each with a definition in PL/pgSQL."""
    rights: Mapping[str, Sequence[str]] = {}
    """The objects whose rights differ between the nodes, each with the statements that grant the coordinator's."""
    logins: Mapping[str, str] = {}
    """The login roles that are missing on a node, each with the statement that creates it."""


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


def read(connection: Connection) -> State:
    """Return the state of a database that has Citus."""
    tables = {row[0]: Table(*row) for row in connection.execute(_TABLES, [[*REFERENCE_TABLES, *DISTRIBUTED_TABLES]])}
    return State(
        tables,
        dict(connection.execute(_ALONE).fetchall()),
        dict(connection.execute(_INLINED).fetchall()),
        _rights(connection),
        dict(connection.execute(_logins(connection)).fetchall()),
    )


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


_TABLES = """
    SELECT
        c.relname,
        CASE d.partmethod WHEN 'h' THEN 'distributed' WHEN 'n' THEN CASE d.repmodel WHEN 't' THEN 'reference' END END,
        parts.rows,
        CASE WHEN d.partmethod = 'h' OR d.repmodel = 't' THEN parts.filled ELSE '{}' END
    FROM pg_class AS c
    LEFT JOIN pg_dist_partition AS d ON d.logicalrelid = c.oid,
    LATERAL (
        SELECT
            coalesce(sum(p.reltuples) FILTER (WHERE p.reltuples > 0), 0)::bigint AS rows,
            coalesce(
                array_agg(p.relname::text ORDER BY p.relname) FILTER (WHERE pg_relation_size(p.oid) > 0), '{}'
            ) AS filled
        FROM pg_class AS p
        WHERE p.relkind = 'r'
            AND (p.oid = c.oid OR p.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid))
    ) AS parts
    WHERE c.relnamespace = 'opensentry'::regnamespace AND c.relname = ANY(%s)
"""

# Functions and views that were created before the extension, each after those that it needs.
_ALONE = """
    SELECT name, statement
    FROM (
        SELECT
            p.oid, 'pg_proc'::regclass AS class, p.oid::regprocedure::text AS name,
            format('SELECT create_distributed_function(%L)', p.oid::regprocedure)
                -- In the same transaction, because Citus gives everybody the right to execute a new function.
                || CASE WHEN NOT EXISTS (
                    SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee = 0
                ) THEN format('; REVOKE ALL ON FUNCTION %s FROM PUBLIC', p.oid::regprocedure) ELSE '' END AS statement
        FROM pg_proc AS p
        WHERE p.pronamespace = 'opensentry'::regnamespace
        UNION ALL
        SELECT
            c.oid, 'pg_class'::regclass, c.oid::regclass::text,
            format('CREATE OR REPLACE VIEW opensentry.%I AS %s', c.relname, pg_get_viewdef(c.oid))
        FROM pg_class AS c
        WHERE c.relnamespace = 'opensentry'::regnamespace AND c.relkind = 'v'
    ) AS made
    WHERE NOT EXISTS (
        SELECT FROM pg_catalog.pg_dist_object AS o WHERE o.classid = made.class AND o.objid = made.oid
    )
    ORDER BY made.oid
"""

# PostgreSQL inlines these, and Citus cannot plan what comes of it. PL/pgSQL executes the same query by itself. That is
# allowed on a node that executes a part of another query only if a function reads nothing but what every node has.
_INLINED = rf"""
    SELECT
        p.oid::regprocedure::text,
        format(
            E'CREATE OR REPLACE FUNCTION opensentry.%I(%s) RETURNS %s\nLANGUAGE plpgsql STABLE%s\nAS %L',
            p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
            CASE WHEN NOT EXISTS (
                SELECT FROM regexp_matches(p.prosrc, '(?:FROM|JOIN) opensentry\.(\w+)', 'g') AS used
                WHERE used[1] NOT IN ({", ".join(f"'{name}'" for name in REFERENCE_TABLES)})
            ) THEN E'\nSET citus.allow_nested_distributed_execution = on' ELSE '' END,
            E'#variable_conflict use_column\nBEGIN\n' || CASE
                WHEN p.proretset THEN 'RETURN QUERY ' || trim(E' \n;' FROM p.prosrc)
                ELSE 'RETURN (' || trim(E' \n;' FROM p.prosrc) || ')'
            END || E';\nEND'
        )
    FROM pg_proc AS p
    JOIN pg_language AS l ON l.oid = p.prolang
    WHERE p.pronamespace = 'opensentry'::regnamespace AND l.lanname = 'sql' AND p.prosrc ~ '(FROM|JOIN) opensentry\.'
    ORDER BY 1
"""

# Each object with the rights to it, as text that is the same on every node.
_ALL_RIGHTS = """
    SELECT coalesce(json_object_agg(name, rights), '{}')
    FROM (
        SELECT 'SCHEMA opensentry' AS name, coalesce(nspacl, acldefault('n', nspowner)) AS acl
        FROM pg_namespace WHERE nspname = 'opensentry'
        UNION ALL
        SELECT 'FUNCTION ' || oid::regprocedure, coalesce(proacl, acldefault('f', proowner))
        FROM pg_proc WHERE pronamespace = 'opensentry'::regnamespace
        UNION ALL
        SELECT 'TABLE ' || oid::regclass, coalesce(relacl, acldefault('r', relowner))
        FROM pg_class WHERE relnamespace = 'opensentry'::regnamespace AND relkind IN ('v', 'r', 'p')
    ) AS objects, LATERAL (
        SELECT coalesce(
            json_agg(
                privilege_type || CASE grantee WHEN 0 THEN ' PUBLIC' ELSE ' ' || grantee::regrole END
                ORDER BY grantee::regrole::text, privilege_type
            ), '[]'
        ) AS rights
        FROM aclexplode(acl)
        WHERE grantor <> grantee
    ) AS listed
"""


def _rights(connection: Connection) -> dict[str, list[str]]:
    """Return the objects whose rights differ on a node, each with the statements that make them the same."""
    [(here,)] = connection.execute(_ALL_RIGHTS).fetchall()
    nodes = [
        json.loads(result)
        for success, result in connection.execute(
            "SELECT success, result FROM run_command_on_workers(%s)", (_ALL_RIGHTS,)
        )
        if success
    ]
    differing = {}
    for name, rights in here.items():
        # What a node lacks is made there by Citus, with what depends on it.
        if any(name in node and node[name] != rights for node in nodes):
            roles = {"PUBLIC", *(right.split(" ", 1)[1] for node in nodes for right in node.get(name, ()))}
            differing[name] = [f"REVOKE ALL ON {name} FROM {role}" for role in sorted(roles)] + [
                f"GRANT {right.split(' ', 1)[0]} ON {name} TO {right.split(' ', 1)[1]}" for right in rights
            ]
    return differing


# The login roles that may use the schema. Only a superuser can read their passwords.
_LOGINS = """
    SELECT r.rolname, format(
        'SELECT success, result FROM run_command_on_workers(%%L)',
        format(
            'DO $do$ BEGIN PERFORM set_config(''citus.enable_ddl_propagation'', ''off'', true); '
            'IF to_regrole(%%L) IS NULL THEN CREATE ROLE %%I LOGIN{password}; END IF; GRANT %%I TO %%I; END $do$',
            r.rolname, r.rolname{argument}, g.rolname, r.rolname
        )
    )
    FROM pg_auth_members AS m
    JOIN {roles} AS r ON r.oid = m.member AND r.rolcanlogin
    JOIN pg_roles AS g ON g.oid = m.roleid AND g.rolname IN ('opensentry_ingest', 'opensentry_reader')
    WHERE EXISTS (
        SELECT
        FROM run_command_on_workers(format(
            'SELECT EXISTS (SELECT FROM pg_auth_members WHERE member = to_regrole(%%L) AND roleid = to_regrole(%%L))',
            r.rolname, g.rolname
        )) AS node
        WHERE node.result IS DISTINCT FROM 't'
    )
    ORDER BY r.rolname
"""


def _logins(connection: Connection) -> bytes:
    superuser = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (True,)
    return (
        _LOGINS.format(
            password=" PASSWORD %%L" if superuser else "",
            argument=", r.rolpassword" if superuser else "",
            roles="pg_authid" if superuser else "pg_roles",
        )
        .replace("%%", "%")
        .encode()
    )
