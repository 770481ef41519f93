"""A database of the first version, in use, becomes one of this version: no request is refused, and no event is lost."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import admin, embedded, indexes, maintain, migrations, regroup, resources
from opensentry_ingest.errors import CommandError
from tests import support
from tests.databases.conftest import Start
from tests.support import Database
from tests.test_maintain import FOREVER, Load, load, month, store, tables

FIRST_VERSION = ("0001", "0002", "0003", "0004")
LATER = [path.name for path in sorted(resources.folder("sql").glob("*.sql")) if path.name[:4] not in FIRST_VERSION]
WANTED = {"events": 4, "transactions": 3, "spans": 1, "ai_generations": 3}
"""The number of indexes of each table, with that of its primary key."""


def migrate(database: Database) -> list[str]:
    with psycopg.connect(database.owner, autocommit=True) as connection:
        return migrations.migrate(connection)


def indexes_of(database: Database) -> dict[str, int]:
    """Return how many indexes each table and partition has; fail if one is invalid, or not part of its parent's."""
    rows = database.fetch(
        "SELECT t.relname AS name, c.relname AS index, i.indisvalid AS valid, "
        "c.relispartition OR t.relkind = 'p' AS attached "
        "FROM pg_index AS i JOIN pg_class AS t ON t.oid = i.indrelid JOIN pg_class AS c ON c.oid = i.indexrelid "
        "WHERE t.relnamespace = 'opensentry'::regnamespace AND (t.relkind = 'p' OR t.relispartition)"
    )
    assert [row for row in rows if not (row["valid"] and row["attached"])] == []
    names = [row["name"] for row in rows]
    return {name: names.count(name) for name in names}


def assert_all_indexes_are_there(database: Database) -> None:
    partitions = [name for name in tables(database) if not name.endswith("_replaced")]
    names = [*WANTED, *partitions]
    assert indexes_of(database) == {name: WANTED[max(w for w in WANTED if name.startswith(w))] for name in names}


def of_version(conninfo: str, numbers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Return a database with these migrations alone."""
    folder = tmp_path / "before"
    folder.mkdir()
    for path in resources.folder("sql").glob("*.sql"):
        if path.name.startswith(numbers):
            shutil.copy(path, folder)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        with monkeypatch.context() as patched:
            patched.setattr(resources, "folder", lambda _: folder)
            assert len(migrations.migrate(connection)) == len(numbers)
        project = admin.create_project(connection, "test")
    service = make_conninfo(embedded.service_conninfo(conninfo))
    return Database(conninfo, service, project["id"], project["public_key"])


@pytest.fixture
def old(bare_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database as the first version left it, with events of three months."""
    database = of_version(bare_database, FIRST_VERSION, tmp_path, monkeypatch)
    with psycopg.connect(bare_database, autocommit=True) as connection:
        for age in ("0 days", "40 days"):
            store(database, age, 10)
        maintain.maintain(connection, FOREVER, lambda _: None)
    store(database, "100 days", 10)
    return database


def waits(database: Database, query: str) -> bool:
    """Return whether a statement that begins so waits for a lock."""
    statement = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND query LIKE %s AND datname = current_database()"
    )
    return bool(database.fetch(statement, f"{query}%"))


def assert_it_waits_and_ingest_does_not(database: Database, running: Load, statement: str) -> None:
    support.wait_until(lambda: waits(database, statement), 60)
    for _ in range(2):
        posted = len(running.statuses)
        support.wait_until(partial(lambda posted: len(running.statuses) > posted + 50, posted), 60)
    support.wait_until(lambda: waits(database, statement), 60)


