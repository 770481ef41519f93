"""`Idempotency-Key`: a repeated request gets the first id and is stored once, whatever happened in between."""

import http.client
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import psycopg
import pytest
import webtest

from opensentry_ingest import admin
from tests import support
from tests.support import AI_GENERATION, ERROR, MINIMAL, TRANSACTION, Database, Server

BATCH = [ERROR, TRANSACTION, AI_GENERATION]


def post(client: webtest.TestApp, key: str, idempotency_key: str, payload: Any = BATCH) -> webtest.TestResponse:
    headers = {"X-Open-Sentry-Key": key, "Idempotency-Key": idempotency_key}
    return client.post_json("/v1/ingest", payload, headers=headers, expect_errors=True)


def send(server: Server, key: str, idempotency_key: str, payload: Any = BATCH) -> tuple[int, Any]:
    """Post to a server over a new connection; raise if it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        headers = {"X-Open-Sentry-Key": key, "Idempotency-Key": idempotency_key}
        connection.request("POST", "/v1/ingest", json.dumps(payload), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def is_stored_once(database: Database, before: dict[str, int], batch_id: str) -> bool:
    """Return whether exactly one `BATCH` was stored since `before`."""
    assert all(len(database.rows(table, batch_id)) == 1 for table in support.TABLES)
    return database.counts() == {table: count + 1 for table, count in before.items()}


def test_a_repeated_key_returns_the_same_id_and_stores_nothing(client: webtest.TestApp, database: Database) -> None:
    before = database.counts()
    first, again = post(client, database.key, "again"), post(client, database.key, "again")
    assert (first.status_int, again.status_int) == (202, 202)
    assert again.body == first.body
    assert is_stored_once(database, before, first.json["id"])
    # Only the key is compared, not the payload, and it is case-sensitive.
    assert post(client, database.key, "again", MINIMAL).json == first.json
    assert post(client, database.key, "Again").json != first.json
    database.fetch("DELETE FROM opensentry.idempotency_keys")


def test_without_a_key_the_same_payload_is_stored_each_time(client: webtest.TestApp, database: Database) -> None:
    ids = {support.post(client, database.key, MINIMAL).json["id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(len(database.rows("events", id)) == 1 for id in ids)


def test_projects_do_not_share_keys(client: webtest.TestApp, database: Database) -> None:
    with psycopg.connect(database.owner, autocommit=True) as connection:
        other = admin.create_project(connection, f"other {client.app}")["public_key"]
    first, second = post(client, database.key, "shared"), post(client, other, "shared")
    assert first.json["id"] != second.json["id"]
    assert post(client, other, "shared").json == second.json
    assert len(database.rows("events", second.json["id"])) == 1
    database.fetch("DELETE FROM opensentry.idempotency_keys")


def test_public_keys_of_one_project_share_idempotency_keys(client: webtest.TestApp, database: Database) -> None:
    with psycopg.connect(database.owner, autocommit=True) as connection:
        rotated = admin.create_key(connection, "test")["public_key"]
    before = database.counts()
    first = post(client, database.key, "rotated")
    assert post(client, rotated, "rotated").json == first.json
    assert is_stored_once(database, before, first.json["id"])
    database.fetch("DELETE FROM opensentry.idempotency_keys")


def test_a_revoked_public_key_is_refused_even_for_a_stored_batch(client: webtest.TestApp, database: Database) -> None:
    with psycopg.connect(database.owner, autocommit=True) as connection:
        revoked = admin.create_key(connection, "test")["public_key"]
        assert post(client, revoked, "revoked").status_int == 202
        admin.revoke_key(connection, revoked)
    response = post(client, revoked, "revoked")
    assert (response.status_int, response.json) == (403, {"error": "Invalid DSN key"})
    database.fetch("DELETE FROM opensentry.idempotency_keys")


@pytest.mark.parametrize("garbage", ["", "x" * 256, "a\tb", "\x7f", "ä", "\xa0", "key\x00"])
def test_an_invalid_key_is_refused(client: webtest.TestApp, database: Database, garbage: str) -> None:
    before = database.counts()
    # WSGI passes bytes decoded as Latin-1 (PEP 3333).
    response = client.post_json(
        f"/v1/ingest?key={database.key}", MINIMAL, extra_environ={"HTTP_IDEMPOTENCY_KEY": garbage}, expect_errors=True
    )
    assert (response.status_int, response.json) == (400, {"error": "Invalid idempotency key"})
    assert database.counts() == before


@pytest.mark.parametrize("key", ["x", "x" * 255, "".join(map(chr, range(0x21, 0x7F))), "a b", "'; DROP TABLE x; --"])
def test_any_printable_ascii_is_a_valid_key(client: webtest.TestApp, database: Database, key: str) -> None:
    first = post(client, database.key, key)
    assert first.status_int == 202
    assert post(client, database.key, key).json == first.json
    database.fetch("DELETE FROM opensentry.idempotency_keys")


@pytest.mark.parametrize(("payload", "status"), [({"type": "x"}, 400), ({**MINIMAL, "timestamp": "2026-02-30"}, 400)])
def test_a_refused_request_leaves_its_key_unused(
    client: webtest.TestApp, database: Database, payload: Any, status: int
) -> None:
    before = database.counts()
    assert post(client, database.key, "unused", payload).status_int == status
    response = post(client, database.key, "unused")
    assert response.status_int == 202
    assert is_stored_once(database, before, response.json["id"])
    database.fetch("DELETE FROM opensentry.idempotency_keys")


def test_an_expired_key_can_be_used_again(client: webtest.TestApp, database: Database) -> None:
    first = post(client, database.key, "old")
    database.fetch("UPDATE opensentry.idempotency_keys SET received_at = now() - interval '25 hours'")
    # It is kept for at least a day, and then until the next maintenance.
    assert post(client, database.key, "old").json == first.json
    database.fetch("DELETE FROM opensentry.idempotency_keys WHERE received_at < now() - interval '1 day'")
    second = post(client, database.key, "old")
    assert second.json != first.json
    assert post(client, database.key, "old").json == second.json
    assert len(database.rows("events", second.json["id"])) == 1
    database.fetch("DELETE FROM opensentry.idempotency_keys")


@pytest.mark.parametrize("deleted", [True, False])
def test_a_key_that_is_being_deleted_is_stored_once(server: Server, database: Database, deleted: bool) -> None:
    first = send(server, database.key, f"ageing {deleted}")[1]
    before = database.counts()
    with ThreadPoolExecutor() as executor, psycopg.connect(database.owner) as maintenance:
        maintenance.execute("DELETE FROM opensentry.idempotency_keys")
        answer = executor.submit(send, server, database.key, f"ageing {deleted}")
        support.wait_until(lambda: waiting(database) == 1)
        maintenance.commit() if deleted else maintenance.rollback()
        status, second = answer.result()
    assert status == 202
    if deleted:
        assert is_stored_once(database, before, second["id"])
        assert second != first
    else:
        assert second == first
        assert database.counts() == before


def waiting(database: Database) -> int:
    """Return how many statements of the service wait for another transaction."""
    return len(
        database.fetch(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
            "AND usename = 'opensentry_service' AND wait_event_type = 'Lock'"
        )
    )


def test_twenty_concurrent_requests_store_once(server: Server, database: Database) -> None:
    before = database.counts()
    start = threading.Barrier(20)

    def at_once(_: int) -> tuple[int, Any]:
        start.wait()
        return send(server, database.key, "twenty")

    with ThreadPoolExecutor(20) as executor:
        answers = list(executor.map(at_once, range(20)))
    assert {status for status, _ in answers} == {202}
    (batch_id,) = {answer["id"] for _, answer in answers}
    assert is_stored_once(database, before, batch_id)


@pytest.fixture(scope="module")
def other_server(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second gunicorn with the same database."""
    with support.gunicorn(database.service, tmp_path_factory.mktemp("gunicorn") / "log") as running:
        yield running


