"""The real PgBouncer in transaction mode, as Debian has it: nothing has to be set for it."""

import argparse
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
import webtest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from opensentry_ingest import commands, uuids
from opensentry_ingest.viewer import Viewer
from tests import contract, support
from tests.conftest import execute
from tests.databases import clusters
from tests.databases.conftest import Start
from tests.test_maintain import load, lose_partitions, month, store, tables

# The name of the database decides the role. All clients of a role share a few connections to PostgreSQL, and PgBouncer
# gives them out in turn: this is where a statement prepared for one client, or a lock of its session, meets another.
CONFIGURATION = """
[databases]
service = host=127.0.0.1 port={postgres} dbname={database} user=opensentry_service
owner = host=127.0.0.1 port={postgres} dbname={database} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
server_round_robin = 1
"""

PRICES = str(Path(__file__).with_name("prices.csv"))

COMMANDS = (
    "migrate",
    "maintain",
    "maintain --dry-run",
    "regroup",
    "project create shop{number}",
    "project list",
    "key create {project}",
    "key list {project}",
    "key revoke {key}",
    "issues",
    "issue {issue}",
    "resolve {issue}",
    "ignore {issue}",
    "reopen {issue}",
    "stats",
    "trace {trace}",
    "show {batch}",
    f"prices import {PRICES}",
    "prices list",
    "prices set openai gpt-{number} --input 1 --output 2",
    "prices delete anthropic claude-{number}",
)
"""Every command that needs the database and ends by itself, as it is called."""

WITHOUT_END = {"tail"}

WITH_CITUS = {"distribute"}
"""Commands that tests/citus/ tests."""

WITHOUT_DATABASE = {"serve", "view", "check", "schema"}
"""Commands with nothing to do in PostgreSQL, except for `serve` and `view`, whose requests are tested by themselves."""


@dataclasses.dataclass(frozen=True)
class PgBouncer:
    size: int
    """Connections to PostgreSQL for each role."""
    service: str
    owner: str

    def sessions(self) -> set[tuple[int, int, int]]:
        """Return the owner's connections to PostgreSQL: process id, advisory locks, prepared statements."""
        statement = (
            "SELECT pg_backend_pid(), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), "
            "(SELECT count(*) FROM pg_prepared_statements)"
        )
        with psycopg.connect(self.owner, autocommit=True, prepare_threshold=None) as connection:
            return {connection.execute(statement).fetchall()[0] for _ in range(2 * self.size)}


@pytest.fixture(scope="module")
def cluster(programs: Path) -> Iterator[clusters.Cluster]:
    with clusters.running(programs) as cluster:
        yield cluster


@pytest.fixture
def database(cluster: clusters.Cluster) -> Iterator[support.Database]:
    """A migrated database that a test has to itself."""
    name = f"test_{secrets.token_hex(4)}"
    # Partitions are by month in UTC, whatever the time zone of a session is.
    execute(cluster.conninfo, f"CREATE DATABASE {name}", f"ALTER DATABASE {name} SET timezone = 'America/New_York'")
    yield clusters.migrated(make_conninfo(cluster.conninfo, dbname=name))
    execute(cluster.conninfo, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=[1, 2], ids=["pool of 1", "pool of 2"])
def pgbouncer(database: support.Database, request: pytest.FixtureRequest) -> Iterator[PgBouncer]:
    """A PgBouncer in front of the database, with as many connections open as it may have."""
    port = support.free_port()
    postgres = conninfo_to_dict(database.owner)
    address = f"host=127.0.0.1 port={port}"
    pooler = PgBouncer(request.param, f"{address} dbname=service user=any", f"{address} dbname=owner user=any")
    configuration = CONFIGURATION.format(
        postgres=postgres["port"], database=postgres["dbname"], port=port, size=pooler.size
    )
    with clusters.folder() as folder:
        (folder / "pgbouncer.ini").write_text(configuration)
        program = [support.tool("pgbouncer"), "--quiet", str(folder / "pgbouncer.ini")]
        process = subprocess.Popen(program, user="pgserver" if os.geteuid() == 0 else None, stderr=subprocess.DEVNULL)
        try:
            support.wait_until(lambda: support.listens(port))
            with ExitStack() as stack:
                for conninfo in (pooler.service, pooler.owner) * pooler.size:
                    # Not in autocommit mode, so each of them holds a connection until all have one.
                    stack.enter_context(psycopg.connect(conninfo)).execute("SELECT")
            yield pooler
        finally:
            process.terminate()
            process.wait(20)


