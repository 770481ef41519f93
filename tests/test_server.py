"""What needs a socket: the limit in every framing, memory, and the published client for JavaScript."""

import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from opensentry_ingest.body import LIMIT_BYTES
from tests import support
from tests.support import MINIMAL, Database, Server


def sized(length: int) -> bytes:
    """Return a valid payload of exactly that many bytes."""
    empty = len(json.dumps({**MINIMAL, "message": ""}))
    return json.dumps({**MINIMAL, "message": "x" * (length - empty)}).encode()


def post(server: Server, key: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    """Post a body, chunked where it is an iterator."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", f"/v1/ingest?key={key}", body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def chunks(body: bytes, size: int = 10_000) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("length", "status"), [(LIMIT_BYTES, 202), (LIMIT_BYTES + 1, 413)])
def test_the_limit_is_exact(server: Server, database: Database, chunked: bool, length: int, status: int) -> None:
    before = database.counts()["events"]
    body = sized(length)
    assert len(body) == length
    answer = post(server, database.key, chunks(body) if chunked else body)
    assert answer[0] == status
    if status == 413:
        assert answer[1] == {"error": "Payload too large"}
    assert database.counts()["events"] == before + (status == 202)


def exchange(server: Server, *pieces: bytes) -> bytes:
    """Send raw bytes, close our side, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        for piece in pieces:
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def head(database: Database, *headers: str) -> bytes:
    lines = [f"POST /v1/ingest?key={database.key} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_body_shorter_than_its_length_stores_nothing(server: Server, database: Database) -> None:
    before = database.counts()
    body = json.dumps(MINIMAL).encode()
    answer = exchange(server, head(database, f"Content-Length: {len(body) + 1}"), body)
    assert b" 202 " not in answer
    assert database.counts() == before


def test_a_body_longer_than_its_length_is_read_no_further(server: Server, database: Database) -> None:
    body = json.dumps(MINIMAL).encode()
    answer = exchange(server, head(database, f"Content-Length: {len(body)}"), body + b"GARBAGE")
    assert answer.startswith(b"HTTP/1.1 202 ")
    # What follows the announced length is not taken for a part of the batch.
    answer = exchange(server, head(database, f"Content-Length: {len(body) - 1}"), body)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'{"error": "Invalid JSON"}' in answer


def test_a_length_over_the_limit_is_refused_before_the_body_comes(server: Server, database: Database) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(head(database, "Content-Length: 10000000000", "Expect: 100-continue"))
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert b" 413 " in answer
    assert b'{"error": "Payload too large"}' in answer


def test_an_upload_without_end_costs_no_memory(server: Server, database: Database) -> None:
    def resident() -> int:
        """Return the bytes that the workers hold."""
        workers = psutil.Process(server.process.pid).children()
        return sum(worker.memory_info().rss for worker in workers)

    assert post(server, database.key, json.dumps(MINIMAL).encode())[0] == 202
    before = resident()
    peak = 0
    # 200 MiB in chunks: the answer comes after the first, and the connection ends.
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(head(database, "Transfer-Encoding: chunked"))
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        try:
            for _ in range(200):
                sock.sendall(chunk)
                peak = max(peak, resident())
        except OSError:
            pass
    assert peak - before < 8 * 1024 * 1024
    assert post(server, database.key, json.dumps(MINIMAL).encode())[0] == 202


def test_no_body_is_no_json(server: Server, database: Database) -> None:
    assert exchange(server, head(database)).startswith(b"HTTP/1.1 400 ")


def test_while_the_database_is_away_the_answer_is_503_and_after_it_202(
    database: Database, proxy: support.Proxy, tmp_path: Path
) -> None:
    environ = {"OPENSENTRY_DATABASE_TIMEOUT": "2"}
    body = json.dumps(MINIMAL).encode()
    with support.gunicorn(proxy.conninfo, tmp_path / "log", environ=environ) as server:
        stored = 0
        for _ in range(2):
            assert post(server, database.key, body)[0] == 202
            proxy.stop()
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            for _ in range(3):
                connection.request("POST", f"/v1/ingest?key={database.key}", body)
                response = connection.getresponse()
                assert (response.status, response.read()) == (503, b'{"error": "Service unavailable"}')
                assert int(response.headers["Retry-After"]) > 0
            assert support.answers(server.url + "/health")
            assert not support.answers(server.url + "/ready")
            connection.close()
            proxy.start()
            # The first request after it, with no restart and no wait.
            assert post(server, database.key, body)[0] == 202
            assert support.answers(server.url + "/ready")
            stored += 2
    assert database.counts()["events"] >= stored


def test_a_restarted_database_costs_no_request(database: Database, server: Server) -> None:
    body = json.dumps(MINIMAL).encode()
    assert post(server, database.key, body)[0] == 202
    for _ in range(3):
        database.fetch(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert post(server, database.key, body)[0] == 202


def test_a_database_that_swallows_answers_is_a_503_in_bounded_time(
    database: Database, proxy: support.Proxy, tmp_path: Path
) -> None:
    body = json.dumps(MINIMAL).encode()
    with support.gunicorn(proxy.conninfo, tmp_path / "log", environ={"OPENSENTRY_DATABASE_TIMEOUT": "0.5"}) as server:
        assert post(server, database.key, body)[0] == 202
        proxy.blackhole()
        assert post(server, database.key, body) == (503, {"error": "Service unavailable"})
        proxy.resume()
        support.wait_until(lambda: post(server, database.key, body)[0] == 202)


def test_a_lock_that_outlasts_the_wait_is_a_503_and_stores_nothing(database: Database, tmp_path: Path) -> None:
    body = json.dumps(MINIMAL).encode()
    environ = {"OPENSENTRY_DATABASE_TIMEOUT": "0.5"}
    with support.gunicorn(database.service, tmp_path / "log", environ=environ) as server:
        assert post(server, database.key, body)[0] == 202
        before = database.counts()
        with psycopg.connect(database.owner) as blocker:
            blocker.execute("LOCK TABLE opensentry.events")
            assert post(server, database.key, body) == (503, {"error": "Service unavailable"})
        assert post(server, database.key, body)[0] == 202
        assert database.counts()["events"] == before["events"] + 1


def test_a_setting_that_makes_no_sense_stops_the_start_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environ = {"OPENSENTRY_POOL_SIZE": "none"}
    with pytest.raises(AssertionError), support.gunicorn("dbname=x", log, environ=environ):
        pass
    assert "opensentry-ingest: OPENSENTRY_POOL_SIZE: 'none' is not a whole number\n" in log.read_text()
    assert "Traceback" not in log.read_text()


SCRIPT = """
import * as sentry from "@zapdev-labs/sentry-clone";
sentry.init({dsn: process.argv[2], environment: "test", release: "r1", tracesSampleRate: 1});
sentry.setUser({id: "42", email: "user@example.com"});
sentry.setTag("feature", "checkout");
sentry.captureException(new TypeError("Zahlung fehlgeschlagen \\u0000 \\ud83d"));
sentry.captureMessage("User hit rate limit", "warning");
const transaction = sentry.startTransaction("checkout");
transaction.startChild("db.query", "SELECT users").finish();
transaction.startChild("http.client", "POST /api/charge").finish();
transaction.finish("cancelled");
sentry.captureGeneration({provider: "openai", model: "gpt", inputTokens: 1200, outputTokens: 350, totalCostUsd: 0.012});
const usage = {prompt_tokens: 10, completion_tokens: 5, total_tokens: 15, cost: 0.00042,
               prompt_tokens_details: {cached_tokens: 3, cache_write_tokens: 2}};
sentry.captureOpenRouterGeneration(usage, "anthropic/claude", {latencyMs: 1500, tags: {extra: "yes"}});
await sentry.flush();
sentry.captureException("a text");
await sentry.flush();
"""


def test_the_published_client_stores_what_it_captures(sentry_clone: Path, server: Server, database: Database) -> None:
    database.fetch("TRUNCATE opensentry.events, opensentry.transactions, opensentry.spans, opensentry.ai_generations")
    (sentry_clone / "script.mjs").write_text(SCRIPT)
    dsn = f"http://{database.key}@127.0.0.1:{server.port}/v1/ingest"
    subprocess.run([support.tool("node"), "script.mjs", dsn], cwd=sentry_clone, check=True, timeout=60)

    first, message, text = database.fetch("SELECT * FROM opensentry.events ORDER BY batch_id, position")
    assert (first["exception_type"], first["exception_value"]) == ("TypeError", "Zahlung fehlgeschlagen \ufffd \ufffd")
    assert first["frames"][0]["filename"].endswith("script.mjs")
    assert isinstance(first["frames"][0]["lineno"], int)
    assert [first[name] for name in ("level", "environment", "release")] == ["error", "test", "r1"]
    assert first["user"] == {"id": "42", "email": "user@example.com"}
    assert first["tags"] == {"feature": "checkout"}
    assert first["breadcrumbs"][0]["category"] == "runtime"
    assert (message["exception_value"], message["level"]) == ("User hit rate limit", "warning")
    assert (text["exception_type"], text["exception_value"]) == ("Error", "a text")

    (transaction,) = database.fetch("SELECT * FROM opensentry.transactions")
    assert (transaction["name"], transaction["status"]) == ("checkout", "cancelled")
    spans = database.fetch("SELECT * FROM opensentry.spans ORDER BY span_index")
    assert [(span["op"], span["description"]) for span in spans] == [
        ("db.query", "SELECT users"),
        ("http.client", "POST /api/charge"),
    ]
    assert {span["batch_id"] for span in spans} == {transaction["batch_id"]}

    openai, openrouter = database.fetch("SELECT * FROM opensentry.ai_generations ORDER BY position")
    assert [openai[name] for name in ("provider", "model", "input_tokens", "output_tokens", "total_tokens")] == [
        "openai",
        "gpt",
        1200,
        350,
        1550,
    ]
    assert str(openai["total_cost_usd"]) == "0.012"
    assert openai["user"] == {"id": "42", "email": "user@example.com"}
    assert [openrouter[name] for name in ("provider", "model", "total_tokens", "latency_ms")] == [
        "openrouter",
        "anthropic/claude",
        15,
        1500,
    ]
    assert [openrouter[name] for name in ("cached_input_tokens", "cache_write_tokens")] == [3, 2]
    assert str(openrouter["total_cost_usd"]) == "0.00042"
    assert openrouter["tags"] == {"feature": "checkout", "extra": "yes"}
    assert openrouter["metadata"]["cachedTokens"] == 3
