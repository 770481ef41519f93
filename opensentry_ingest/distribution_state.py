"""What a Citus cluster lacks before a database is distributed over it: read from the coordinator, and changed nowhere.

`distribution` makes a plan of it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg

Connection = psycopg.Connection[Any]

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
