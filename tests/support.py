"""Shared by the tests: databases, servers, a TCP proxy, and the items of the contract."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import webtest
from gunicorn.config import Config
from psycopg.rows import dict_row

from opensentry_ingest import commands

ROOT = Path(__file__).parent.parent

ERROR: dict[str, Any] = {
    "type": "error",
    "exception": {
        "type": "TypeError",
        "value": "Cannot read property 'x' of undefined",
        "stacktrace": {
            "frames": [{"filename": "app/page.tsx", "function": "loadData", "lineno": 42, "colno": 12, "inApp": True}]
        },
    },
    "message": "optional fallback message",
    "breadcrumbs": [
        {
            "category": "navigation",
            "message": "User opened settings",
            "level": "info",
            "timestamp": "2026-05-30T12:00:00.000Z",
        }
    ],
    "tags": {"region": "us-east"},
    "user": {"id": "user_123", "email": "dev@example.com"},
    "environment": "production",
    "release": "web@2.4.1",
    "timestamp": "2026-05-30T12:00:01.000Z",
}

TRANSACTION: dict[str, Any] = {
    "type": "transaction",
    "name": "GET /api/checkout",
    "traceId": "trace-abc-123",
    "durationMs": 245,
    "status": "ok",
    "environment": "production",
    "spans": [
        {
            "spanId": "span-1",
            "op": "db.query",
            "description": "SELECT * FROM orders",
            "durationMs": 40,
            "parentSpanId": "root-span-id",
        }
    ],
    "timestamp": "2026-05-30T12:00:02.000Z",
}

AI_GENERATION: dict[str, Any] = {
    "type": "ai_generation",
    "provider": "openrouter",
    "model": "anthropic/claude-sonnet-4",
    "inputTokens": 1200,
    "outputTokens": 340,
    "totalCostUsd": 0.00482,
    "latencyMs": 1820,
    "timeToFirstTokenMs": 420,
    "status": "ok",
    "traceId": "trace-abc-123",
    "tags": {"feature": "chat"},
    "environment": "production",
    "timestamp": "2026-05-30T12:00:03.000Z",
}

MINIMAL: dict[str, Any] = {"type": "error", "exception": {}}

NO_CONTROL_SOCKET = ["--no-control-socket"] if "control_socket_disable" in Config().settings else []
"""The option of gunicorn; versions before 25.1 have neither the option nor the socket."""

TABLES = ("events", "transactions", "spans", "ai_generations")


@dataclass(frozen=True)
class Database:
    """A migrated database with one project."""

    owner: str
    """Connection string of the role that owns it."""
    service: str
    """Connection string of a member of opensentry_ingest."""
    project_id: str
    key: str

    def fetch(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        """Execute a statement as the owner and return its rows."""
        with psycopg.connect(self.owner, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement, arguments)
            return cursor.fetchall() if cursor.description else []

    def rows(self, table: str, batch_id: str) -> list[dict[str, Any]]:
        """Return the rows of a batch in one table, in their order."""
        order = "position, span_index" if table == "spans" else "position"
        return self.fetch(f"SELECT * FROM opensentry.{table} WHERE batch_id = %s ORDER BY {order}", batch_id)

    def counts(self) -> dict[str, int]:
        """Return how many rows each item table holds."""
        return {table: self.fetch(f"SELECT count(*) FROM opensentry.{table}")[0]["count"] for table in TABLES}


def tool(name: str) -> str:
    """Return the path of a program that a test needs. If it is missing, skip the test, or fail it in CI."""
    path = shutil.which(name)
    if path:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing, and in CI nothing is skipped")
    pytest.skip(f"{name} is not installed")


def npm_packages(folder: Path) -> Path:
    """Install the npm packages of a folder's package.json, in a folder there that git ignores; return that."""
    options = ["--silent", "--no-package-lock", "--no-audit", "--no-fund"]
    subprocess.run([tool("npm"), "install", *options], cwd=folder, check=True, timeout=300)
    return folder / "node_modules"


@contextmanager
def client(command: list[str], environ: dict[str, str]) -> Iterator[Callable[[str], str]]:
    """Run a client in a process of its own, and stop it at the end.

    Yields:
        A function that has the client do what a line says, and returns the line that it then prints.
    """
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    stdin, stdout = process.stdin, process.stdout

    def ask(line: str) -> str:
        stdin.write(line + "\n")
        stdin.flush()
        return stdout.readline()

    try:
        yield ask
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        stdin.close()
        stdout.close()