def bounds(database: support.Database) -> dict[str, str]:
    """Return the partitions, each with the times that it is for."""
    statement = (
        "SELECT relname AS name, pg_get_expr(relpartbound, oid) AS bound FROM pg_class "
        "WHERE relispartition AND relkind = 'r' AND relnamespace = 'opensentry'::regnamespace"
    )
    return {row["name"]: row["bound"] for row in database.fetch(statement)}


def subcommands(parser: argparse.ArgumentParser, prefix: str = "") -> set[str]:
    """Return the commands of a parser, such as `migrate` and `key list`."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        return {prefix.strip()}
    return {name for word, child in nested[0].choices.items() for name in subcommands(child, f"{prefix} {word}")}


def test_the_contract_holds(database: support.Database, pgbouncer: PgBouncer, tmp_path: Path) -> None:
    with support.gunicorn(pgbouncer.service, tmp_path / "log", "--workers", "2", "--threads", "4") as server:
        contract.check(server.url, database)


def test_many_clients_share_the_connections(database: support.Database, pgbouncer: PgBouncer, tmp_path: Path) -> None:
    def post(number: int) -> str:
        if number % 5 == 0:
            assert support.answers(server.url + "/ready")
        body = json.dumps({**support.ERROR, "message": str(number)}).encode()
        request = urllib.request.Request(f"{server.url}/v1/ingest?key={database.key}", body)
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.status == 202
            batch_id: str = json.load(response)["id"]
            return batch_id

    with (
        support.gunicorn(pgbouncer.service, tmp_path / "log", "--workers", "2", "--threads", "4") as server,
        ThreadPoolExecutor(16) as threads,
    ):
        batches = list(threads.map(post, range(400)))
    assert len({database.rows("events", batch)[0]["message"] for batch in batches}) == 400


@pytest.mark.parametrize("template", COMMANDS)
def test_a_command_works_twice_in_a_row_and_leaves_nothing_in_a_session(
    database: support.Database, pgbouncer: PgBouncer, template: str
) -> None:
    lose_partitions(database)
    ingest = "SELECT opensentry.ingest(%s, gen_random_uuid(), %s)::text AS id"
    [batch] = database.fetch(ingest, database.key, json.dumps({**support.ERROR, "traceId": "abc"}))
    [issue] = database.fetch("SELECT fingerprint FROM opensentry.issues")
    support.command("prices", "import", PRICES, database_url=database.owner)
    names = {
        "project": "test",
        "key": database.key,
        "batch": batch["id"],
        "issue": issue["fingerprint"],
        "trace": "abc",
    }
    if template == "migrate":
        execute(database.owner, "DROP SCHEMA opensentry CASCADE")
    for number in range(2):
        arguments = template.format(number=number, **names).split()
        done = support.command(*arguments, database_url=pgbouncer.owner)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout
        sessions = pgbouncer.sessions()
        assert len(sessions) == pgbouncer.size
        assert {(locks, prepared) for _, locks, prepared in sessions} == {(0, 0)}


def test_no_command_is_left_out() -> None:
    every = subcommands(commands._parser())
    tested = {name for name in every if any(f"{template} ".startswith(f"{name} ") for template in COMMANDS)}
    assert tested == every - WITHOUT_DATABASE - WITHOUT_END - WITH_CITUS


def test_the_pages_of_the_viewer_leave_nothing_in_a_pooled_session(
    database: support.Database, pgbouncer: PgBouncer, viewer_of: Callable[..., Viewer]
) -> None:
    viewer = webtest.TestApp(viewer_of(pgbouncer.owner))
    for _ in range(3):
        for path in ("/issues", "/performance", "/llm", "/projects"):
            assert viewer.get(path).status_int == 200
    assert {(locks, prepared) for _, locks, prepared in pgbouncer.sessions()} == {(0, 0)}


def test_tail_prints_each_item_once(database: support.Database, pgbouncer: PgBouncer, start: Start) -> None:
    tail = start(pgbouncer.owner, "tail")
    assert tail.stdout
    for message in ("first", "second", "third"):
        item = {"type": "error", "exception": {}, "message": message}
        database.fetch("SELECT opensentry.ingest(%s, %s, %s)", database.key, uuids.uuid7(), json.dumps(item))
        assert tail.stdout.readline().endswith(f"  test  {message}\n")
    tail.send_signal(signal.SIGINT)
    assert tail.communicate(timeout=60)[0] == ""
    assert tail.returncode == 0
    assert {(locks, prepared) for _, locks, prepared in pgbouncer.sessions()} == {(0, 0)}


def test_maintain_twice_at_once_and_migrate_lose_nothing_under_load(
    database: support.Database, pgbouncer: PgBouncer, start: Start, tmp_path: Path
) -> None:
    before = bounds(database)
    lose_partitions(database)
    store(database, "100 days", 20)
    with load(dataclasses.replace(database, service=pgbouncer.service), tmp_path) as running:
        started = [start(pgbouncer.owner, name) for name in ("maintain", "maintain", "migrate")]
        printed = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], printed
    assert set(running.statuses) == {202}
    assert set(database.counts().values()) == {20 + len(running.statuses)}
    assert running.counted == sorted(running.counted)
    assert {name: bound for name, bound in bounds(database).items() if name in before} == before
    assert set(bounds(database)) - set(before) == {f"{table}_{month(database, '100 days')}" for table in support.TABLES}
    assert {name: rows for name, rows in tables(database).items() if name.endswith("_default") and rows} == {}


def wait_for_lock(database: support.Database, maintain: "subprocess.Popen[str]") -> None:
    """Wait until a `maintain` waits, within its transaction, for a lock that a reader of events prevents."""
    waiting = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE query LIKE 'LOCK TABLE%%ACCESS EXCLUSIVE%%' AND datname = current_database()"
    )
    support.wait_until(lambda: database.fetch(waiting) or maintain.poll() is not None)
    assert maintain.poll() is None


def test_migrate_waits_for_a_maintain_that_is_running(
    database: support.Database, pgbouncer: PgBouncer, start: Start
) -> None:
    lose_partitions(database)
    with psycopg.connect(database.owner) as reader:
        reader.execute("SELECT FROM opensentry.events")
        maintain = start(pgbouncer.owner, "maintain")
        wait_for_lock(database, maintain)
        migrate = start(pgbouncer.owner, "migrate")
        with pytest.raises(subprocess.TimeoutExpired):
            migrate.wait(3)
    assert [process.wait(60) for process in (maintain, migrate)] == [0, 0]
    assert migrate.communicate()[0] == "nothing to do\n"


@pytest.mark.parametrize("pooled", [True, False], ids=["through PgBouncer", "directly"])
def test_a_killed_maintain_leaves_no_lock(
    database: support.Database, pgbouncer: PgBouncer, start: Start, pooled: bool
) -> None:
    conninfo = pgbouncer.owner if pooled else database.owner
    lose_partitions(database)
    with psycopg.connect(database.owner) as reader:
        reader.execute("SELECT FROM opensentry.events")
        maintain = start(conninfo, "maintain")
        wait_for_lock(database, maintain)
        maintain.kill()
        maintain.communicate()
        assert start(conninfo, "migrate").communicate(timeout=60)[0] == "nothing to do\n"
    assert start(conninfo, "maintain").wait(60) == 0
    assert tables(database)["events_default"] == 0
