"""The clients: one for each SDK. Each does what it is told by a line of its input, then prints "done"."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests import support
from tests.support import Database, Server

HERE = Path(__file__).parent
CLIENTS = HERE / "clients"

GOPATH = "/usr/share/gocode"
"""Where Debian's packages have the sources of Go libraries."""


class Client:
    """A process that sends with an SDK."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin
        assert process.stdout
        self._stdin: IO[str] = process.stdin
        self._stdout: IO[str] = process.stdout

    def do(self, command: str) -> None:
        """Have the client do something, and wait until it has sent what came of it."""
        self._stdin.write(command + "\n")
        self._stdin.flush()
        assert self._stdout.readline() == "done\n"


@contextmanager
def run(command: list[str], server: Server, database: Database, **environ: str) -> Iterator[Client]:
    """Run a client, and stop it at the end."""
    process = subprocess.Popen(
        command,
        env={**os.environ, "DSN": dsn(server, database), **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Client(process)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def dsn(server: Server, database: Database) -> str:
    """Return the DSN that an SDK of Sentry takes."""
    return f"http://{database.key}@127.0.0.1:{server.port}/1"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The npm packages of package.json, in a folder that git ignores."""
    options = ["--silent", "--no-package-lock", "--no-audit", "--no-fund"]
    subprocess.run([support.tool("npm"), "install", *options], cwd=HERE, check=True, timeout=300)
    return HERE / "node_modules"


def _python(*arguments: str) -> Callable[[pytest.FixtureRequest], list[str]]:
    return lambda request: [sys.executable, str(CLIENTS / "plain.py"), *arguments]


def _debian_python(request: pytest.FixtureRequest) -> list[str]:
    _package("python3-sentry-sdk")
    # Only what Debian has: no virtual environment, and not this folder.
    return ["/usr/bin/python3", "-I", str(CLIENTS / "plain.py")]


def _node(request: pytest.FixtureRequest) -> list[str]:
    request.getfixturevalue("node_modules")
    return [support.tool("node"), str(CLIENTS / "node.mjs")]


def _ruby(request: pytest.FixtureRequest) -> list[str]:
    _package("ruby-sentry-ruby")
    return [support.tool("ruby"), str(CLIENTS / "client.rb")]


def _go(request: pytest.FixtureRequest) -> list[str]:
    _package("golang-github-getsentry-sentry-go-dev")
    program = request.getfixturevalue("tmp_path_factory").mktemp("go") / "client"
    environ = {**os.environ, "GO111MODULE": "off", "GOPATH": GOPATH, "GOCACHE": str(program.parent / "cache")}
    command = [support.tool("go"), "build", "-o", str(program), str(CLIENTS / "client.go")]
    subprocess.run(command, env=environ, check=True)
    return [str(program)]


def _package(name: str) -> None:
    """Skip the test, or fail it in CI, if a Debian package is not installed."""
    query = [support.tool("dpkg-query"), "--show", "--showformat=${Status}", name]
    status = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if "ok installed" not in status.stdout:
        support.tool(name)


SDKS: dict[str, Callable[[pytest.FixtureRequest], list[str]]] = {
    "python-gzip": _python("gzip"),
    "python-br": _python(),
    "python-debian": _debian_python,
    "node": _node,
    "ruby": _ruby,
    "go": _go,
}


@pytest.fixture(scope="module", params=SDKS)
def sdk(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    """The name of an SDK, and the command of its client."""
    name = str(request.param)
    return name, SDKS[name](request)
