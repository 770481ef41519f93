"""What `docs/embedding.md` says of Granian: its metrics, a killed worker, a stop, and the memory of large bodies."""

import json
import signal
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from tests import support
from tests.servers.examples import command_of
from tests.support import MINIMAL, Database, Server

MIB = 1_048_576


@pytest.fixture
def granian(database: Database, tmp_path: Path) -> Iterator[Server]:
    port = support.free_port()
    command = [sys.executable, "-m", *command_of("granian", port)[:-1], "wsgi:application"]
    environ = {"DATABASE_URL": database.service, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    with support.serving(command, port, tmp_path / "log", environ) as server:
        wait_for_workers(server, 2)
        yield server


def wait_for_workers(server: Server, number: int) -> None:
    """Wait until so many workers have started. One that still loads the application ignores the signal to stop."""
    support.wait_until(lambda: server.log.read_text().count("Started worker") == number)


def post(server: Server, path: str, body: bytes) -> int:
    with urllib.request.urlopen(server.url + path, body, timeout=60) as response:
        return int(response.status)


def workers(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def test_metrics_are_those_of_all_workers_and_a_killed_worker_is_replaced(granian: Server, database: Database) -> None:
    def accepted() -> bytes:
        with urllib.request.urlopen(granian.url + "/metrics", timeout=30) as response:
            lines: list[bytes] = response.read().splitlines()
        (line,) = [line for line in lines if line.startswith(b"opensentry_ingest_items_total")]
        return line.split()[-1]

    path = f"/v1/ingest?key={database.key}"
    for _ in range(20):
        assert post(granian, path, json.dumps(MINIMAL).encode()) == 202
    assert {accepted() for _ in range(6)} == {b"20.0"}
    first, second = workers(granian)
    first.kill()
    wait_for_workers(granian, 3)
    assert second in workers(granian)
    assert accepted() == b"20.0"
    assert post(granian, path, json.dumps(MINIMAL).encode()) == 202


def test_a_stop_waits_for_the_requests_in_progress(granian: Server, database: Database) -> None:
    def waits() -> bool:
        return bool(database.fetch("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))

    before = database.counts()["events"]
    with ThreadPoolExecutor() as threads, psycopg.connect(database.owner) as lock:
        lock.execute("LOCK opensentry.project_keys")
        answer = threads.submit(post, granian, f"/v1/ingest?key={database.key}", json.dumps(MINIMAL).encode())
        support.wait_until(waits)
        granian.process.send_signal(signal.SIGTERM)
        support.wait_until(lambda: not support.listens(granian.port))
        lock.rollback()
        assert answer.result() == 202
    assert database.counts()["events"] == before + 1
    assert granian.process.wait(60) == 0


def test_what_is_skipped_is_not_held_in_memory(granian: Server, database: Database) -> None:
    def envelope(size: int) -> bytes:
        event = b'{"event_id": "%s"}\n{"type": "event"}\n{}\n' % uuid.uuid4().hex.encode()
        return event + b'{"type": "attachment", "length": %d}\n' % size + bytes(size)

    def peak() -> int:
        """Return the most memory that a worker ever held, in kilobytes."""
        texts = [Path(f"/proc/{worker.pid}/status").read_text() for worker in workers(granian)]
        return max(int(text.split("VmHWM:")[1].split()[0]) for text in texts)

    path = f"/api/1/envelope/?sentry_key={database.key}"
    for _ in range(10):
        assert post(granian, path, envelope(1)) == 200
    before = peak()
    assert post(granian, path, envelope(19 * MIB)) == 200
    assert peak() - before < 8192
