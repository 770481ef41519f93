"""gunicorn's gevent worker: a request that waits for the database does not block the others.

psycopg chooses how to wait when it is imported, and the worker patches Python's modules only when it starts.
"""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests import support
from tests.support import MINIMAL, Database, Server

PSYCOPG_IS_IMPORTED = {
    "after the patch": (),
    "before the patch, by the application": ("--preload",),
    "before the patch, by the configuration": ("--config", "gunicorn.conf.py"),
}

POOL_SIZE = 4

HANGS_SECONDS = 60
"""The service's timeout, and longer than any wait of the tests: what they see happens while the requests wait."""


@contextmanager
def gevent_worker(database_url: str, options: tuple[str, ...], folder: Path) -> Iterator[Server]:
    config = folder / "gunicorn.conf.py"
    config.write_text("import opensentry_ingest\n")
    options = tuple(str(config) if option == config.name else option for option in options)
    environ = {"OPENSENTRY_DATABASE_TIMEOUT": str(HANGS_SECONDS), "OPENSENTRY_POOL_SIZE": str(POOL_SIZE)}
    worker = ("--worker-class", "gevent", "--workers", "1")
    with support.gunicorn(database_url, folder / "log", *worker, *options, environ=environ) as server:
        yield server


def post(server: Server, key: str) -> int:
    request = urllib.request.Request(f"{server.url}/v1/ingest?key={key}", json.dumps(MINIMAL).encode())
    try:
        with urllib.request.urlopen(request, timeout=2 * HANGS_SECONDS) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("options", PSYCOPG_IS_IMPORTED.values(), ids=PSYCOPG_IS_IMPORTED)
def test_health_answers_while_statements_wait(database: Database, tmp_path: Path, options: tuple[str, ...]) -> None:
    def waiting() -> int:
        (row,) = database.fetch(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(row["count"])

    requests = 2 * POOL_SIZE
    with gevent_worker(database.service, options, tmp_path) as server, ThreadPoolExecutor(requests) as threads:
        with psycopg.connect(database.owner) as lock:
            lock.execute("LOCK opensentry.project_keys")
            answers = [threads.submit(post, server, database.key) for _ in range(requests)]
            support.wait_until(lambda: waiting() == POOL_SIZE)
            assert support.answers(server.url + "/health")
            assert waiting() == POOL_SIZE
        assert [answer.result() for answer in answers] == [202] * requests


@pytest.mark.parametrize("options", PSYCOPG_IS_IMPORTED.values(), ids=PSYCOPG_IS_IMPORTED)
def test_health_answers_while_the_service_connects(tmp_path: Path, options: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        listener.settimeout(HANGS_SECONDS / 2)
        database_url = f"host=127.0.0.1 port={listener.getsockname()[1]} dbname=x user=x"
        with gevent_worker(database_url, options, tmp_path) as server:
            answer = threads.submit(post, server, "a-key")
            connection = listener.accept()[0]
            with connection:
                assert support.answers(server.url + "/health")
                assert not answer.done()
            listener.close()
            assert answer.result() == 503