@pytest.mark.parametrize("held", ["SELECT FROM opensentry.events", "SELECT FROM opensentry.projects"])
def test_beside_a_long_reader_and_under_load_nothing_is_refused_or_lost(
    old: Database, tmp_path: Path, held: str
) -> None:
    with psycopg.connect(old.owner) as reader, ThreadPoolExecutor() as threads, load(old, tmp_path) as running:
        # With a snapshot that lasts as long as its transaction.
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute(held)
        migrating = threads.submit(migrate, old)
        what = "-- Grouping" if held.endswith("events") else "CREATE INDEX CONCURRENTLY"
        assert_it_waits_and_ingest_does_not(old, running, what)
        assert not migrating.done()
        reader.rollback()
        assert migrating.result(60) == LATER
    assert set(running.statuses) == {202}
    assert set(old.counts().values()) == {30 + len(running.statuses)}
    assert running.counted == sorted(running.counted)
    assert_all_indexes_are_there(old)


def test_a_reader_that_holds_an_index_holds_up_its_attachment_but_not_ingest(
    old: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "RETRY_SECONDS", 0.2)
    with monkeypatch.context() as patched:
        patched.setattr(indexes, "build", lambda _: None)
        assert migrate(old) == LATER
    this_month = f"events_{month(old, '0 days')}"
    columns = "(project_id, fingerprint, received_at)"
    old.fetch(f"CREATE INDEX CONCURRENTLY {this_month}_issue ON opensentry.{this_month} {columns}")
    with psycopg.connect(old.owner) as reader, ThreadPoolExecutor() as threads:
        reader.execute("SELECT FROM opensentry.events")
        with load(old, tmp_path, OPENSENTRY_DATABASE_TIMEOUT="1") as running:
            migrating = threads.submit(migrate, old)
            assert_it_waits_and_ingest_does_not(old, running, "ALTER INDEX")
            assert not migrating.done()
            reader.rollback()
            assert migrating.result(60) == []
        assert set(running.statuses) == {202}
    assert_all_indexes_are_there(old)


def test_a_migration_that_never_gets_its_lock_fails_with_one_line_and_leaves_nothing(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "RETRY_DELAYS_SECONDS", [0.1, 0.1])
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "100ms")
    with psycopg.connect(old.owner) as reader:
        reader.execute("SELECT FROM opensentry.events")
        with pytest.raises(CommandError, match=rf"^{LATER[0]} was not applied.*run `opensentry-ingest migrate` again$"):
            migrate(old)
    assert old.fetch("SELECT to_regclass('opensentry.issues') AS found") == [{"found": None}]
    assert migrate(old) == LATER


def test_two_at_once_do_the_work_once(old: Database) -> None:
    with ThreadPoolExecutor() as threads:
        applied = [name for names in threads.map(migrate, [old] * 3) for name in names]
    assert sorted(applied) == LATER
    assert_all_indexes_are_there(old)


def test_what_a_killed_migrate_left_is_finished_by_the_next(old: Database, start: Start) -> None:
    with psycopg.connect(old.owner) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT FROM opensentry.projects")
        process = start(old.owner, "migrate")
        support.wait_until(lambda: waits(old, "CREATE INDEX CONCURRENTLY") or process.poll() is not None, 60)
        process.kill()
        assert process.wait() < 0
        # Its backend would go on until the reader ends, and finish the build.
        old.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE 'CREATE INDEX CONCURRENTLY%%' AND datname = current_database()"
        )
        invalid = (
            "SELECT indexrelid FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid "
            "WHERE NOT indisvalid AND relkind = 'i'"
        )
        support.wait_until(lambda: old.fetch(invalid) and not waits(old, "CREATE INDEX CONCURRENTLY"))
    again = start(old.owner, "migrate")
    assert (again.communicate(timeout=60)[0], again.returncode) == ("nothing to do\n", 0)
    assert_all_indexes_are_there(old)


def test_partitions_that_maintain_makes_have_the_indexes(old: Database) -> None:
    migrate(old)
    for name in tables(old):
        if name.endswith(month(old, "-2 months")):
            old.fetch(f"DROP TABLE opensentry.{name}")
    store(old, "200 days")
    before = set(tables(old))
    with psycopg.connect(old.owner, autocommit=True) as connection:
        maintain.maintain(connection, FOREVER, lambda _: None)
    assert len(set(tables(old)) - before) >= 8
    assert_all_indexes_are_there(old)


