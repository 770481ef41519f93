"""The contract, through the coordinator, through a worker node (Citus MX), and through PgBouncer."""

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests import contract, support, test_otlp
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
    # On a busy machine there are seconds between two requests.
    options = ("--workers", "2", "--threads", "4", "--keep-alive", "60")
    with support.gunicorn(service, tmp_path / "log", *options) as server:
        contract.check(server.url, database)
        before = database.counts()
        others = requests()
        for _ in range(2):
            for path, (body, content_type) in others.items():
                headers = {"X-Open-Sentry-Key": database.key, "Content-Type": content_type}
                with urllib.request.urlopen(urllib.request.Request(server.url + path, body, headers)) as response:
                    assert response.status == 200
    # Each protocol has an idempotency key of its own, so nothing is stored twice.
    stored = {table: count - before[table] for table, count in database.counts().items()}
    assert stored == {"events": 2, "transactions": 1, "spans": 1, "ai_generations": 1}


def requests() -> dict[str, tuple[bytes, str]]:
    """Return a request of each of the other protocols, with its content type, by path."""
    event = {"event_id": uuid4().hex, "level": "error", "exception": {"values": [{"type": "E", "value": "sentry"}]}}
    envelope = [{"event_id": event["event_id"]}, {"type": "event"}, event]
    trace = test_otlp.new_trace()
    spans = [
        test_otlp.span(trace, 1, events=[test_otlp.event("exception", 0, **{"exception.type": "E"})]),
        test_otlp.span(trace, 2, 1, attributes={"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}),
    ]
    return {
        "/api/1/envelope/": ("\n".join(map(json.dumps, envelope)).encode(), "application/x-sentry-envelope"),
        "/v1/traces": test_otlp.packed(test_otlp.request(*spans), "protobuf"),
    }


def test_the_versions(database: support.Database) -> None:
    with psycopg.connect(database.owner) as connection:
        [(text,)] = connection.execute("SELECT citus_version() || ' ' || version()").fetchall()
    print(text)
    assert re.match("Citus 1[0-9]", text)
