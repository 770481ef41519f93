"""The operators' command, `deploy/opensentry-ingest`, run as root against a PostgreSQL set up as in docs/deploy.md."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import support
from tests.databases import clusters
from tests.deploy import stack
from tests.deploy.stack import DEPLOY

ENVIRONMENT = """
PGUSER=nobody
DATABASE_URL=postgresql://nobody:secret@192.0.2.1/service
OPENSENTRY_PUBLIC_URL="https://ingest.example.com"
OPENSENTRY_RETENTION_DAYS_EVENTS=90
"""

PARSER = "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator"
"""Prints what systemd's own parser finds in the files of a folder."""


@pytest.fixture(scope="module", autouse=True)
def root() -> None:
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("only root can run a command as another user")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with clusters.folder() as path:
        yield path


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    """The program, installed with Debian's Python: postgres may be unable to read the Python that runs the tests."""
    subprocess.run([support.tool("/usr/bin/python3"), "-m", "venv", folder / "venv"], check=True)
    source = support.copy_of_source(folder / "source")
    subprocess.run([folder / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", source], check=True)
    return folder / "venv/bin/opensentry-ingest"


@pytest.fixture(scope="module")
def sockets(folder: Path) -> Iterator[Path]:
    """The folder of the socket of a PostgreSQL that knows its users by their system names, as on Debian."""
    programs = clusters.programs(15, folder)
    path = folder / "postgresql"
    path.mkdir()
    shutil.chown(path, "postgres")

    def postgres(command: str, sql: bytes = b"") -> None:
        # Not to a pipe: the server keeps pg_ctl's output open.
        arguments = shlex.split(f"{programs}/{command}")
        subprocess.run(arguments, user="postgres", cwd="/", input=sql, check=True, stdout=subprocess.DEVNULL)

    postgres(f"initdb -D {path}/data --auth=peer --encoding=UTF8 --no-locale")
    options = f"-c listen_addresses= -c port=5432 -k {path}"
    postgres(f"pg_ctl -D {path}/data -l {path}/log -o '{options}' -w start")
    try:
        postgres(f"psql -h {path} --set ON_ERROR_STOP=1", (DEPLOY / "database.sql").read_bytes())
        yield path
    finally:
        postgres(f"pg_ctl -D {path}/data -m immediate -w stop")


def wrapper(folder: Path, program: Path, environment: str, sockets: Path = Path("/nowhere")) -> str:
    """Return the path of the command with other paths in it, each of which must be there."""
    folder.mkdir()
    (folder / "environment").write_text(environment)
    words = {
        "/opt/opensentry-ingest/bin/opensentry-ingest": str(program),
        "/etc/opensentry-ingest/environment": str(folder / "environment"),
        "/run/postgresql": str(sockets),
    }
    command = folder / "opensentry-ingest"
    command.write_text(stack.replaced((DEPLOY / "opensentry-ingest").read_text(), words))
    command.chmod((DEPLOY / "opensentry-ingest").stat().st_mode)
    return str(command)


def run(*command: object, **keywords: Any) -> "subprocess.CompletedProcess[str]":
    options = {"cwd": "/", "capture_output": True, "text": True, "timeout": 60, **keywords}
    return subprocess.run(list(map(str, command)), **options)


@pytest.fixture(scope="module")
def command(folder: Path, program: Path, sockets: Path) -> str:
    """The command, for a migrated database."""
    path = wrapper(folder / "real", program, ENVIRONMENT, sockets)
    migrated = run(path, "migrate")
    assert (migrated.returncode, migrated.stderr) == (0, "")
    return path


@pytest.fixture
def probe(folder: Path, tmp_path: Path) -> Callable[[str], str]:
    """Makes the command for an environment file, with a script in the program's place that shows what it was given."""

    def make(environment: str) -> str:
        script = folder / f"probe-{tmp_path.name}"
        script.write_text('#!/bin/sh\nid -un\nenv -0 | grep -z ^OPENSENTRY_ | tr "\\0" "\\n"\n')
        script.chmod(0o755)
        return wrapper(folder / tmp_path.name, script, environment)

    return make


def test_the_tables_belong_to_the_owner_role(command: str, sockets: Path) -> None:
    sql = "SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace = 'opensentry'::regnamespace"
    psql = clusters.programs(15, sockets) / "psql"
    found = run(psql, "-h", sockets, "-d", "opensentry", "-tA", "-c", sql, user="postgres")
    assert found.stdout == "opensentry_owner\n"


@pytest.mark.parametrize("user", ["root", "postgres"])
def test_a_project_is_created_with_its_name_intact_and_the_public_url(command: str, user: str) -> None:
    name = f'{user}\'s  "shop" $(id) \\ *'
    created = run(command, "project", "create", name, "--json", user=user)
    assert (created.returncode, created.stderr) == (0, "")
    project = json.loads(created.stdout)
    assert project["name"] == name
    assert project["dsn"] == f"https://{project['public_key']}@ingest.example.com/v1/ingest"
    assert name in [each["name"] for each in json.loads(run(command, "project", "list", "--json").stdout)]


def test_the_retention_comes_from_the_file(command: str) -> None:
    broken = Path(command).with_name("environment")
    broken.write_text(ENVIRONMENT.replace("90", "0"))
    refused = run(command, "maintain", "--dry-run")
    broken.write_text(ENVIRONMENT)
    assert refused.returncode == 1
    assert "OPENSENTRY_RETENTION_DAYS_EVENTS: 0" in refused.stderr
    assert run(command, "maintain", "--dry-run").returncode == 0


def test_the_unit_runs_the_command_that_the_guide_installs(command: str) -> None:
    unit = stack.unit("opensentry-maintain.service")
    words = shlex.split(stack.replaced(unit["ExecStart"], {"/usr/local/bin/opensentry-ingest": command}))
    maintained = run(*words, user=unit["User"], env={"PATH": "/usr/bin:/bin"})
    assert (maintained.returncode, maintained.stderr) == (0, "")


def test_files_are_found_from_any_folder_and_input_output_and_status_pass_through(
    command: str, folder: Path, tmp_path: Path
) -> None:
    (folder / "a file.json").write_text('{"type": "error"}')
    checked = run(command, "check", "a file.json", cwd=folder)
    assert (checked.returncode, checked.stdout) == (1, "a file.json: /exception: is required\n")
    # pytest's folder is closed to postgres.
    checked = run(command, "check", "-", cwd=tmp_path, input='{"type": "error"}')
    assert (checked.returncode, checked.stdout) == (1, "-: /exception: is required\n")
    assert run(command, "check").returncode == 2
    assert run(command, "check", "-", cwd=tmp_path, input=json.dumps(support.ERROR)).returncode == 0


def test_a_user_who_is_neither_root_nor_postgres_is_refused(command: str) -> None:
    refused = run(command, "project", "list", user="nobody")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "opensentry-ingest: run this as root\n"


def test_a_file_that_postgres_cannot_read_is_named(probe: Callable[[str], str]) -> None:
    command = probe("")
    file = Path(command).with_name("environment")
    file.chmod(0o600)
    assert run(command, user="root").returncode == 0
    refused = run(command, user="postgres")
    assert (refused.returncode, refused.stderr) == (1, f"opensentry-ingest: cannot read {file}\n")


SETTINGS = r"""
# OPENSENTRY_COMMENT=x
; OPENSENTRY_SEMICOLON=x
OPENSENTRY_PLAIN=a  value
OPENSENTRY_TWICE=first
OPENSENTRY_TWICE=second
  OPENSENTRY_BLANKS =  around both
OPENSENTRY_SINGLE='it is \ "as" written  '
OPENSENTRY_DOUBLE="  a \" and a \\ and a \n"
OPENSENTRY_UNQUOTED=a\ b\\c\"d
OPENSENTRY_CONTINUED=https://a.example, \
  https://b.example
OPENSENTRY_BACKSLASH=ends with \\
OPENSENTRY_INNER=a"b"c it's
OPENSENTRY_EQUALS=a=b==
OPENSENTRY_SHELL=`touch /tmp/executed-by-opensentry`; *
OPENSENTRY_HASH=a # b
export OPENSENTRY_EXPORT=x
OPENSENTRY_NO_VALUE
DATABASE_URL="continued \
OPENSENTRY_INSIDE=x"
OPENSENTRY_LAST=no line end"""


def test_the_file_is_read_as_systemd_reads_it(probe: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "environment.d").mkdir()
    (tmp_path / "environment.d/settings.conf").write_text(SETTINGS)
    parsed = run(support.tool(PARSER), env={"XDG_CONFIG_HOME": str(tmp_path)}).stdout
    # The parser quotes its output for a shell; shlex leaves the backslash before these two.
    wanted = [re.sub(r"\\([$`])", r"\1", line) for line in shlex.split(parsed) if line.startswith("OPENSENTRY_")]
    assert len(wanted) == 13
    user, *found = run(probe(SETTINGS), env={"PATH": "/usr/bin:/bin"}).stdout.splitlines()
    assert user == "postgres"
    assert sorted(found) == sorted(wanted)
    assert not Path("/tmp/executed-by-opensentry").exists()
