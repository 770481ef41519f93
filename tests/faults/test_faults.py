"""Faults under load: nothing that was promised is lost or doubled, no batch is there in part, and service resumes.

`FAULT_ROUNDS` says how often each fault strikes (default: once): `make faults` takes more. The table is printed at the
end of the run.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

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
    """A file system that is soon full."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("only root may mount, and in CI nothing is skipped")
        pytest.skip("only root may mount")
    folder = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def keep(result: Result) -> Result:
    """Check what holds for every fault, and keep the result for the table."""
    results.append(result)
    print(result)
    assert result.promised > 0
    assert (result.lost, result.doubled, result.torn) == (0, 0, 0)
    assert not result.strange
    return result


def is_an_outage(result: Result) -> None:
    """Check that it was an outage to every client, and no wait: so many answers would not fit into it else."""
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
    assert result.refused == 0


def test_a_restart_loses_nothing(site: Site) -> None:
    def inject(site: Site) -> float:
        site.stop()
        end = time.monotonic()
        site.start()
        return end

    result = keep(harness.run(site, "(b) gunicorn: SIGTERM, and a new start", 2 * ROUNDS, inject))
    # Who was being served was served to the end.
    assert (result.unheard, result.refused) == (0, 0)


def test_a_reload_loses_nothing(site: Site) -> None:
    def inject(site: Site) -> float:
        before = set(harness.children(site.server.process.pid))
        site.server.process.send_signal(signal.SIGHUP)
        support.wait_until(lambda: not before & set(harness.children(site.server.process.pid)))
        return time.monotonic()

    result = keep(harness.run(site, "(b) gunicorn: SIGHUP", 2 * ROUNDS, inject))
    assert (result.unheard, result.refused) == (0, 0)


def test_a_killed_postgresql_loses_nothing(site: Site) -> None:
    def inject(site: Site) -> float:
        site.postgres.kill()
        time.sleep(3)
        end = time.monotonic()
        site.postgres.start()
        return end

    result = keep(harness.run(site, "(c) PostgreSQL: SIGKILL, 3 s, a new start", ROUNDS, inject, settle=0.5))
    is_an_outage(result)
    stores_nothing(result)


def test_a_cut_network_is_an_outage(site: Site) -> None:
    def inject(site: Site) -> float:
        site.proxy.stop()
        time.sleep(3)
        end = time.monotonic()
        site.proxy.start()
        return end

    result = keep(harness.run(site, "(d) the network to PostgreSQL: cut, 3 s", ROUNDS, inject, settle=0.5))
    is_an_outage(result)
    stores_nothing(result)


def test_a_deaf_network_is_an_outage(site: Site) -> None:
    def inject(site: Site) -> float:
        site.proxy.blackhole()
        time.sleep(15)
        end = time.monotonic()
        site.proxy.resume()
        return end

    result = keep(harness.run(site, "(d) the network to PostgreSQL: deaf, 15 s", ROUNDS, inject, settle=1.5))
    is_an_outage(result)
    stores_nothing(result)


def test_a_pool_that_is_taken_is_an_outage(site: Site) -> None:
    def inject(site: Site) -> float:
        with psycopg.connect(site.database.owner) as connection:
            connection.execute("LOCK TABLE opensentry.events, opensentry.transactions, opensentry.ai_generations")
            time.sleep(4)
            return time.monotonic()

    result = keep(harness.run(site, "(e) all connections taken, 4 s", ROUNDS, inject, settle=1.5))
    is_an_outage(result)
    stores_nothing(result)
    assert (result.unheard, result.refused) == (0, 0)


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
        # A small batch may find room in a page that is there already, and is kept.
        # A worker that no client has asked meanwhile does not know of it, and says that it is ready.
        is_an_outage(result)
        assert (result.unheard, result.refused) == (0, 0)
    finally:
        site.close()
        postgres.stop()
