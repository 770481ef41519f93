"""The pool: no sharing between processes, every wait ends, and outages fail quickly and end with the first request."""

import ast
import concurrent.futures
import gc
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
import pytest

from opensentry_ingest import pool as pools
from opensentry_ingest.pool import Pool
from tests import support
from tests.support import Database


@pytest.fixture
def pool(database: Database) -> Iterator[Pool]:
    pool = Pool(database.service, 2, 5)
    yield pool
    pool.close()


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows with each attempt to connect."""
    attempts: list[None] = []
    connect = pools.Connection.connect

    def counted(*arguments: Any, **keywords: Any) -> pools.Connection:
        attempts.append(None)
        return connect(*arguments, **keywords)

    monkeypatch.setattr(pools.Connection, "connect", counted)
    return attempts


def backend(pool: Pool, seconds: float = 0) -> int:
    """Return the process id of the PostgreSQL backend that executes a statement of so many seconds."""
    with pool.connection() as connection:
        return int(connection.value("SELECT pg_backend_pid() FROM pg_sleep($1)", str(seconds)))


def blocked(pool: Pool) -> int:
    """Do the same, but wait for the lock that `lock()` holds."""
    with pool.connection() as connection:
        return int(connection.value("SELECT pg_backend_pid() FROM pg_advisory_xact_lock_shared(1)"))


@contextmanager
def lock(database: Database) -> Iterator[None]:
    """Have `blocked()` wait until the end of the context."""
    with psycopg.connect(database.owner) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(1)")
        yield


def waiting(database: Database, count: int, seconds: float = 0) -> list[int]:
    """Wait until so many statements have waited for the lock for so long; return their backends' process ids."""
    pids: list[int] = []

    def found() -> bool:
        rows = database.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory' "
            "AND clock_timestamp() - query_start >= make_interval(secs => %s)",
            seconds,
        )
        pids[:] = [row["pid"] for row in rows]
        return len(pids) == count

    support.wait_until(found)
    return pids


def connections(database: Database) -> set[int]:
    """Return the process ids of the backends that serve the pools."""
    rows = database.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = 'opensentry_service'"
    )
    return {row["pid"] for row in rows}


def test_a_connection_is_reused(pool: Pool) -> None:
    assert backend(pool) == backend(pool)


def test_a_failed_statement_keeps_its_connection(pool: Pool) -> None:
    before = backend(pool)
    with pytest.raises(psycopg.errors.DivisionByZero), pool.connection() as connection:
        connection.value("SELECT 1 / 0")
    assert backend(pool) == before


def test_a_statement_that_could_not_be_prepared_can_be_executed_later(pool: Pool) -> None:
    with pool.connection() as connection:
        for _ in range(2):
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.value("SELECT count(*) FROM later")
        connection.execute("CREATE TEMPORARY TABLE later ()")
        assert connection.value("SELECT count(*) FROM later") == "0"


@pytest.mark.parametrize("text", ["", "plain", "caf\u00e9 \u20ac \U0001f600", "x" * 1_000_000])
def test_text_is_unchanged_whatever_client_encoding_is_set(database: Database, text: str) -> None:
    pool = Pool(f"{database.service} client_encoding=LATIN1", 1, 5)
    with pool.connection() as connection:
        assert connection.value("SELECT $1::text", text) == text
        # Bytes decoded as another encoding would come back the same, but count as other characters in between.
        assert connection.value("SELECT char_length($1::text)", text) == str(len(text))
        assert connection.value("SELECT $1::text", None) == ""
    pool.close()


def test_the_pool_opens_at_most_its_size(pool: Pool) -> None:
    with ThreadPoolExecutor(8) as executor:
        pids = list(executor.map(lambda _: backend(pool, 0.05), range(16)))
    assert len(pids) == 16
    assert len(set(pids)) == 2


