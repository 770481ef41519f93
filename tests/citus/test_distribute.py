"""`distribute`: of an empty and a full database, killed, twice; and migrations afterwards."""

import json
import shutil
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from opensentry_ingest import distribution, embedded, maintain, migrations, resources
from opensentry_ingest.distribution_state import DISTRIBUTED_TABLES, REFERENCE_TABLES, State, Table
from tests import support
from tests.citus import nodes
from tests.citus.conftest import distribute
from tests.conftest import execute
from tests.databases import clusters
from tests.databases.conftest import Start
from tests.support import AI_GENERATION, ERROR, TRANSACTION, Database, command
from tests.test_maintain import FOREVER, month, store

OBJECTS = """
    SELECT p.oid::regprocedure::text AS name, pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '') AS definition
    FROM pg_proc AS p WHERE pronamespace = 'opensentry'::regnamespace
    UNION ALL
    SELECT c.relname, coalesce(c.relacl::text, '') || CASE c.relkind WHEN 'v' THEN pg_get_viewdef(c.oid) ELSE '' END
    FROM pg_class AS c
    WHERE relnamespace = 'opensentry'::regnamespace AND relkind IN ('v', 'p', 'r') AND relname <> 'migrations'
    UNION ALL
    SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname = 'opensentry'
"""


def on(database: Database, server: clusters.Cluster) -> Database:
    """Return the database as a node has it."""
    owner, service = (make_conninfo(each, port=server.port) for each in (database.owner, database.service))
    return Database(owner, service, database.project_id, database.key)


def assert_distributed(cluster: nodes.Nodes, database: Database) -> None:
    """Assert that every table is where it belongs, and that all nodes have the same objects and rights."""
    kinds = {
        row["name"]: row["citus_table_type"]
        for row in database.fetch("SELECT table_name::text AS name, citus_table_type FROM citus_tables")
    }
    for name in DISTRIBUTED_TABLES:
        assert kinds[f"opensentry.{name}"] == "distributed"
    for name in REFERENCE_TABLES:
        assert kinds.get(f"opensentry.{name}", "reference") == "reference"
    assert (
        len(database.fetch("SELECT DISTINCT colocation_id FROM citus_tables WHERE citus_table_type = 'distributed'"))
        == 1
    )
    here = {row["name"]: row["definition"] for row in database.fetch(OBJECTS)}
    for worker in cluster.workers:
        assert {row["name"]: row["definition"] for row in on(database, worker).fetch(OBJECTS)} == here
    assert (
        database.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'opensentry'::regnamespace AND relkind = 'r' "
            "AND relname <> 'migrations' AND pg_relation_size(oid) > 0"
        )
        == []
    )


def test_a_full_database_keeps_every_row(cluster: nodes.Nodes) -> None:
    with nodes.database(cluster) as owner:
        database = clusters.migrated(owner)
        embedded.viewer_conninfo(owner)
        for age in ("0 days", "100 days"):
            store(database, age, 5)
        before = {
            table: database.fetch(f"SELECT * FROM opensentry.{table} ORDER BY batch_id") for table in support.TABLES
        }
        issues = database.fetch("SELECT * FROM opensentry.issues")
        foretold = command("distribute", "--dry-run", database_url=owner)
        assert "would have distributed opensentry.events by project_id\n" in foretold.stdout
        assert "SCRAM" not in foretold.stdout
        done = command("distribute", database_url=owner)
        assert (done.returncode, done.stderr) == (0, "")
        assert "distributed opensentry.events by project_id\n" in done.stdout
        for table in support.TABLES:
            assert database.fetch(f"SELECT * FROM opensentry.{table} ORDER BY batch_id") == before[table]
        assert database.fetch("SELECT * FROM opensentry.issues") == issues
        assert_distributed(cluster, database)
        assert command("distribute", database_url=owner).stdout == "nothing to do\n"


def test_what_was_migrated_before_there_was_citus(cluster: nodes.Nodes) -> None:
    with nodes.database(cluster, citus=False) as owner:
        database = clusters.migrated(owner)
        store(database, "0 days", 2)
        execute(owner, "CREATE ROLE early LOGIN PASSWORD 'secret' IN ROLE opensentry_reader")
        refused = command("distribute", database_url=owner)
        assert "this database has no Citus" in refused.stderr
        try:
            execute(owner, "CREATE EXTENSION citus")
            assert "the cluster has no worker node" in command("distribute", database_url=owner).stderr
            nodes.join(cluster, owner)
            done = command("distribute", database_url=owner)
            assert (done.returncode, done.stderr) == (0, "")
            assert "created the role early on every node\n" in done.stdout
            assert_distributed(cluster, database)
            for worker in cluster.workers:
                there = on(database, worker)
                store_there = "SELECT opensentry.ingest(%s, gen_random_uuid(), %s) AS id"
                with psycopg.connect(there.service, autocommit=True) as connection:
                    assert connection.execute(store_there, (database.key, json.dumps(ERROR))).fetchone()
                password = "SELECT rolpassword FROM pg_authid WHERE rolname = 'early'"
                assert there.fetch(password) == database.fetch(password)
                with psycopg.connect(make_conninfo(there.owner, user="early")) as connection:
                    assert connection.execute("SELECT events FROM opensentry.issue_totals").fetchone()
            assert set(database.counts().values()) <= {2, 4}
        finally:
            for server in cluster.servers:
                execute(server.conninfo, "SET citus.enable_ddl_propagation = off", "DROP ROLE IF EXISTS early")


