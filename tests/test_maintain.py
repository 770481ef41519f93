"""Maintenance: partitions ahead and dropped, the default partition emptied, keys forgotten, while ingest goes on."""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import SettingsError, admin, embedded, maintain, settings
from opensentry_ingest.errors import CommandError
from tests import support
from tests.conftest import execute
from tests.support import AI_GENERATION, ERROR, TRANSACTION, Database

FOREVER: dict[str, int | None] = dict.fromkeys(support.TABLES)


@pytest.fixture
def fresh(bare_database: str, postgres: str, template: str) -> Database:
    """A migrated database that a test has for itself."""
    name = psycopg.conninfo.conninfo_to_dict(bare_database)["dbname"]
    execute(postgres, f"DROP DATABASE {name}", f"CREATE DATABASE {name} TEMPLATE {template}")
    with psycopg.connect(bare_database, autocommit=True) as connection:
        project = admin.create_project(connection, "test")
    return Database(
        bare_database, make_conninfo(bare_database, user=embedded.SERVICE_ROLE), project["id"], project["public_key"]
    )


def run(database: Database, retention: dict[str, int | None] | None = None, dry_run: bool = False) -> list[str]:
    lines: list[str] = []
    with psycopg.connect(database.owner, autocommit=True) as connection:
        maintain.maintain(connection, retention or FOREVER, lines.append, dry_run)
    return lines


def command(database: Database, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "opensentry_ingest", "maintain", *arguments],
        env={"DATABASE_URL": database.owner, **environ},
        cwd=support.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def store(database: Database, age: str, count: int = 1) -> None:
    """Store rows of every table that were received some time ago."""
    items = json.dumps([ERROR, TRANSACTION, AI_GENERATION])
    with psycopg.connect(database.owner, autocommit=True) as connection:
        for _ in range(count):
            batch = connection.execute(
                "SELECT opensentry.ingest(%s, gen_random_uuid(), %s)", (database.key, items)
            ).fetchone()
            assert batch
            # Computed before the UPDATEs: in those, Citus takes constants only.
            time_then = "SELECT received_at - %s::interval FROM opensentry.events WHERE batch_id = %s"
            [(then,)] = connection.execute(time_then, (age, batch[0])).fetchall()
            for table in support.TABLES:
                connection.execute(
                    f"UPDATE opensentry.{table} SET received_at = %s WHERE batch_id = %s", (then, batch[0])
                )


def tables(database: Database) -> dict[str, int]:
    """Return the number of rows of each table that holds items: partitions, and what else there is."""
    names = [
        row["name"]
        for row in database.fetch(
            "SELECT relname AS name FROM pg_class WHERE relnamespace = 'opensentry'::regnamespace AND relkind = 'r' "
            "AND relname NOT IN "
            "('migrations', 'projects', 'project_keys', 'idempotency_keys', 'issues', 'model_prices')"
        )
    ]
    return {name: database.fetch(f"SELECT count(*) FROM opensentry.{name}")[0]["count"] for name in names}


def month(database: Database, age: str) -> str:
    return str(database.fetch("SELECT to_char((now() - %s::interval) AT TIME ZONE 'UTC', 'YYYY_MM') AS m", age)[0]["m"])


def lose_partitions(database: Database) -> None:
    """Leave the default partitions alone, as after months without maintenance."""
    for name in tables(database):
        if not name.endswith("_default"):
            execute(database.owner, f"DROP TABLE opensentry.{name}")


def test_partitions_are_made_ahead_for_every_table(fresh: Database) -> None:
    before = tables(fresh)
    lose_partitions(fresh)
    run(fresh)
    assert tables(fresh) == before
    ahead = month(fresh, "-3 months")
    assert {f"{table}_{ahead}" for table in support.TABLES} <= set(before)


def test_a_run_after_another_has_nothing_to_do(fresh: Database) -> None:
    store(fresh, "100 days")
    assert run(fresh, {**FOREVER, "events": 30})
    assert run(fresh, {**FOREVER, "events": 30}) == []
    assert command(fresh).stdout == "nothing to do\n"


def test_rows_leave_the_default_partition_for_their_months(fresh: Database) -> None:
    ages = ["100 days", "400 days", "0 days"]
    lose_partitions(fresh)
    for age in ages:
        store(fresh, age, 3)
    before = {table: fresh.fetch(f"SELECT * FROM opensentry.{table} ORDER BY batch_id") for table in support.TABLES}
    said = run(fresh)
    for table in support.TABLES:
        assert fresh.fetch(f"SELECT * FROM opensentry.{table} ORDER BY batch_id") == before[table]
        assert tables(fresh)[f"{table}_default"] == 0
        assert [tables(fresh)[f"{table}_{month(fresh, age)}"] for age in ages] == [3, 3, 3]
        assert f"moved 9 rows out of {table}_default" in said
    assert not [name for name in tables(fresh) if name.endswith("_replaced")]