def test_a_forked_child_opens_its_own_connection(pool: Pool) -> None:
    before = backend(pool)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with suppress(BaseException):
            os.write(writer, str(backend(pool)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as file:
        of_the_child = int(file.read())
    assert of_the_child != before
    assert backend(pool) == before


def test_an_error_of_the_commit_is_an_error_of_the_statement(pool: Pool, database: Database) -> None:
    database.fetch("CREATE TABLE deferred (n integer UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    database.fetch(
        "CREATE FUNCTION twice() RETURNS integer LANGUAGE sql SECURITY DEFINER "
        "AS 'INSERT INTO deferred VALUES (1), (1); SELECT 1'"
    )
    for _ in range(2):
        with pool.connection() as connection, pytest.raises(psycopg.errors.UniqueViolation):
            connection.value("SELECT twice()")
    with pool.connection() as connection:
        assert connection.value("SELECT 1") == "1"


def test_a_closed_pool_can_be_used_again(pool: Pool) -> None:
    before = backend(pool)
    pool.close()
    assert backend(pool) != before


def test_a_returned_connection_goes_to_a_waiting_request(pool: Pool) -> None:
    with ThreadPoolExecutor() as executor:
        with ExitStack() as stack:
            lent = [stack.enter_context(pool.connection()) for _ in range(2)]
            answer = executor.submit(backend, pool)
        assert answer.result() in {connection.info.backend_pid for connection in lent}


def test_the_wait_for_a_connection_times_out(database: Database) -> None:
    pool = Pool(database.service, 2, 0.3)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(pool.connection())
        with pytest.raises(psycopg.OperationalError, match="no connection was free"):
            backend(pool)
    backend(pool)
    pool.close()


def test_a_request_waits_by_its_own_clock_while_the_only_connection_is_busy(database: Database) -> None:
    pool = Pool(database.service, 1, 5)
    with ThreadPoolExecutor() as executor:
        with lock(database):
            first = executor.submit(blocked, pool)
            waiting(database, 1, seconds=1.1)
            second = executor.submit(backend, pool)
            # A pool that gives up early does it within this time.
            concurrent.futures.wait([second], timeout=0.3)
        assert second.result() == first.result()
    pool.close()


def test_a_statement_times_out_and_its_connection_is_reused(database: Database) -> None:
    pool = Pool(database.service, 1, 0.3)
    before = backend(pool)
    with pytest.raises(psycopg.errors.QueryCanceled):
        backend(pool, 60)
    assert backend(pool) == before
    pool.close()


def test_a_statement_that_finishes_while_it_is_cancelled_succeeds(database: Database, proxy: support.Proxy) -> None:
    pool = Pool(proxy.conninfo, 1, 0.5)
    before = backend(pool)
    proxy.hold_answers()
    with ThreadPoolExecutor() as executor:
        answer = executor.submit(backend, pool)
        # After the timeout, but before the pool gives up on the answer.
        threading.Timer(0.8, proxy.resume).start()
        assert answer.result() == before
    pool.close()


def test_a_statement_that_the_operator_cancels_keeps_its_connection(pool: Pool, database: Database) -> None:
    with ThreadPoolExecutor() as executor, lock(database):
        answer = executor.submit(blocked, pool)
        (pid,) = waiting(database, 1)
        database.fetch("SELECT pg_cancel_backend(%s)", pid)
        assert isinstance(answer.exception(), psycopg.errors.QueryCanceled)
        assert backend(pool) == pid


def test_a_killed_backend_fails_one_request_only(database: Database) -> None:
    pool = Pool(database.service, 3, 5)
    with ThreadPoolExecutor() as executor:
        with lock(database):
            first = executor.submit(blocked, pool)
            (pid,) = waiting(database, 1)
            second = executor.submit(blocked, pool)
            waiting(database, 2)
            database.fetch("SELECT pg_terminate_backend(%s)", pid)
            assert isinstance(first.exception(), psycopg.OperationalError)
            # Two slots are free, and the second request still has its connection.
            others = {backend(pool) for _ in range(3)}
            assert len(others) == 1
        assert second.result() not in others | {pid}
    pool.close()


def test_an_idle_connection_that_postgresql_closed_costs_no_request(pool: Pool, database: Database) -> None:
    before = backend(pool)
    database.fetch("SELECT pg_terminate_backend(%s, 10000)", before)
    assert backend(pool) != before


@pytest.mark.parametrize("limit", [1, 2])
def test_requests_share_the_connections_that_the_server_allows(database: Database, limit: int) -> None:
    pool = Pool(database.service, 4, 5)
    database.fetch(f"ALTER ROLE opensentry_service CONNECTION LIMIT {limit}")
    try:
        with ThreadPoolExecutor() as executor:
            with lock(database):
                served = {executor.submit(blocked, pool) for _ in range(limit)}
                allowed = set(waiting(database, limit))
                others: list[Future[int]] = [executor.submit(backend, pool) for _ in range(6)]
                # A pool that gives up early does it within this time.
                concurrent.futures.wait(others, timeout=0.5)
            assert {answer.result() for answer in [*served, *others]} == allowed
    finally:
        database.fetch("ALTER ROLE opensentry_service CONNECTION LIMIT -1")
    # No slot was lost.
    with ExitStack() as stack:
        lent = [stack.enter_context(pool.connection()) for _ in range(4)]
        assert len({connection.info.backend_pid for connection in lent}) == 4
    pool.close()


def test_requests_fail_while_connections_are_refused_and_the_first_one_after_it_succeeds(
    database: Database, proxy: support.Proxy
) -> None:
    pool = Pool(proxy.conninfo, 2, 5)
    for _ in range(3):
        backend(pool)
        proxy.stop()
        for _ in range(5):
            with pytest.raises(psycopg.OperationalError):
                backend(pool)
        proxy.start()
        backend(pool)
    pool.close()


def test_a_host_name_that_does_not_resolve_is_an_outage() -> None:
    pool = Pool("host=database.invalid user=x", 1, 5)
    for _ in range(2):
        with pytest.raises(psycopg.OperationalError):
            backend(pool)
    pool.close()


def test_while_one_request_tries_to_connect_in_vain_the_others_fail_without_waiting(
    attempts: list[None],
) -> None:
    """A listener accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(8) as executor:
        pool = Pool(f"host=127.0.0.1 port={listener.getsockname()[1]} user=x connect_timeout=2", 4, 5)
        # Nothing is known yet, so all wait, and one tries.
        answers = [executor.submit(backend, pool) for _ in range(4)]
        assert all(isinstance(answer.exception(), psycopg.OperationalError) for answer in answers)
        before = len(attempts)
        attempt = executor.submit(backend, pool)
        support.wait_until(lambda: len(attempts) == before + 1)
        for _ in range(20):
            with pytest.raises(psycopg.OperationalError, match="unreachable"):
                backend(pool)
        assert not attempt.done()
        assert isinstance(attempt.exception(), psycopg.errors.ConnectionTimeout)
        assert len(attempts) == before + 1


def test_a_blackholed_network_is_an_outage_and_the_first_request_after_it_succeeds(
    database: Database, proxy: support.Proxy, attempts: list[None]
) -> None:
    pool = Pool(proxy.conninfo, 2, 0.3)
    with ThreadPoolExecutor() as executor:
        pids = {answer.result() for answer in [executor.submit(backend, pool, 0.1) for _ in range(2)]}
        assert len(pids) == 2
        proxy.blackhole()
        with pytest.raises(psycopg.OperationalError, match="did not answer"):
            backend(pool)
        # The idle connection was closed too: it would have cost the next request its timeout.
        before = len(attempts)
        attempt = executor.submit(backend, pool)
        support.wait_until(lambda: len(attempts) == before + 1)
        with pytest.raises(psycopg.OperationalError, match="unreachable"):
            backend(pool)
        assert isinstance(attempt.exception(), psycopg.errors.ConnectionTimeout)
    proxy.stop()
    proxy.resume()
    proxy.start()
    assert backend(pool) not in pids
    pool.close()


def test_a_connection_that_is_lent_is_closed_after_the_pool(pool: Pool, database: Database) -> None:
    # The collector would close what the pool has lost.
    gc.disable()
    try:
        with pool.connection() as connection:
            pid = connection.info.backend_pid
            pool.close()
            assert connection.value("SELECT 1") == "1"
        support.wait_until(lambda: pid not in connections(database))
    finally:
        gc.enable()
    assert backend(pool) != pid


def test_an_interrupted_request_loses_no_slot(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(database.service, 1, 5)
    with pytest.raises(KeyboardInterrupt), pool.connection():
        raise KeyboardInterrupt
    before = backend(pool)
    # In the middle of a statement: it was sent, and nobody reads its answer.
    with monkeypatch.context() as patch, pool.connection() as connection:
        patch.setattr(pools.Connection, "_result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            connection.value("SELECT 1")
    assert backend(pool) != before
    pool.close()
    for name in ("connect", "value", "is_open"):
        with monkeypatch.context() as patch:
            patch.setattr(pools.Connection, name, interrupt)
            with pytest.raises(KeyboardInterrupt), pool.connection():
                pass
        backend(pool)
        pool.close()
    support.wait_until(lambda: not connections(database))


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_parameters_of_the_connection_string_take_precedence(database: Database) -> None:
    pool = Pool(f"{database.service} application_name=mine connect_timeout=7", 1, 5)
    with pool.connection() as connection:
        assert connection.info.get_parameters()["connect_timeout"] == "7"
        assert connection.info.parameter_status("application_name") == "mine"
    pool.close()
    pool = Pool(database.service, 1, 5)
    with pool.connection() as connection:
        assert connection.info.parameter_status("application_name") == "opensentry-ingest"
    pool.close()


def foreign_private_names(source: str) -> set[str]:
    """Return the names with a leading underscore that a module uses and does not define itself."""
    defined: set[str] = set()
    used: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.Attribute):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.attr)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            if any(name.startswith("psycopg") for name in names):
                used.update(part for name in names for part in name.split("."))
    return {name for name in used - defined if name.startswith("_") and not name.endswith("__")} - {
        "_asdict",
        "_fields",
        "_replace",
    }


def test_no_private_name_of_psycopg_is_used() -> None:
    """A release of psycopg may change them without notice."""
    assert foreign_private_names("import psycopg\nclass C(psycopg.Connection):\n def f(self): self._try_cancel()")
    assert foreign_private_names("from psycopg.errors import _WaitTimeout")
    assert foreign_private_names("import psycopg._queries")
    for path in (support.ROOT / "opensentry_ingest").rglob("*.py"):
        assert not foreign_private_names(path.read_text()), path