@pytest.mark.parametrize("steps", range(0, len(REFERENCE_TABLES) + len(DISTRIBUTED_TABLES), 3))
def test_killed_half_way_ingest_goes_on_and_the_next_run_finishes(
    cluster: nodes.Nodes,
    start: Start,
    steps: int,
) -> None:
    with nodes.database(cluster) as owner:
        database = clusters.migrated(owner)
        store(database, "0 days", 2)
        process = start(owner, "distribute")
        assert process.stdout
        for _ in range(steps + 1):
            process.stdout.readline()
        process.kill()
        process.communicate()
        items = json.dumps([ERROR, TRANSACTION, AI_GENERATION])
        with psycopg.connect(database.service, autocommit=True) as connection:
            assert connection.execute(
                "SELECT opensentry.ingest(%s, gen_random_uuid(), %s, 'key')", (database.key, items)
            ).fetchone()
        done = command("distribute", database_url=owner)
        assert (done.returncode, done.stderr) == (0, "")
        assert_distributed(cluster, database)
        assert set(database.counts().values()) == {3}


def test_two_runs_at_once_do_the_work_once(cluster: nodes.Nodes, start: Start) -> None:
    with nodes.database(cluster) as owner:
        database = clusters.migrated(owner)
        store(database, "0 days", 2)
        processes = [start(owner, "distribute") for _ in range(2)]
        printed = [process.communicate(timeout=120)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], printed
        for line in distribution.plan(State({name: Table(name) for name in DISTRIBUTED_TABLES})):
            assert "".join(printed).count(f"{line.does}\n") == 1
        assert_distributed(cluster, database)


def test_rights_that_were_taken_are_taken_on_every_node(cluster: nodes.Nodes) -> None:
    with nodes.database(cluster) as owner:
        database = clusters.migrated(owner)
        distribute(owner)
        # Citus does not send this of a view to the others.
        execute(
            owner,
            "SET citus.enable_ddl_propagation = off",
            "REVOKE SELECT ON opensentry.issue_totals FROM opensentry_reader",
        )
        assert distribute(owner) == ["gave the roles the same rights to TABLE opensentry.issue_totals on every node"]
        assert_distributed(cluster, database)
        assert distribute(owner) == []


def test_a_function_is_nobodys_from_the_moment_that_a_node_has_it(cluster: nodes.Nodes) -> None:
    with nodes.database(cluster, citus=False) as owner:
        database = clusters.migrated(owner)
        execute(owner, "CREATE EXTENSION citus")
        nodes.join(cluster, owner)
        there = on(database, cluster.workers[0])
        everybodys = (
            "SELECT p.oid::regprocedure::text AS name FROM pg_proc AS p, "
            "LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a "
            "WHERE p.pronamespace = to_regnamespace('opensentry') AND a.grantee = 0"
        )
        seen = []

        def look(line: str) -> None:
            if line.startswith("created opensentry.") and "(" in line:
                seen.append(line)
                assert line.split("(")[0].removeprefix("created ") not in str(there.fetch(everybodys))

        with psycopg.connect(owner, autocommit=True) as connection:
            distribution.distribute(connection, look)
        assert len(seen) > 10
        assert there.fetch(everybodys) == []


def test_an_owner_that_is_no_superuser_and_has_a_name_with_quotes(cluster: nodes.Nodes) -> None:
    name = 'o\'brien "x"'
    quoted = '"o\'brien ""x"""'
    with nodes.database(cluster, citus=False) as superuser:
        database = conninfo_to_dict(superuser)["dbname"]
        try:
            execute(superuser, f"CREATE ROLE {quoted} LOGIN", f"GRANT CREATE ON DATABASE {database} TO {quoted}")
            owner = make_conninfo(superuser, user=name)
            assert command("migrate", database_url=owner).returncode == 0
            execute(superuser, "CREATE EXTENSION citus")
            nodes.join(cluster, superuser)
            for arguments in (["distribute"], ["maintain"], ["project", "create", "shop"], ["distribute"]):
                done = command(*arguments, database_url=owner)
                assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == "nothing to do\n"
            [row] = Database(superuser, "", "", "").fetch("SELECT * FROM opensentry.project_keys")
            assert_distributed(cluster, Database(superuser, superuser, str(row["project_id"]), row["public_key"]))
        finally:
            for server in cluster.servers:
                there = make_conninfo(server.conninfo, dbname=database)
                execute(there, "SET citus.enable_ddl_propagation = off", f"DROP OWNED BY {quoted} CASCADE")
                execute(there, "SET citus.enable_ddl_propagation = off", f"DROP ROLE {quoted}")


