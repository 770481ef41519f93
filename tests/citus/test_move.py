"""From a running PostgreSQL to a cluster, by the steps of docs/scaling.md, while clients send."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from opensentry_ingest import admin, embedded
from tests import support
from tests.citus import nodes
from tests.citus.test_nodes import Load, post
from tests.conftest import execute
from tests.databases import clusters
from tests.databases.test_pgbouncer import PRICES
from tests.support import ERROR, TABLES, Database, command
from tests.test_maintain import store


def steps() -> list[str]:
    """Return the shell commands of the page, one string for each block of them."""
    page = (support.ROOT / "docs" / "scaling.md").read_text("utf-8")
    page = page[page.index("From one running PostgreSQL") : page.index("If some downtime is acceptable")]
    return [textwrap.dedent(block) for block in re.findall(r"\n\n((?: {8}.*\n)+)", page)]


@contextmanager
def serving(conninfo: str, listener: socket.socket, log: Path) -> Iterator[None]:
    """Run the service on a socket that stays open, as systemd does it."""
    options = ["--bind", f"fd://{listener.fileno()}", "--worker-class", "gthread", "--workers", "2", "--threads", "8"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, *support.NO_CONTROL_SOCKET, "wsgi"],
            cwd=support.ROOT,
            env={**os.environ, "DATABASE_URL": conninfo, "OPENSENTRY_POOL_SIZE": "8"},
            pass_fds=[listener.fileno()],
            stdout=output,
            stderr=output,
        )
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0, log.read_text()


def items(database: Database) -> dict[str, list[dict[str, Any]]]:
    return {table: database.fetch(f"SELECT * FROM opensentry.{table} ORDER BY batch_id, position") for table in TABLES}


def test_the_documented_steps_lose_nothing_and_refuse_nothing(tmp_path: Path) -> None:
    with nodes.running() as cluster, nodes.database(cluster, citus=False) as new, socket.socket() as listener:
        # One that is no node of the cluster.
        name = f"old_{secrets.token_hex(4)}"
        execute(cluster.spare.conninfo, f"CREATE DATABASE {name}")
        old = clusters.migrated(make_conninfo(cluster.spare.conninfo, dbname=name))
        with psycopg.connect(old.owner, autocommit=True) as connection:
            keys = {admin.create_project(connection, f"shop {n}")["public_key"]: 0 for n in range(3)}
        command("prices", "import", PRICES, database_url=old.owner)
        for age in ("0 days", "40 days", "100 days"):
            store(old, age, 5)
        history = items(old)
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def run(*blocks: str) -> None:
            # The tests have the coordinator and its workers on one host.
            text = "\n".join(blocks).replace("'10.0.0.1'", f"'127.0.0.1', {cluster.coordinator.port}")
            for host, worker in zip(("2", "3"), cluster.workers, strict=True):
                text = text.replace(f"'10.0.0.{host}', 5432", f"'127.0.0.1', {worker.port}")
            assert "10.0.0." not in text
            path = os.pathsep.join([str(nodes.programs()), str(Path(sys.executable).parent), os.environ["PATH"]])
            environ = {**os.environ, "PATH": path, "OLD": old.owner, "NEW": new}
            done = subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", text], env=environ, capture_output=True, text=True, timeout=300
            )
            assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr

        add, distribute, copy, again, rest = steps()
        for server in cluster.servers:
            execute(make_conninfo(server.conninfo, dbname=conninfo_to_dict(new)["dbname"]), "CREATE EXTENSION citus")
        running = None
        try:
            with serving(old.service, listener, tmp_path / "old"):
                running = Load(url, keys)
                running.progress(list(keys))
                run(add, distribute)
                service = embedded.service_conninfo(new)
                run(copy)
                running.progress(list(keys))
                before = {key: dict(names) for key, names in running.promised.items()}
            with serving(service, listener, tmp_path / "new"):
                function = copy[: copy.index("\n}\n") + 3]
                run(function, again)
                running.progress(list(keys))
                # After an error the same steps are run once more.
                run(function, rest, rest)
                running.progress(list(keys))
                retried = {key: names.popitem() for key, names in before.items()}
                answers = {key: post(url, key, name) for key, (name, _) in retried.items()}
                running.end()
        finally:
            if running:
                running.end()
        assert answers == {key: batch for key, (_, batch) in retried.items()}
        assert {status for key in keys for status in running.answers[key]} == {202}
        there = Database(new, service, old.project_id, old.key)
        moved = items(there)
        for table in TABLES:
            assert [row for row in history[table] if row not in moved[table]] == []
        promised = {name: batch for names in running.promised.values() for name, batch in names.items()}
        stored = [(row["message"], str(row["batch_id"])) for row in moved["events"] if row["message"] in promised]
        assert sorted(stored) == sorted(promised.items())
        for columns in (
            "id, name FROM opensentry.projects",
            "public_key, project_id FROM opensentry.project_keys",
            "provider, model, input_usd, output_usd FROM opensentry.model_prices",
        ):
            statement = f"SELECT {columns} ORDER BY 1, 2"
            assert there.fetch(statement) == old.fetch(statement) != []
        issues = "SELECT project_id, fingerprint FROM opensentry.issues"
        assert [row for row in old.fetch(issues) if row not in there.fetch(issues)] == []
        assert there.fetch("SELECT tableoid::regclass FROM opensentry.events_default") == []
        assert command("distribute", database_url=new).stdout == "nothing to do\n"
        with psycopg.connect(service, autocommit=True) as connection:
            ingest = "SELECT opensentry.ingest(%s, gen_random_uuid(), %s)"
            assert connection.execute(ingest, (old.key, json.dumps(ERROR))).fetchone() != (None,)
