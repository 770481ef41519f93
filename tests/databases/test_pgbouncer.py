"""The real PgBouncer in transaction mode, as Debian has it: nothing has to be set for it."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests import contract, support
from tests.databases import clusters

# Every client is let in as PostgreSQL's user of that name; one connection to PostgreSQL serves them all in turn, which
# is where a statement that was prepared for one meets another.
CONFIGURATION = """
[databases]
postgres = host=127.0.0.1 port={postgres} dbname=postgres user=opensentry_service
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 1
"""


@pytest.fixture(scope="module")
def database(programs: Path) -> Iterator[support.Database]:
    with clusters.running(programs) as cluster:
        yield clusters.migrated(cluster.conninfo)


@pytest.fixture
def pgbouncer(database: support.Database) -> Iterator[str]:
    """The connection string of a PgBouncer before the database."""
    port = support.free_port()
    postgres = psycopg.conninfo.conninfo_to_dict(database.owner)["port"]
    with clusters.folder() as folder:
        (folder / "pgbouncer.ini").write_text(CONFIGURATION.format(postgres=postgres, port=port))
        command = [support.tool("pgbouncer"), "--quiet", str(folder / "pgbouncer.ini")]
        process = subprocess.Popen(command, user="pgserver" if os.geteuid() == 0 else None, stderr=subprocess.DEVNULL)
        conninfo = make_conninfo(database.service, host="127.0.0.1", port=port)
        try:
            support.wait_until(lambda: _connects(conninfo))
            yield conninfo
        finally:
            process.terminate()
            process.wait(20)


def _connects(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True


def test_pgbouncer_in_transaction_mode_keeps_the_contract(
    database: support.Database, pgbouncer: str, tmp_path: Path
) -> None:
    with support.gunicorn(pgbouncer, tmp_path / "log", "--workers", "2", "--threads", "4") as server:
        contract.check(server.url, database)


def test_many_clients_share_a_connection_of_pgbouncer(
    database: support.Database, pgbouncer: str, tmp_path: Path
) -> None:
    def post(number: int) -> str:
        if number % 5 == 0:
            assert support.answers(server.url + "/ready")
        body = json.dumps({**support.ERROR, "message": str(number)}).encode()
        request = urllib.request.Request(f"{server.url}/v1/ingest?key={database.key}", body)
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.status == 202
            batch_id: str = json.load(response)["id"]
            return batch_id

    with (
        support.gunicorn(pgbouncer, tmp_path / "log", "--workers", "2", "--threads", "4") as server,
        ThreadPoolExecutor(16) as threads,
    ):
        batches = list(threads.map(post, range(400)))
    assert len({database.rows("events", batch)[0]["message"] for batch in batches}) == 400
