"""Faults under load: no promised batch is lost or duplicated, none is stored in part, and service resumes by itself.

`FAULT_ROUNDS` is how often each fault is injected (default: once); `make faults` sets more. The end of the run prints
the table.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from opensentry_ingest.pool import CANCEL_SECONDS
from opensentry_ingest.settings import Settings
from tests import support
from tests.faults import harness
from tests.faults.harness import Postgres, Result, Site

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))

results: list[Result] = []


@pytest.fixture(scope="session")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    postgres = Postgres(tmp_path_factory.mktemp("postgres"))
    yield postgres
    postgres.stop()


@pytest.fixture(scope="session")
def site(own_postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(own_postgres, tmp_path_factory.mktemp("gunicorn") / "log")
    yield site
    site.close()


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("only root may mount, and in CI nothing is skipped")
        pytest.skip("only root may mount")
    folder = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def keep(result: Result) -> Result:
    """Check what must hold under every fault, and keep the result for the table."""
    results.append(result)
    print(result)
    assert result.promised > 0
    assert (result.lost, result.duplicated, result.partial) == (0, 0, 0)
    assert not result.unexpected
    return result


def is_an_outage(result: Result) -> None:
    """Check that requests failed quickly, and /health answered quickly: slow answers would be too few."""
    assert result.in_outage["/v1/ingest 503"] > 5 * harness.CLIENTS * result.rounds
    assert result.in_outage["/v1/ingest 0"] == 0
    assert result.in_outage["/health 200"] > 5 * result.rounds
    assert result.in_outage["/health 0"] == 0
    assert result.in_outage["/ready 503"] > 5 * result.rounds
    assert result.in_outage["/ready 0"] == 0


def stores_nothing(result: Result) -> None:
    assert result.in_outage["/v1/ingest 202"] == 0
    assert result.in_outage["/ready 200"] == 0


def test_killed_workers_lose_nothing(site: Site) -> None:
    def inject(site: Site) -> float:
        for pid in harness.children(site.server.process.pid):
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.5)
        return time.monotonic()

    result = keep(harness.run(site, "(a) a gunicorn worker: SIGKILL", 2 * ROUNDS, inject))
    assert result.stored_with_503 == 0


def test_a_restart_loses_nothing(site: Site) -> None:
    def inject(site: Site) -> float:
        site.stop()
        end = time.monotonic()
        site.start()
        return end

    result = keep(harness.run(site, "(b) gunicorn: SIGTERM and restart", 2 * ROUNDS, inject))
    # Requests in progress are completed.
    assert (result.stored_without_answer, result.stored_with_503) == (0, 0)


def test_a_reload_loses_nothing(site: Site) -> None:
    def inject(site: Site) -> float:
        before = set(harness.children(site.server.process.pid))
        site.server.process.send_signal(signal.SIGHUP)
        support.wait_until(lambda: not before & set(harness.children(site.server.process.pid)))
        return time.monotonic()

    result = keep(harness.run(site, "(b) gunicorn: SIGHUP", 2 * ROUNDS, inject))
    assert (result.stored_without_answer, result.stored_with_503) == (0, 0)


def test_a_killed_postgresql_loses_nothing(site: Site) -> None:
    def inject(site: Site) -> float:
        site.postgres.kill()
        time.sleep(3)
        end = time.monotonic()
        site.postgres.start()
        return end

    result = keep(harness.run(site, "(c) PostgreSQL: SIGKILL, restart after 3 s", ROUNDS, inject, settle=0.5))
    is_an_outage(result)
    stores_nothing(result)


def test_refused_connections_are_an_outage(site: Site) -> None:
    def inject(site: Site) -> float:
        site.proxy.stop()
        time.sleep(3)
        end = time.monotonic()
        site.proxy.start()
        return end

    result = keep(harness.run(site, "(d) network to PostgreSQL: connections refused, 3 s", ROUNDS, inject, settle=0.5))
    is_an_outage(result)
    stores_nothing(result)


def test_a_blackholed_network_is_an_outage(site: Site) -> None:
    def inject(site: Site) -> float:
        site.proxy.blackhole()
        time.sleep(20)
        end = time.monotonic()
        site.proxy.resume()
        return end

    # The outage is known when the first statement and its cancellation have timed out. Until then requests wait.
    known = Settings.database_timeout + 2 * CANCEL_SECONDS + 1
    result = keep(harness.run(site, "(d) network to PostgreSQL: blackholed, 20 s", ROUNDS, inject, settle=known))
    is_an_outage(result)
    stores_nothing(result)


def test_a_locked_table_is_no_outage(site: Site) -> None:
    def inject(site: Site) -> float:
        with psycopg.connect(site.database.owner) as connection:
            connection.execute("LOCK TABLE opensentry.events, opensentry.transactions, opensentry.ai_generations")
            time.sleep(4)
            return time.monotonic()

    result = keep(harness.run(site, "(e) tables locked, 4 s", ROUNDS, inject))
    # Every request waits for less than the timeout, so none is refused.
    assert (result.answers[503], result.answers[harness.NO_ANSWER]) == (0, 0)


def test_a_full_disk_is_an_outage(small_disk: Path, tmp_path: Path) -> None:
    postgres = Postgres(small_disk)
    site = Site(postgres, tmp_path / "log")

    def inject(site: Site) -> float:
        with harness.full_disk(small_disk):
            time.sleep(8)
            end = time.monotonic()
        if postgres.process.poll() is not None:
            postgres.start()
        return end

    try:
        result = keep(harness.run(site, "(f) PostgreSQL's disk: full, 8 s", ROUNDS, inject, settle=4))
        # A small batch may fit into a page that exists already, and is stored.
        # A worker that received no batch meanwhile does not know of the full disk, and reports that it is ready.
        is_an_outage(result)
        assert (result.stored_without_answer, result.stored_with_503) == (0, 0)
    finally:
        site.close()
        postgres.stop()