def test_a_node_that_is_away_and_roles_that_no_node_has() -> None:
    with nodes.running() as cluster, nodes.database(cluster, citus=False) as owner:
        database = clusters.migrated(owner)
        store(database, "0 days", 2)
        execute(owner, "CREATE EXTENSION citus")
        nodes.join(cluster, owner)
        cluster.workers[1].kill()
        for arguments in (["distribute"], ["distribute", "--dry-run"], ["distribute"]):
            done = command(*arguments, database_url=owner)
            assert done.returncode == (0 if "--dry-run" in arguments else 1)
        with psycopg.connect(database.service, autocommit=True) as connection:
            ingest = "SELECT opensentry.ingest(%s, gen_random_uuid(), %s)"
            assert connection.execute(ingest, (database.key, json.dumps(ERROR))).fetchone() != (None,)
        cluster.workers[1].start(*nodes.SETTINGS)
        done = command("distribute", database_url=owner)
        assert (done.returncode, done.stderr) == (0, "")
        assert_distributed(cluster, database)
        assert database.counts()["events"] == 3
        for server in cluster.servers:
            with psycopg.connect(on(database, server).service, autocommit=True) as connection:
                assert connection.execute(ingest, (database.key, json.dumps(ERROR))).fetchone() != (None,)


def test_progress_is_reported_while_rows_are_copied(cluster: nodes.Nodes) -> None:
    with nodes.database(cluster) as owner:
        database = clusters.migrated(owner)
        database.fetch(
            "INSERT INTO opensentry.idempotency_keys (project_id, key, batch_id) "
            "SELECT %s, n::text, gen_random_uuid() FROM generate_series(1, 1100000) AS n",
            database.project_id,
        )
        database.fetch("ANALYZE opensentry.idempotency_keys")
        said = distribute(owner)
        copying = next(n for n, line in enumerate(said) if line.startswith("copying about 1,"))
        assert said[copying + 1] == "copied 1000000 rows so far"
        assert database.fetch("SELECT count(*) FROM opensentry.idempotency_keys") == [{"count": 1_100_000}]


def test_only_the_owner_may_distribute(cluster: nodes.Nodes) -> None:
    with nodes.database(cluster) as owner:
        database = clusters.migrated(owner)
        for conninfo in (database.service, embedded.viewer_conninfo(owner)):
            done = command("distribute", database_url=conninfo)
            assert done.returncode == 1
            assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("version", [7, 11])
def test_later_migrations_reach_every_node(
    cluster: nodes.Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """A database that was distributed at an older version, and one that a version to come adds things to."""
    price = "INSERT INTO opensentry.model_prices (provider, model, input_usd, output_usd) VALUES"
    folder = tmp_path / "sql"
    folder.mkdir()
    paths = sorted(resources.folder("sql").glob("*.sql"))
    for path in paths[:version]:
        shutil.copy(path, folder)
    monkeypatch.setattr(resources, "folder", lambda _: folder)
    with nodes.database(cluster) as owner:
        database = clusters.migrated(owner)
        embedded.viewer_conninfo(owner)
        distribute(owner)
        store(database, "0 days", 2)
        if version == 11:
            database.fetch(f"{price} ('openai-chat', 'a', 1, 1), ('openai', 'b', 2, 2), ('groq-chat', 'b', 3, 3)")
        for path in paths[version:]:
            shutil.copy(path, folder)
        (folder / "9000_later.sql").write_text(
            "ALTER TABLE opensentry.events ADD COLUMN colour text;\n"
            "CREATE INDEX events_colour ON ONLY opensentry.events (project_id, colour);\n"
            "CREATE FUNCTION opensentry.colours(since timestamptz) RETURNS TABLE (colour text) LANGUAGE sql STABLE AS "
            "$$ SELECT colour FROM opensentry.events WHERE received_at >= since $$;\n"
            "REVOKE ALL ON FUNCTION opensentry.colours FROM PUBLIC;\n"
            "GRANT EXECUTE ON FUNCTION opensentry.colours TO opensentry_reader;\n"
            "CREATE VIEW opensentry.coloured AS SELECT * FROM opensentry.colours('-infinity');\n"
            "GRANT SELECT ON opensentry.coloured TO opensentry_reader;\n"
        )
        said: list[str] = []
        with psycopg.connect(owner, autocommit=True) as connection:
            assert [*migrations.migrate(connection)][-1] == "9000_later.sql"
            distribution.follow(connection, said.append)
            store(database, "200 days", 2)
            maintain.maintain(connection, FOREVER, said.append)
        assert f"created partition events_{month(database, '200 days')}" in said
        assert_distributed(cluster, database)
        for server in cluster.servers:
            reader = Database(make_conninfo(owner, port=server.port, user="opensentry_viewer"), "", "", "")
            assert len(reader.fetch("SELECT * FROM opensentry.coloured")) == 4
        if version == 11:
            providers = database.fetch("SELECT provider FROM opensentry.model_prices ORDER BY input_usd")
            assert [row["provider"] for row in providers] == ["openai", "openai", "groq"]
        invalid = "SELECT FROM pg_index WHERE NOT indisvalid"
        for server in cluster.servers:
            assert on(database, server).fetch(invalid) == []