def test_regroup_groups_what_the_first_version_stored(old: Database) -> None:
    migrate(old)
    store(old, "0 days")
    said: list[str] = []
    ungrouped = "SELECT count(*) FROM opensentry.events WHERE fingerprint IS NULL"
    assert old.fetch(ungrouped) == [{"count": 30}]
    with psycopg.connect(old.owner, autocommit=True) as connection:
        regroup.regroup(connection, said.append)
        assert said == ["regrouped 30 of 31 events"]
        regroup.regroup(connection, said.append)
        assert said == ["regrouped 30 of 31 events"]
    assert old.fetch(ungrouped) == [{"count": 0}]
    [issue] = old.fetch("SELECT title, events, first_seen, status FROM opensentry.issue_totals")
    assert (issue["title"], issue["events"], issue["status"]) == (
        "TypeError: Cannot read property 'x' of undefined",
        31,
        "open",
    )
    assert issue["first_seen"] == old.fetch("SELECT min(received_at) AS first FROM opensentry.events")[0]["first"]


def test_regroup_waits_for_a_maintain_that_moves_rows(old: Database) -> None:
    migrate(old)
    said: list[str] = []

    def run() -> None:
        with psycopg.connect(old.owner, autocommit=True) as connection:
            regroup.regroup(connection, said.append)

    with psycopg.connect(old.owner, autocommit=True) as other, ThreadPoolExecutor() as threads:
        with migrations.exclusive_transaction(other):
            running = threads.submit(run)
            support.wait_until(lambda: said or running.done())
            # What `maintain` does: an UPDATE of these rows, beside it, would find them gone.
            other.execute("CREATE TEMPORARY TABLE moved AS SELECT * FROM opensentry.events")
            other.execute("DELETE FROM opensentry.events")
            other.execute("INSERT INTO opensentry.events SELECT * FROM moved")
        running.result(60)
    assert said == ["waiting for a `maintain` or `migrate` to finish", "regrouped 30 of 30 events"]


VIEWS_OF_0008 = ("issue_totals", "issue_hours", "transaction_hours", "ai_generation_days", "trace_items")


def test_views_that_were_built_on_ours_keep_working(
    bare_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = tuple(f"{number:04}" for number in range(1, 9))
    database = of_version(bare_database, numbers, tmp_path, monkeypatch)
    periods = {f"{name}_of_period": f"{name}(now() - interval '1 year')" for name in VIEWS_OF_0008[:-1]}
    sources = {**{name: name for name in VIEWS_OF_0008}, **periods}
    database.fetch("CREATE SCHEMA dashboards")
    for name, source in sources.items():
        database.fetch(f"CREATE VIEW dashboards.{name} AS SELECT * FROM opensentry.{source}")
    store(database, "0 days")
    before = {name: database.fetch(f"SELECT * FROM dashboards.{name}") for name in sources}
    assert all(before.values())
    assert len(migrate(database)) == len(LATER) - 4
    assert {name: database.fetch(f"SELECT * FROM dashboards.{name}") for name in sources} == before

    # They have the new costs too.
    database.fetch("UPDATE opensentry.ai_generations SET total_cost_usd = NULL")
    assert [row["cost_usd"] for row in database.fetch("SELECT * FROM dashboards.ai_generation_days")] == [None]
    database.fetch(
        "INSERT INTO opensentry.model_prices (provider, model, input_usd, output_usd) VALUES ('*', '*', 1, 1)"
    )
    for name in ("ai_generation_days", "ai_generation_days_of_period"):
        assert [row["cost_usd"] > 0 for row in database.fetch(f"SELECT * FROM dashboards.{name}")] == [True]


def test_a_function_that_nobody_uses_is_not_kept(bare_database: str) -> None:
    with psycopg.connect(bare_database, autocommit=True) as connection:
        migrations.migrate(connection)
        found = connection.execute(
            "SELECT oid::regprocedure::text FROM pg_proc "
            "WHERE pronamespace = 'opensentry'::regnamespace AND proname ~ '[0-9]{4}$'"
        ).fetchall()
    assert found == []