def test_two_processes_store_once(server: Server, other_server: Server, database: Database) -> None:
    before = database.counts()
    with ThreadPoolExecutor(8) as executor:
        answers = list(executor.map(lambda n: send((server, other_server)[n % 2], database.key, "two"), range(8)))
    assert {status for status, _ in answers} == {202}
    (batch_id,) = {answer["id"] for _, answer in answers}
    assert is_stored_once(database, before, batch_id)


@pytest.mark.parametrize("commits", [True, False])
def test_a_second_request_waits_for_the_first(
    server: Server, other_server: Server, database: Database, commits: bool
) -> None:
    """Both are in progress in different processes, and the first is blocked just before it inserts its rows."""
    before = database.counts()
    key = f"held {commits}"
    with ThreadPoolExecutor() as executor, psycopg.connect(database.owner) as blocker:
        blocker.execute("LOCK TABLE opensentry.events")
        first = executor.submit(send, server, database.key, key)
        support.wait_until(lambda: waiting(database) == 1)
        second = executor.submit(send, other_server, database.key, key)
        support.wait_until(lambda: waiting(database) == 2)
        if not commits:
            # The first is cancelled in PostgreSQL, so the second stores.
            database.fetch(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND wait_event_type = 'Lock' AND wait_event = 'relation'"
            )
            assert first.result()[0] == 503
        blocker.rollback()
        status, answer = second.result()
        assert status == 202
        if commits:
            assert first.result() == (202, answer)
    assert is_stored_once(database, before, answer["id"])


