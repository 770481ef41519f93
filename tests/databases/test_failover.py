"""A primary and a synchronous standby behind one DSN: whatever dies, no batch that was promised is lost."""

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import webtest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from opensentry_ingest import create_app
from tests import support
from tests.databases import clusters

CLIENTS = 8


@dataclass
class Pair:
    """A primary, its synchronous standby, and the DSN that names both."""

    primary: clusters.Cluster
    standby: clusters.Cluster
    database: support.Database

    @property
    def conninfo(self) -> str:
        user = conninfo_to_dict(self.database.service)["user"]
        return make_conninfo(
            "",
            host="127.0.0.1,127.0.0.1",
            port=f"{self.primary.port},{self.standby.port}",
            user=user,
            dbname="postgres",
            target_session_attrs="read-write",
            connect_timeout=2,
        )


@pytest.fixture
def pair(programs: Path) -> Iterator[Pair]:
    with clusters.running(programs) as primary, clusters.folder() as folder:
        database = clusters.migrated(primary.conninfo)
        standby = clusters.Cluster(programs, folder, primary)
        standby.start()
        try:
            with psycopg.connect(primary.conninfo, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                connection.execute("SELECT pg_reload_conf()")
            state = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
            support.wait_until(lambda: database.fetch(state))
            yield Pair(primary, standby, database)
        finally:
            standby.stop()


class Load:
    """Clients that post one event after the other, each with an Idempotency-Key, and again until it is promised."""

    def __init__(self, url: str, key: str) -> None:
        self._url = f"{url}/v1/ingest?key={key}"
        self._end = threading.Event()
        self.promised: dict[str, str] = {}
        """The batch of each Idempotency-Key that got a 202."""
        self.answers: Counter[int] = Counter()
        self._threads = [threading.Thread(target=self._post, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _post(self, client: int) -> None:
        for number in range(100_000):
            key = f"{client}-{number}"
            while key not in self.promised:
                if self._end.is_set():
                    return
                body = json.dumps({**support.ERROR, "message": key}).encode()
                request = urllib.request.Request(self._url, body, {"Idempotency-Key": key})
                try:
                    with urllib.request.urlopen(request, timeout=30) as response:
                        self.answers[response.status] += 1
                        self.promised[key] = json.load(response)["id"]
                except urllib.error.HTTPError as error:
                    self.answers[error.code] += 1
                    time.sleep(0.1)
                except (OSError, http.client.HTTPException):
                    self.answers[0] += 1


def test_no_promised_batch_is_lost_when_the_standby_takes_over(pair: Pair, tmp_path: Path) -> None:
    with support.gunicorn(pair.conninfo, tmp_path / "log", "--workers", "2", "--threads", "4") as server:
        load = Load(server.url, pair.database.key)
        try:
            support.wait_until(lambda: len(load.promised) >= 500, 60)
            pair.primary.kill()
            before = len(load.promised)
            support.wait_until(lambda: load.answers[503] >= CLIENTS, 60)
            pair.standby.promote()
            support.wait_until(lambda: len(load.promised) >= before + 500, 60)
        finally:
            load.end()
    with psycopg.connect(pair.standby.conninfo) as connection:
        stored: dict[str, str] = dict(
            connection.execute("SELECT message, batch_id::text FROM opensentry.events").fetchall()
        )
        rows = connection.execute("SELECT count(*) FROM opensentry.events").fetchone()
    lost = {key: batch for key, batch in load.promised.items() if stored.get(key) != batch}
    print(f"{dict(load.answers)}: {len(load.promised)} promised, {before} before, {len(lost)} lost, {rows} rows")
    assert set(load.answers) <= {202, 503}
    assert not lost
    assert rows == (len(stored),), "an event was stored twice"


def test_what_no_standby_confirms_is_not_promised(pair: Pair) -> None:
    app = create_app(pair.conninfo, database_timeout=1)
    client = webtest.TestApp(app)
    path = f"/v1/ingest?key={pair.database.key}"
    try:
        assert client.post_json(path, support.ERROR).status_int == 202
        pair.standby.stop()
        assert client.post_json(path, support.ERROR, expect_errors=True).status_int == 503
        pair.standby.start()
        support.wait_until(lambda: client.post_json(path, support.ERROR, expect_errors=True).status_int == 202, 60)
    finally:
        app.close()
