"""Restarts, reloads and replaced workers under load, behind nginx: no request fails and no batch is lost."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import psycopg
import pytest

from opensentry_ingest import admin
from tests import support
from tests.contract import Case, Client
from tests.deploy import stack
from tests.support import ERROR, Database

CLIENTS = 6


@dataclass
class Load:
    """The answers that the clients have received so far."""

    url: str
    answers: Counter[str] = field(default_factory=Counter)

    def wait_for_more(self, number: int = 30) -> None:
        """Wait until this number of further requests has been answered."""
        wanted = self.answers.total() + number
        support.wait_until(lambda: self.answers.total() >= wanted, 60)


@contextmanager
def load(url: str, keys: list[str]) -> Iterator[Load]:
    """Post events without pause, with enough keys that none reaches the rate limit."""
    running = Load(url)
    done = threading.Event()
    body = json.dumps(ERROR).encode()

    def post(first: int) -> None:
        with Client(url) as client:
            # Bounded, so that it ends even if the test does not stop it.
            for key in islice(cycle(keys[first::CLIENTS]), 20_000):
                if done.is_set():
                    return
                try:
                    answer = client.send(Case("", 202, b"", headers={"X-Open-Sentry-Key": key}, body=body))
                    running.answers[str(answer.status)] += 1
                except Exception as error:
                    running.answers[repr(error)] += 1

    threads = [threading.Thread(target=post, args=(first,)) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        running.wait_for_more()
        yield running
        running.wait_for_more()
    finally:
        done.set()
        for thread in threads:
            thread.join(60)


@pytest.fixture(scope="module")
def keys(database: Database) -> list[str]:
    with psycopg.connect(database.owner, autocommit=True) as connection:
        return [admin.create_key(connection, "test")["public_key"] for _ in range(20 * CLIENTS)]


def restart(service: stack.Service, load: Load) -> None:
    support.wait_until(service.settled)
    for _ in range(3):
        service.stop()
        service.start()
        load.wait_for_more()
        support.wait_until(service.settled)


def reload(service: stack.Service, load: Load) -> None:
    support.wait_until(service.settled)
    for _ in range(3):
        before = service.workers()
        service.reload()
        support.wait_until(partial(_all_new, service, before), 60)
        load.wait_for_more()
        support.wait_until(service.settled)


def _all_new(service: stack.Service, before: set[int]) -> bool:
    now = service.workers()
    return len(now) == len(before) and not now & before


@pytest.mark.parametrize("change", [restart, reload])
def test_no_request_fails_while_gunicorn_restarts_or_reloads_under_load(
    url: str, service: stack.Service, database: Database, keys: list[str], change: Callable[[stack.Service, Load], None]
) -> None:
    before = database.counts()["events"]
    with load(url, keys) as running:
        change(service, running)
    assert list(running.answers) == ["202"], running.answers
    assert database.counts()["events"] == before + running.answers["202"]


def test_no_request_fails_while_workers_reach_max_requests_and_are_replaced(
    tmp_path: Path, certificate: Path, database: Database, keys: list[str]
) -> None:
    before = database.counts()["events"]
    options = ("--max-requests", "40", "--max-requests-jitter", "10")
    with stack.service(tmp_path, database.service, *options) as service:
        with stack.nginx(tmp_path, certificate, service.path) as url, load(url, keys) as running:
            running.wait_for_more(500)
        assert service.log.read_text().count("Autorestarting worker") >= 5
    assert list(running.answers) == ["202"], running.answers
    assert database.counts()["events"] == before + running.answers["202"]