def test_rows_in_many_steps_are_moved_once_each(fresh: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintain, "PROGRESS_INTERVAL_SECONDS", 0)
    lose_partitions(fresh)
    store(fresh, "0 days")
    for days in (0, 40, 80):
        fresh.fetch(
            "INSERT INTO opensentry.events (project_id, batch_id, position, received_at, timestamp, level) "
            "SELECT %s, gen_random_uuid(), n, now() - make_interval(days => %s), now(), 'error' "
            "FROM generate_series(1, 2000) AS n",
            fresh.project_id,
            days,
        )
    said = run(fresh)
    assert fresh.counts()["events"] == 6001
    assert tables(fresh)["events_default"] == 0
    assert tables(fresh)[f"events_{month(fresh, '40 days')}"] == 2000
    progress = [line for line in said if line.startswith("moving ")]
    assert len(progress) > 10
    assert progress[0].endswith("of 6,001 rows out of events_default")


def test_only_partitions_past_the_retention_of_their_table_are_dropped(fresh: Database) -> None:
    store(fresh, "100 days")
    store(fresh, "29 days")
    store(fresh, "0 days")
    said = run(fresh, {"events": 30, "transactions": 365, "spans": 30, "ai_generations": None})
    old = month(fresh, "100 days")
    assert [line for line in said if "dropped" in line] == [
        f"dropped partition events_{old}",
        f"dropped partition spans_{old}",
    ]
    assert fresh.counts() == {"events": 2, "transactions": 3, "spans": 2, "ai_generations": 3}


def test_without_a_retention_everything_is_kept(fresh: Database) -> None:
    store(fresh, "4000 days")
    completed = command(fresh)
    assert completed.returncode == 0
    assert "dropped" not in completed.stdout
    assert set(fresh.counts().values()) == {1}


def test_spans_are_kept_no_longer_than_their_transactions() -> None:
    url = "postgresql://localhost/db"
    assert settings.Settings(url, retention_days_transactions=30).retention()["spans"] == 30
    assert settings.Settings(url, retention_days_transactions=30, retention_days_spans=7).retention()["spans"] == 7
    assert settings.Settings(url, retention_days_spans=7).retention()["transactions"] is None
    with pytest.raises(SettingsError, match="OPENSENTRY_RETENTION_DAYS_SPANS"):
        settings.Settings(url, retention_days_transactions=30, retention_days_spans=31)


@pytest.mark.parametrize("days", ["0", "-1", "1.5", "a month", "36501"])
def test_a_retention_that_makes_no_sense_drops_nothing(fresh: Database, days: str) -> None:
    store(fresh, "100 days")
    completed = command(fresh, OPENSENTRY_RETENTION_DAYS_EVENTS=days)
    assert completed.returncode == 1
    assert completed.stderr.startswith("opensentry-ingest: OPENSENTRY_RETENTION_DAYS_EVENTS: ")
    assert completed.stderr.count("\n") == 1
    assert fresh.counts()["events"] == 1


def test_old_idempotency_keys_are_forgotten_and_young_ones_kept(
    fresh: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintain, "KEYS_PER_STEP", 10)
    fresh.fetch(
        "INSERT INTO opensentry.idempotency_keys (project_id, key, batch_id, received_at) "
        "SELECT %s, 'key ' || n, gen_random_uuid(), now() - make_interval(hours => n) FROM generate_series(1, 60) AS n",
        fresh.project_id,
    )
    assert run(fresh) == ["deleted 37 idempotency keys"]
    assert fresh.fetch("SELECT count(*) FROM opensentry.idempotency_keys") == [{"count": 23}]


def test_a_dry_run_changes_nothing_and_says_what_a_run_then_does(fresh: Database) -> None:
    lose_partitions(fresh)
    store(fresh, "100 days")
    store(fresh, "0 days", 2)
    fresh.fetch(
        "INSERT INTO opensentry.idempotency_keys VALUES (%s, 'old', gen_random_uuid(), now() - interval '2 days')",
        fresh.project_id,
    )
    before = tables(fresh)
    foretold = command(fresh, "--dry-run", OPENSENTRY_RETENTION_DAYS_TRANSACTIONS="30").stdout.splitlines()
    assert tables(fresh) == before
    done = command(fresh, OPENSENTRY_RETENTION_DAYS_TRANSACTIONS="30").stdout.splitlines()
    assert foretold == [f"would have {line}" for line in done]
    assert {"deleted 1 idempotency keys", f"dropped partition spans_{month(fresh, '100 days')}"} <= set(done)


def test_the_role_of_the_web_processes_may_not_maintain(fresh: Database) -> None:
    completed = command(Database(fresh.service, fresh.service, fresh.project_id, fresh.key))
    assert completed.returncode == 1
    assert completed.stderr.count("\n") == 1
    assert "use the DATABASE_URL of the role that migrated" in completed.stderr


