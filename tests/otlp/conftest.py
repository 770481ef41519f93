"""The clients, each in a process of its own, and the relay between them and the service."""

import gzip
import http.client
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import support
from tests.support import TABLES, Database, Server

HERE = Path(__file__).parent
CLIENTS = HERE / "clients"
PYTHON = support.ROOT / ".venv-otlp/bin/python"
"""It has the packages of requirements.txt; `make test-otlp` makes it."""


class Exported(NamedTuple):
    """A request of an exporter."""

    content_type: str
    body: bytes
    """Unpacked."""
    status: int
    """What the service answered."""


class Relay(ThreadingHTTPServer):
    """Passes requests on to the service, and its answers back, except for the first few if told to.

    Attributes:
        exported: the requests that the service has answered.
        drop: how many answers from now on are dropped: the connection is closed instead.
    """

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service_port = port
        self.exported: list[Exported] = []
        self.drop = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Relay
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        sent = (
            self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else self._chunks()
        )
        headers = {name: self.headers[name] for name in HEADERS if name in self.headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.service_port, timeout=60)
        connection.request("POST", self.path, sent, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        body = gzip.decompress(sent) if self.headers["Content-Encoding"] == "gzip" else sent
        self.server.exported.append(Exported(self.headers["Content-Type"], body, answer.status))
        if self.server.drop:
            self.server.drop -= 1
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name in ("Content-Type", "Retry-After"):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


HEADERS = ("Content-Type", "Content-Encoding", "X-Open-Sentry-Key", "User-Agent")


@contextmanager
def relaying(server: Server) -> Iterator[Relay]:
    with Relay(server.port) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        yield relay
        relay.shutdown()


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    with relaying(server) as relay:
        yield relay


@pytest.fixture
def no_rows(database: Database) -> None:
    clear(database)


def clear(database: Database) -> None:
    """Delete all items."""
    for table in (*TABLES, "idempotency_keys"):
        database.fetch(f"DELETE FROM opensentry.{table}")


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The npm packages of package.json, in a folder that git ignores."""
    return support.npm_packages(HERE)


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter of the environment that has the instrumentations."""
    return support.tool(str(PYTHON))


def environ(database: Database, relay: Relay, **more: str) -> dict[str, str]:
    """Return the environment of a client: what an operator would set."""
    resource = "service.name=shop,service.version=shop@1.2.3,deployment.environment.name=testing"
    return {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": relay.url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-open-sentry-key={database.key}",
        "OTEL_RESOURCE_ATTRIBUTES": resource,
        **more,
    }


def run(command: list[str], environ: dict[str, str]) -> list[Any]:
    """Run a client to its end, and return the JSON that it printed, a value for each line."""
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


Do = Callable[[str], Any]
"""Has a client do something, and returns what it prints when that is done."""


@contextmanager
def running(command: list[str], environ: dict[str, str]) -> Iterator[Do]:
    """Run a client that reads lines, and stop it at the end."""
    with support.client(command, environ) as ask:
        yield lambda line: json.loads(ask(line))


class Exporter(NamedTuple):
    """An exporter of an SDK, whose client makes traces."""

    name: str
    content_type: str
    command: list[str]


@pytest.fixture(scope="session", params=["python", "node-json", "node-proto"])
def exporter(request: pytest.FixtureRequest) -> Exporter:
    """Each exporter."""
    if request.param == "python":
        python = request.getfixturevalue("python")
        return Exporter("python", "application/x-protobuf", [python, str(CLIENTS / "spans.py")])
    request.getfixturevalue("node_modules")
    node = [support.tool("node"), str(CLIENTS / "spans.mjs")]
    if request.param == "node-json":
        return Exporter("node-json", "application/json", [*node, "http"])
    return Exporter("node-proto", "application/x-protobuf", [*node, "proto"])
