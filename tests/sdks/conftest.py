"""The clients: one for each SDK. Each does what it is told by a line of text, and returns when it has sent that."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page

from tests import support
from tests.browsers.conftest import browser, serving
from tests.support import TABLES, Database, Server

__all__ = ["browser"]

HERE = Path(__file__).parent
CLIENTS = HERE / "clients"

GOPATH = "/usr/share/gocode"
"""Where Debian's packages have the sources of Go libraries."""

Do = Callable[[str], None]
"""Has a client do something, and waits until it has sent what came of it."""


class SDK(NamedTuple):
    name: str
    start: Callable[[str], AbstractContextManager[Do]]
    """Takes a DSN."""


@contextmanager
def run(command: list[str], dsn: str, **environ: str) -> Iterator[Do]:
    """Run a client in a process of its own, and stop it at the end."""
    with support.client(command, {**os.environ, "DSN": dsn, **environ}) as ask:

        def do(line: str) -> None:
            assert ask(line) == "done\n"

        yield do


def dsn(server: Server, database: Database) -> str:
    """Return the DSN that an SDK of Sentry takes."""
    return f"http://{database.key}@127.0.0.1:{server.port}/1"


def metric(server: Server, sample: str) -> float:
    """Return a metric of the service; 0 if it has not counted that yet."""
    with urllib.request.urlopen(server.url + "/metrics", timeout=20) as response:
        lines = response.read().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample + " ")), 0)


def skipped(server: Server, kind: str) -> float:
    """Return how many items of a kind were skipped."""
    return metric(server, f'opensentry_ingest_skipped_total{{type="{kind}"}}')


def sends_again_after_a_503(
    start: Callable[[str], AbstractContextManager[Do]],
    message: str,
    database: Database,
    proxy: support.Proxy,
    log: Path,
) -> None:
    """Check that a client that met a 503 sends what happens later.

    Args:
        start: starts the client with a DSN.
        message: what it is told to send a message, before the text.
    """
    environ = {"OPENSENTRY_DATABASE_TIMEOUT": "0.5"}
    with support.gunicorn(proxy.conninfo, log, environ=environ) as server, start(dsn(server, database)) as do:
        do(message + "before")
        proxy.stop()
        do(message + "during")
        support.wait_until(lambda: "status=503" in server.log.read_text())
        proxy.start()

        def recovered() -> bool:
            do(message + "after")
            return bool(database.fetch("SELECT 1 FROM opensentry.events WHERE message = 'after'"))

        # Some send nothing until Retry-After has passed.
        support.wait_until(recovered, 60)
    messages = database.fetch("SELECT DISTINCT message FROM opensentry.events ORDER BY message")
    # None of them keeps what met the 503.
    assert [row["message"] for row in messages] == ["after", "before"]


def accepted(server: Server) -> float:
    """Return how many errors were accepted, those that were stored before included."""
    return metric(server, 'opensentry_ingest_items_total{type="error"}')


@pytest.fixture(autouse=True)
def no_rows(database: Database) -> None:
    for table in TABLES:
        database.fetch(f"DELETE FROM opensentry.{table}")


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The npm packages of package.json, in a folder that git ignores."""
    return support.npm_packages(HERE)


@pytest.fixture(scope="session")
def origin(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The origin of a page that has @sentry/browser in it. The service is on another."""
    folder = tmp_path_factory.mktemp("page")
    bundle = ["--bundle", f"--outfile={folder}/browser.js", "--log-level=warning"]
    subprocess.run([node_modules / ".bin/esbuild", CLIENTS / "browser.mjs", *bundle], check=True)
    (folder / "page.html").write_text('<!doctype html><title>Shop</title><script src="browser.js"></script>')
    with serving(folder) as port:
        yield f"http://localhost:{port}"


@contextmanager
def opened(browser: Browser, origin: str) -> Iterator[Page]:
    """Open the page in a profile of its own. It sends nothing before `start()` is called there."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(origin + "/page.html")
    yield page
    context.close()


def _python(*arguments: str) -> Callable[[pytest.FixtureRequest], list[str]]:
    return lambda request: [sys.executable, str(CLIENTS / "plain.py"), *arguments]


def _debian_python(request: pytest.FixtureRequest) -> list[str]:
    package("python3-sentry-sdk")
    # Only what Debian has: no virtual environment, and not this folder.
    return ["/usr/bin/python3", "-I", str(CLIENTS / "plain.py")]


def _node(client: str, *arguments: str) -> Callable[[pytest.FixtureRequest], list[str]]:
    def command(request: pytest.FixtureRequest) -> list[str]:
        request.getfixturevalue("node_modules")
        return [support.tool("node"), str(CLIENTS / client), *arguments]

    return command


def _ruby(client: str, needs: str) -> Callable[[pytest.FixtureRequest], list[str]]:
    def command(request: pytest.FixtureRequest) -> list[str]:
        package(needs)
        return [support.tool("ruby"), str(CLIENTS / client)]

    return command


def _go(client: str, needs: str) -> Callable[[pytest.FixtureRequest], list[str]]:
    def command(request: pytest.FixtureRequest) -> list[str]:
        package(needs)
        program = request.getfixturevalue("tmp_path_factory").mktemp("go") / "client"
        environ = {**os.environ, "GO111MODULE": "off", "GOPATH": GOPATH, "GOCACHE": str(program.parent / "cache")}
        subprocess.run(
            [support.tool("go"), "build", "-o", str(program), str(CLIENTS / client)], env=environ, check=True
        )
        return [str(program)]

    return command


def package(name: str) -> None:
    """Skip the test, or fail it in CI, if a Debian package is not installed."""
    query = [support.tool("dpkg-query"), "--show", "--showformat=${Status}", name]
    status = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if "ok installed" not in status.stdout:
        support.tool(name)


COMMANDS: dict[str, Callable[[pytest.FixtureRequest], list[str]]] = {
    "python-br": _python(),
    "python-gzip": _python("gzip"),
    "python-debian": _debian_python,
    "node": _node("node.mjs"),
    # As the versions before 11 do.
    "node-static": _node("node.mjs", "static"),
    "ruby": _ruby("client.rb", "ruby-sentry-ruby"),
    "go": _go("client.go", "golang-github-getsentry-sentry-go-dev"),
}

LEGACY = {
    "node": _node("raven.mjs"),
    "ruby": _ruby("raven.rb", "ruby-sentry-raven"),
    "go": _go("raven.go", "golang-github-getsentry-raven-go-dev"),
}


@pytest.fixture(scope="module", params=[*COMMANDS, "browser"])
def sdk(request: pytest.FixtureRequest) -> SDK:
    """Each SDK."""
    name: str = request.param
    if name in COMMANDS:
        return SDK(name, partial(run, COMMANDS[name](request)))
    chromium, origin = request.getfixturevalue("browser"), request.getfixturevalue("origin")

    @contextmanager
    def start(dsn: str) -> Iterator[Do]:
        with opened(chromium, origin) as page:
            page.evaluate("dsn => start(dsn)", dsn)
            yield lambda line: page.evaluate("line => perform(line)", line)

    return SDK(name, start)


@pytest.fixture(scope="module")
def do(sdk: SDK, server: Server, database: Database) -> Iterator[Do]:
    """A client that has started."""
    with sdk.start(dsn(server, database)) as do:
        yield do
