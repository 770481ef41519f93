"""The embedded PostgreSQL, where it differs from any other."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from opensentry_ingest import embedded
from opensentry_ingest.errors import CommandError
from tests import support


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    folder.chmod(0o755)
    return folder / "data"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc to look at")
def test_its_backends_keep_the_memory_that_a_large_payload_needs_and_no_other_process_does(data: Path) -> None:
    with embedded.server(data):
        pid = (data / "postgres" / "postmaster.pid").read_text().splitlines()[0]
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    for name, size in embedded.MALLOC_VARIABLES.items():
        assert f"{name}={size}".encode() in environ
        assert name not in os.environ


@pytest.mark.parametrize("error", [OSError("the disk is full"), psycopg.OperationalError("connection refused")])
def test_an_error_of_its_user_is_not_reported_as_one_of_postgresql(data: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, embedded.server(data):
        raise error
    assert raised.value is error
    assert embedded.running(data) is None


def serve(data: Path) -> "subprocess.Popen[bytes]":
    """Start `serve` in a process of its own."""
    environ = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    command = [sys.executable, "-m", "opensentry_ingest", "serve", "--port", str(support.free_port())]
    return subprocess.Popen([*command, "--data", str(data)], env=environ, cwd=support.ROOT)


def test_a_first_start_that_is_stopped_leaves_nothing_that_stops_the_next(data: Path) -> None:
    data = data.with_name("stopped")
    process = serve(data)
    support.wait_until(lambda: list(data.glob("*/PG_VERSION")))
    process.terminate()
    assert process.wait(60) == 143
    with embedded.server(data) as conninfo:
        psycopg.connect(conninfo).close()
    assert {path.name for path in data.iterdir()} == {"lock", "postgres"}


def test_a_start_that_is_stopped_stops_postgresql(data: Path) -> None:
    with embedded.server(data):
        pass
    process = serve(data)
    file = data / "postgres" / "postmaster.pid"
    while not file.exists():
        assert process.poll() is None
    process.terminate()
    assert process.wait(60) == 143
    assert not file.exists()


def test_a_process_that_has_the_id_of_a_killed_postgresql_is_not_taken_for_it(data: Path) -> None:
    with embedded.server(data):
        lines = (data / "postgres" / "postmaster.pid").read_text().splitlines(keepends=True)
    other = subprocess.Popen(["sleep", "1000"])
    (data / "postgres" / "postmaster.pid").write_text("".join([f"{other.pid}\n", *lines[1:]]))
    with embedded.server(data) as conninfo:
        psycopg.connect(conninfo).close()
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_folder_that_cannot_be_created_is_reported_as_an_error_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="does not start"), embedded.server(tmp_path / "file"):
        pytest.fail("it started")