def kill_the_worker(server: Server, _: support.Proxy) -> None:
    for worker in psutil.Process(server.process.pid).children():
        os.kill(worker.pid, signal.SIGKILL)


def close_the_connections(_: Server, proxy: support.Proxy) -> None:
    proxy.stop()


def do_nothing(_: Server, __: support.Proxy) -> None:
    """The service gets no answer to its statement, and gives up by itself."""


@pytest.mark.parametrize(
    ("fault", "expected"),
    [(kill_the_worker, None), (close_the_connections, 503), (do_nothing, 503)],
    ids=["SIGKILL", "closed", "blackholed"],
)
def test_after_a_fault_between_commit_and_answer_a_retry_gets_the_id(
    database: Database,
    proxy: support.Proxy,
    tmp_path_factory: pytest.TempPathFactory,
    fault: Callable[[Server, support.Proxy], None],
    expected: int | None,
) -> None:
    """A proxy holds back PostgreSQL's answer, and the fault is injected after the commit."""
    before = database.counts()
    log = tmp_path_factory.mktemp("gunicorn") / "log"
    key = fault.__name__
    environ = {"OPENSENTRY_DATABASE_TIMEOUT": "2"}
    with support.gunicorn(proxy.conninfo, log, environ=environ) as server, ThreadPoolExecutor() as executor:
        # The connection is open and the statement prepared, so only one answer is held back.
        assert send(server, database.key, "before", MINIMAL)[0] == 202
        before = database.counts()
        proxy.hold_answers()
        answer = executor.submit(send, server, database.key, key)
        support.wait_until(lambda: database.counts() != before)
        (row,) = database.fetch("SELECT batch_id::text FROM opensentry.idempotency_keys WHERE key = %s", key)
        assert not answer.done()
        fault(server, proxy)
        if expected is None:
            with pytest.raises((OSError, http.client.HTTPException)):
                answer.result()
        else:
            assert answer.result()[0] == expected
        proxy.stop()
        proxy.resume()
        proxy.start()
        support.wait_until(lambda: support.answers(server.url + "/ready"))
        assert send(server, database.key, key) == (202, {"id": row["batch_id"]})
        assert send(server, database.key, "before", MINIMAL)[1] != {"id": row["batch_id"]}
    assert is_stored_once(database, before, row["batch_id"])
    database.fetch("DELETE FROM opensentry.idempotency_keys")
