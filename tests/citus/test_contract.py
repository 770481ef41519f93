"""The contract, through the coordinator, through a worker node (Citus MX), and through PgBouncer."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests import contract, support
from tests.citus import nodes
from tests.databases import clusters
from tests.databases.test_pgbouncer import CONFIGURATION


@pytest.fixture(params=["coordinator", "worker", "PgBouncer"])
def service(
    cluster: nodes.Nodes, database: support.Database, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[str]:
    """A way to the database for the service."""
    if request.param == "coordinator":
        yield database.service
    elif request.param == "worker":
        yield make_conninfo(database.service, port=cluster.workers[0].port)
    else:
        port, postgres = support.free_port(), conninfo_to_dict(database.owner)
        configuration = CONFIGURATION.format(postgres=postgres["port"], database=postgres["dbname"], port=port, size=2)
        with clusters.folder() as folder:
            (folder / "pgbouncer.ini").write_text(configuration)
            program = [support.tool("pgbouncer"), "--quiet", str(folder / "pgbouncer.ini")]
            process = subprocess.Popen(program, user="pgserver" if os.geteuid() == 0 else None)
            try:
                support.wait_until(lambda: support.listens(port))
                yield f"host=127.0.0.1 port={port} dbname=service user=any"
            finally:
                process.terminate()
                process.wait(20)


def test_the_contract_holds(service: str, database: support.Database, tmp_path: Path) -> None:
    with support.gunicorn(service, tmp_path / "log", "--workers", "2", "--threads", "4") as server:
        contract.check(server.url, database)


def test_the_versions(database: support.Database) -> None:
    with psycopg.connect(database.owner) as connection:
        [(text,)] = connection.execute("SELECT citus_version() || ' ' || version()").fetchall()
    print(text)
    assert re.match("Citus 1[0-9]", text)
