"""The pool: processes do not share, waits end, an outage is quick, and it is over for the first request after it."""

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
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


def backend(pool: Pool, seconds: float = 0) -> int:
    """Return the process id of the PostgreSQL backend that serves one statement."""
    with pool.connection() as connection:
        return int(connection.value("SELECT pg_backend_pid() FROM pg_sleep($1)", str(seconds)))


def test_a_connection_is_used_again(pool: Pool) -> None:
    assert backend(pool) == backend(pool)


def test_a_statement_that_fails_costs_no_connection(pool: Pool) -> None:
    before = backend(pool)
    with pytest.raises(psycopg.errors.DivisionByZero), pool.connection() as connection:
        connection.value("SELECT 1 / 0")
    assert backend(pool) == before


def test_a_statement_that_cannot_be_prepared_is_tried_again(pool: Pool) -> None:
    with pool.connection() as connection:
        for _ in range(2):
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.value("SELECT count(*) FROM later")
        connection.execute("CREATE TEMPORARY TABLE later ()")
        assert connection.value("SELECT count(*) FROM later") == "0"


@pytest.mark.parametrize("text", ["", "plain", "caf\u00e9 \u20ac \U0001f600", "x" * 1_000_000])
def test_text_arrives_as_it_is_whatever_encoding_is_asked_for(database: Database, text: str) -> None:
    pool = Pool(f"{database.service} client_encoding=LATIN1", 1, 5)
    with pool.connection() as connection:
        assert connection.value("SELECT $1::text", text) == text
        # Bytes that are taken for another encoding come back the same, but are other characters in between.
        assert connection.value("SELECT char_length($1::text)", text) == str(len(text))
        assert connection.value("SELECT $1::text", None) == ""
    pool.close()


def test_no_more_connections_than_the_size_are_opened(pool: Pool) -> None:
    with ThreadPoolExecutor(8) as executor:
        pids = list(executor.map(lambda _: backend(pool, 0.05), range(16)))
    assert len(pids) == 16
    assert len(set(pids)) == 2


def test_a_fork_takes_no_connection_along(pool: Pool) -> None:
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


def test_a_pool_works_again_after_its_close(pool: Pool) -> None:
    before = backend(pool)
    pool.close()
    assert backend(pool) != before


def test_who_waits_gets_the_connection_that_comes_back(pool: Pool) -> None:
    with ThreadPoolExecutor() as executor:
        with ExitStack() as stack:
            lent = [stack.enter_context(pool.connection()) for _ in range(2)]
            waiting = executor.submit(backend, pool)
        assert waiting.result() in {connection.info.backend_pid for connection in lent}


def test_a_wait_for_a_connection_ends(pool: Pool) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(pool.connection())
        with pytest.raises(psycopg.OperationalError, match="no connection was free"):
            backend(pool)
    backend(pool)


def test_a_statement_ends_and_its_connection_is_used_again(database: Database) -> None:
    pool = Pool(database.service, 1, 0.3)
    before = backend(pool)
    with pytest.raises(psycopg.errors.QueryCanceled):
        backend(pool, 60)
    assert backend(pool) == before
    pool.close()


def test_a_statement_that_was_committed_meanwhile_is_no_error(database: Database, proxy: support.Proxy) -> None:
    pool = Pool(proxy.conninfo, 1, 0.5)
    before = backend(pool)
    proxy.mute()
    with ThreadPoolExecutor() as executor:
        answer = executor.submit(backend, pool)
        # After its time, but within the last word.
        threading.Timer(0.8, proxy.hear).start()
        assert answer.result() == before
    pool.close()


def test_an_outage_that_refuses_is_heard_by_every_request_and_over_for_the_first_after_it(
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


def test_while_a_database_is_deaf_one_request_asks_and_the_others_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener takes connections and never says a word."""
    asked = []
    connect = pools.Connection.connect

    def counted(*arguments: Any, **keywords: Any) -> pools.Connection:
        asked.append(1)
        return connect(*arguments, **keywords)

    monkeypatch.setattr(pools.Connection, "connect", counted)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = Pool(f"host=127.0.0.1 port={listener.getsockname()[1]} user=x connect_timeout=2", 4, 5)
        with pytest.raises(psycopg.OperationalError):
            backend(pool)
        # Now it is known to be away.
        before = len(asked)
        with ThreadPoolExecutor(8) as executor:
            answers = [executor.submit(backend, pool) for _ in range(8)]
            assert all(isinstance(answer.exception(), psycopg.OperationalError) for answer in answers)
        assert len(asked) == before + 1


def test_where_postgresql_has_no_more_connections_those_there_are_serve_all(pool: Pool, database: Database) -> None:
    backend(pool)
    database.fetch("ALTER ROLE opensentry_service CONNECTION LIMIT 1")
    try:
        with ThreadPoolExecutor(4) as executor:
            assert len(set(executor.map(lambda _: backend(pool, 0.02), range(20)))) == 1
    finally:
        database.fetch("ALTER ROLE opensentry_service CONNECTION LIMIT -1")


def test_what_the_connection_string_says_counts(database: Database) -> None:
    pool = Pool(f"{database.service} application_name=mine connect_timeout=7", 1, 5)
    with pool.connection() as connection:
        assert connection.info.get_parameters()["connect_timeout"] == "7"
        assert connection.info.parameter_status("application_name") == "mine"
    pool.close()
    pool = Pool(database.service, 1, 5)
    with pool.connection() as connection:
        assert connection.info.parameter_status("application_name") == "opensentry-ingest"
    pool.close()