class Load:
    """Clients that post batches until they are told to stop, and a reader that counts the events all the time."""

    def __init__(self, database: Database, url: str) -> None:
        self.database, self.url = database, url
        self.statuses: list[int] = []
        self.counted: list[int] = []
        self.stopped = threading.Event()

    def post(self) -> None:
        body = json.dumps([ERROR, TRANSACTION, AI_GENERATION]).encode()
        while not self.stopped.is_set():
            request = urllib.request.Request(f"{self.url}/v1/ingest?key={self.database.key}", body)
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    self.statuses.append(response.status)
            except urllib.error.HTTPError as error:
                self.statuses.append(error.code)

    def read(self) -> None:
        with psycopg.connect(self.database.owner, autocommit=True) as connection:
            while not self.stopped.is_set():
                row = connection.execute("SELECT count(*) FROM opensentry.events").fetchone()
                self.counted.append(row[0] if row else -1)
                time.sleep(0.01)


@contextmanager
def load(database: Database, tmp_path: Path, **environ: str) -> Iterator[Load]:
    with support.gunicorn(database.service, tmp_path / "log", environ=environ) as server:
        running = Load(database, server.url)
        threads = [threading.Thread(target=work) for work in (*[running.post] * 3, running.read)]
        for thread in threads:
            thread.start()
        try:
            support.wait_until(lambda: len(running.statuses) > 50)
            yield running
            reached = len(running.statuses)
            support.wait_until(lambda: len(running.statuses) > reached + 50)
        finally:
            running.stopped.set()
            for thread in threads:
                thread.join()


def test_under_load_no_event_is_refused_lost_doubled_or_out_of_sight(fresh: Database, tmp_path: Path) -> None:
    lose_partitions(fresh)
    store(fresh, "100 days", 20)
    with load(fresh, tmp_path) as running:
        run(fresh)
    assert set(running.statuses) == {202}
    assert set(fresh.counts().values()) == {20 + len(running.statuses)}
    assert running.counted == sorted(running.counted)
    assert {name: rows for name, rows in tables(fresh).items() if name.endswith("_default") and rows} == {}


def test_twice_at_once_under_load_does_the_work_once(fresh: Database, tmp_path: Path) -> None:
    lose_partitions(fresh)
    store(fresh, "100 days", 20)
    with load(fresh, tmp_path) as running, ThreadPoolExecutor() as threads:
        said = [line for lines in threads.map(run, [fresh] * 4, [{**FOREVER, "spans": 30}] * 4) for line in lines]
    done = [line for line in said if not line.startswith("waiting ")]
    assert len(done) == len(set(done)) == 4 * 5 + 4 + 1
    assert set(running.statuses) == {202}
    counts = fresh.counts()
    assert counts.pop("spans") == len(running.statuses)
    assert set(counts.values()) == {20 + len(running.statuses)}


def test_a_long_read_holds_up_maintenance_but_not_ingest(
    fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintain, "RETRY_DELAYS_SECONDS", [0.1] * 5)
    lose_partitions(fresh)
    store(fresh, "0 days", 5)
    with psycopg.connect(fresh.owner) as reader:
        reader.execute("SELECT FROM opensentry.events")
        # A request that waited for longer than this second would be answered 503.
        with load(fresh, tmp_path, OPENSENTRY_DATABASE_TIMEOUT="1") as running:
            with pytest.raises(CommandError, match=r"^events: locked by a long transaction"):
                run(fresh)
            posted = len(running.statuses)
            support.wait_until(lambda: len(running.statuses) > posted + 50)
        assert set(running.statuses) == {202}
        assert set(tables(fresh)) & {f"events_{month(fresh, '0 days')}", "events_replaced"} == set()
    assert tables(fresh)["transactions_default"] == 0
    run(fresh)
    assert tables(fresh)["events_default"] == 0
    assert set(fresh.counts().values()) == {5 + len(running.statuses)}


def test_what_is_cut_short_is_undone_and_done_by_the_next_run(fresh: Database) -> None:
    lose_partitions(fresh)
    store(fresh, "100 days", 5)
    before = tables(fresh)
    with psycopg.connect(fresh.owner) as reader, ThreadPoolExecutor() as threads:
        reader.execute("SELECT FROM opensentry.events")
        running = threads.submit(run, fresh)
        killed: Any = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LOCK TABLE%%ACCESS EXCLUSIVE%%' "
            "AND datname = current_database()"
        )
        support.wait_until(lambda: fresh.fetch(killed))
        with pytest.raises(psycopg.OperationalError):
            running.result()
    assert tables(fresh) == before
    run(fresh)
    assert set(fresh.counts().values()) == {5}


def test_what_came_at_the_last_moment_is_put_where_it_belongs(fresh: Database) -> None:
    lose_partitions(fresh)
    store(fresh, "100 days", 5)
    execute(
        fresh.owner,
        "ALTER TABLE opensentry.events DETACH PARTITION opensentry.events_default",
        "ALTER TABLE opensentry.events_default RENAME TO events_replaced",
        "CREATE TABLE opensentry.events_default PARTITION OF opensentry.events DEFAULT",
    )
    run(fresh)
    assert tables(fresh)[f"events_{month(fresh, '100 days')}"] == 5
    assert "events_replaced" not in tables(fresh)
