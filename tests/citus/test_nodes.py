"""Nodes that come and go under load: what was promised is stored, and a lost node costs its own projects only."""

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from opensentry_ingest import admin
from tests import support
from tests.citus import nodes
from tests.citus.conftest import distribute
from tests.databases import clusters
from tests.support import ERROR, Database

PROJECTS = 8


@pytest.fixture
def own() -> Iterator[nodes.Nodes]:
    """A cluster that a test may break."""
    with nodes.running() as running:
        yield running


@pytest.fixture
def spread(own: nodes.Nodes) -> Iterator[tuple[Database, dict[str, int]]]:
    """A distributed database, and its keys, each with the port of the node that its project is on."""
    with nodes.database(own) as owner:
        database = clusters.migrated(owner)
        distribute(owner)
        with psycopg.connect(owner, autocommit=True) as connection:
            keys = [admin.create_project(connection, f"shop {n}")["public_key"] for n in range(PROJECTS)]
        yield database, {key: node_of(database, key) for key in keys}


def node_of(database: Database, key: str) -> int:
    """Return the port of the node that the project of a key is on."""
    [row] = database.fetch(
        "SELECT nodeport FROM opensentry.project_keys AS k JOIN pg_dist_shard_placement AS p "
        "ON p.shardid = get_shard_id_for_distribution_column('opensentry.issues', k.project_id) WHERE public_key = %s",
        key,
    )
    port: int = row["nodeport"]
    return port


def post(url: str, key: str, name: str) -> str:
    """Post an event with an Idempotency-Key, which is its message too; return the id of its 202."""
    body = json.dumps({**ERROR, "exception": {}, "message": name}).encode()
    request = urllib.request.Request(f"{url}/v1/ingest?key={key}", body, {"Idempotency-Key": name})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status == 202
        batch: str = json.load(response)["id"]
        return batch


class Load:
    """A client for each key, which posts one event after the other, again until it is promised."""

    def __init__(self, url: str, keys: dict[str, int]) -> None:
        self._url, self._end, self.start = url, threading.Event(), time.monotonic_ns()
        self.promised: dict[str, dict[str, str]] = {key: {} for key in keys}
        """For each key, the batch of each Idempotency-Key that got a 202."""
        self.answers: dict[str, Counter[int]] = defaultdict(Counter)
        self.threads = [threading.Thread(target=self._post, args=(key,)) for key in keys]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        self._end.set()
        for thread in self.threads:
            thread.join()

    def _post(self, key: str) -> None:
        number = 0
        while not self._end.is_set():
            name = f"{key}-{self.start}-{number}"
            try:
                self.promised[key][name] = post(self._url, key, name)
                self.answers[key][202] += 1
                number += 1
            except urllib.error.HTTPError as error:
                self.answers[key][error.code] += 1
                time.sleep(0.1)
            except (OSError, http.client.HTTPException):
                self.answers[key][0] += 1

    def progress(self, keys: list[str], count: int = 20) -> bool:
        """Wait until each of some keys got so many promises more."""
        before = {key: len(self.promised[key]) for key in keys}
        support.wait_until(lambda: all(len(self.promised[key]) >= before[key] + count for key in keys), 90)
        return True


@contextmanager
def load(conninfo: str, keys: dict[str, int], tmp_path: Path) -> Iterator[Load]:
    options = ("--workers", "2", "--threads", "8")
    environ = {"OPENSENTRY_DATABASE_TIMEOUT": "3", "OPENSENTRY_POOL_SIZE": "8"}
    with support.gunicorn(conninfo, tmp_path / "log", *options, environ=environ) as server:
        running = Load(server.url, keys)
        try:
            running.progress(list(keys), 5)
            yield running
        finally:
            running.end()


def assert_nothing_is_lost(database: Database, running: Load) -> None:
    promised = {name: batch for names in running.promised.values() for name, batch in names.items()}

    def stored() -> dict[str, str]:
        return {row["message"]: str(row["batch_id"]) for row in database.fetch("SELECT * FROM opensentry.events")}

    # What a lost node had prepared, which is on its disk, is committed when it is back (citus.recover_2pc_interval).
    support.wait_until(lambda: promised.items() <= stored().items(), 30)
    assert database.counts()["events"] == len(stored()), "an event was stored twice"
    print(f"{len(promised)} promised, answers {dict(sum(running.answers.values(), Counter()))}")


def test_a_lost_node_costs_its_own_projects_and_nothing_that_was_promised(
    own: nodes.Nodes, spread: tuple[Database, dict[str, int]], tmp_path: Path
) -> None:
    database, keys = spread
    lost = own.workers[0]
    of_lost = [key for key, port in keys.items() if port == lost.port]
    others = [key for key, port in keys.items() if port != lost.port]
    assert of_lost
    assert others
    with load(database.service, keys, tmp_path) as running:
        lost.kill()
        support.wait_until(lambda: all(running.answers[key][503] for key in of_lost), 60)
        before = {key: Counter(running.answers[key]) for key in others}
        running.progress(others)
        for key in others:
            assert set(running.answers[key] - before[key]) == {202}
        lost.start(*nodes.SETTINGS)
        running.progress(list(keys))
    assert {status for key in keys for status in running.answers[key]} == {202, 503}
    assert_nothing_is_lost(database, running)


def test_a_node_is_added_and_shards_move_to_it_under_load(
    own: nodes.Nodes, spread: tuple[Database, dict[str, int]], tmp_path: Path
) -> None:
    database, keys = spread
    with load(database.service, keys, tmp_path) as running:
        database.fetch("SELECT citus_add_node('127.0.0.1', %s)", own.spare.port)
        database.fetch("SELECT rebalance_table_shards(shard_transfer_mode => 'force_logical')")
        running.progress(list(keys))
    places = database.fetch("SELECT DISTINCT nodeport FROM citus_shards WHERE table_name::text LIKE '%%.events_%%'")
    assert own.spare.port in {row["nodeport"] for row in places}
    assert {status for key in keys for status in running.answers[key]} <= {202, 503}
    assert_nothing_is_lost(database, running)
    there = make_conninfo(database.service, port=own.spare.port)
    with psycopg.connect(there, autocommit=True) as connection:
        ingest = "SELECT opensentry.ingest(%s, gen_random_uuid(), %s)"
        assert connection.execute(ingest, (database.key, json.dumps(ERROR))).fetchone() != (None,)


def test_the_connections_that_a_fleet_makes(
    own: nodes.Nodes, spread: tuple[Database, dict[str, int]], tmp_path: Path
) -> None:
    """Each connection to the coordinator holds at most one to each worker node."""
    database, keys = spread
    count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = %s"
    name = conninfo_to_dict(database.owner)["dbname"]

    def connections(server: clusters.Cluster, where: str) -> int:
        with psycopg.connect(server.conninfo) as connection:
            [(found,)] = connection.execute(f"{count} AND {where}", (name,)).fetchall()
            return int(found)

    with load(database.service, keys, tmp_path) as running:
        running.progress(list(keys))
        here = connections(own.coordinator, "usename = 'opensentry_service'")
        there = [connections(worker, "application_name LIKE 'citus_internal%%'") for worker in own.workers]
    print(f"{here} connections of the service, {there} to the worker nodes")
    assert 1 <= here <= 16
    # And Citus' own, which look for deadlocks and what was left prepared.
    assert all(number <= here + 6 for number in there)