def copy_of_source(folder: Path) -> Path:
    """Return a copy of the repository in a folder, to build from: a build leaves files behind."""
    names = (".git", ".venv*", ".opensentry", ".*_cache", "__pycache__", "*.egg-info", "build", "dist", "node_modules")
    return Path(shutil.copytree(ROOT, folder / "repository", ignore=shutil.ignore_patterns(*names)))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Wait until a condition holds; fail after a time that no machine should need."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Return whether a server listens on a port of this machine."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    """Return whether a server answers 200 at a URL."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@dataclass
class Server:
    """A server process."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Send a signal to the server and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(60)


@contextmanager
def gunicorn(
    database_url: str,
    log: Path,
    *options: str,
    app: str = "wsgi",
    environ: dict[str, str] | None = None,
    port: int | None = None,
) -> Iterator[Server]:
    """Run gunicorn with wsgi.py, and stop it at the end."""
    port = port or free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread"]
    command += [*NO_CONTROL_SOCKET, *(options or ("--workers", "1", "--threads", "4")), app]
    with serving(command, port, log, {"DATABASE_URL": database_url, **(environ or {})}) as server:
        yield server


@contextmanager
def serving(command: list[str], port: int, log: Path, environ: dict[str, str]) -> Iterator[Server]:
    """Run a server with more variables in its environment, and stop it at the end."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environ}, stdout=output, stderr=output)
    server = Server(process, port, log)
    try:
        wait_until(lambda: answers(server.url + "/health") or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        server.stop()


class Proxy:
    """A TCP proxy in front of PostgreSQL that simulates network faults."""

    def __init__(self, conninfo: str) -> None:
        info = psycopg.conninfo.conninfo_to_dict(conninfo)
        host, port = str(info.get("host") or "localhost"), int(info.get("port") or 5432)
        unix = host.startswith("/")
        self._family = socket.AF_UNIX if unix else socket.AF_INET
        self._target: Any = f"{host}/.s.PGSQL.{port}" if unix else (host, port)
        self.port = free_port()
        self.conninfo = psycopg.conninfo.make_conninfo(conninfo, host="127.0.0.1", port=self.port)
        self._questions, self._answers = threading.Event(), threading.Event()
        self.resume()
        self._sockets: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.start()

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Refuse new connections and close the existing ones."""
        if self._listener:
            # close() alone would leave accept() blocked; shutdown() ends it.
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for sock in list(self._sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def blackhole(self) -> None:
        """Accept bytes but forward none, like a network that drops every packet."""
        self._questions.clear()
        self._answers.clear()

    def hold_answers(self) -> None:
        """Hold back only PostgreSQL's answers, so that a statement is committed and the service does not know."""
        self._answers.clear()

    def resume(self) -> None:
        """Forward again, including what was held back."""
        self._questions.set()
        self._answers.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            server = socket.socket(self._family)
            try:
                server.connect(self._target)
            except OSError:
                # PostgreSQL is down, and the client sees a closed connection.
                client.close()
                server.close()
                continue
            for source, sink, passing in ((client, server, self._questions), (server, client, self._answers)):
                self._sockets.add(source)
                threading.Thread(target=self._pump, args=(source, sink, passing), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, passing: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                passing.wait()
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        self._sockets.discard(source)
        source.close()


def post(client: webtest.TestApp, key: str, payload: Any, **keywords: Any) -> webtest.TestResponse:
    """Post a payload as JSON with a key in the header."""
    return client.post_json("/v1/ingest", payload, headers={"X-Open-Sentry-Key": key}, **keywords)


def command(*arguments: str, database_url: str = "", stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the command in this process, which is quicker than in one of its own; no traceback may come out."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("DATABASE_URL", database_url)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        try:
            status = commands.main(arguments)
        except SystemExit as exit:
            status = int(exit.code or 0)
    done = subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())
    check_output(done)
    # `check` prints what is wrong as its result.
    assert status != 1 or done.stderr or done.stdout
    return done


def check_output(done: "subprocess.CompletedProcess[str]") -> None:
    """Check that a command printed no traceback, and an error in one line."""
    assert "Traceback" not in done.stdout + done.stderr
    if done.returncode == 1 and done.stderr:
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("opensentry-ingest: ")
