"""The contract on every server in `docs/embedding.md`, started with the command given there."""

import re
import subprocess
from pathlib import Path

import pytest

from tests import contract, support
from tests.servers.examples import PAGE, command_of, running, write_example
from tests.support import Database


@pytest.fixture(scope="session")
def debian_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with Debian's Python, for the servers that Debian builds with it."""
    folder = tmp_path_factory.mktemp("debian") / "venv"
    subprocess.run([support.tool("/usr/bin/python3"), "-m", "venv", folder], check=True, capture_output=True)
    pip = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"{support.copy_of_source(folder.parent)}[speedups]"], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
def test_gunicorn(shop_database: Database, tmp_path: Path, worker: str) -> None:
    port = support.free_port()
    command = [worker if word == "gthread" else word for word in command_of("gunicorn", port)]
    assert worker in command
    if worker != "gthread":
        del command[command.index("--threads") : command.index("--threads") + 2]
    write_example("Embedding", tmp_path, shop_database.service)
    # gunicorn reads the page's configuration file by its name.
    write_example("Servers", tmp_path, shop_database.service)
    with running([*command, "--no-control-socket"], port, tmp_path) as url:
        contract.check(url, shop_database)


def test_waitress(shop_database: Database, tmp_path: Path) -> None:
    port = support.free_port()
    write_example("Embedding", tmp_path, shop_database.service)
    with running(command_of("waitress-serve", port), port, tmp_path) as url:
        contract.check(url, shop_database)


def test_granian(shop_database: Database, tmp_path: Path) -> None:
    port = support.free_port()
    write_example("Embedding", tmp_path, shop_database.service)
    with running(command_of("granian", port), port, tmp_path) as url:
        contract.check(url, shop_database)


def test_wsgiref(shop_database: Database, tmp_path: Path) -> None:
    port = support.free_port()
    write_example("Embedding", tmp_path, shop_database.service)
    with running(command_of("python", port), port, tmp_path) as url:
        contract.check(url, shop_database, chunked=False)


def test_uwsgi(shop_database: Database, tmp_path: Path, debian_venv: Path) -> None:
    support.tool("uwsgi")
    port = support.free_port()
    write_example("Embedding", tmp_path, shop_database.service)
    command = [str(debian_venv) if word == "VENV" else word for word in command_of("uwsgi", port)]
    with running(command, port, tmp_path) as url:
        contract.check(url, shop_database, chunked=False)


APACHE = """
ServerRoot {folder}
PidFile {folder}/apache.pid
ErrorLog {folder}/apache.log
DefaultRuntimeDir {folder}
Listen 127.0.0.1:{port}
ServerName localhost
User {user}
Group {group}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule wsgi_module {modules}/mod_wsgi.so
WSGISocketPrefix {folder}/wsgi
{page}
"""


def test_mod_wsgi(shop_database: Database, tmp_path: Path, debian_venv: Path) -> None:
    program = support.tool("apache2")
    port = support.free_port()
    # Apache drops root's privileges, and then cannot read PostgreSQL's socket folder or pytest's folders.
    proxy = support.Proxy(shop_database.service)
    write_example("Embedding", tmp_path, proxy.conninfo)
    page = re.findall(r"^```apache\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
    page = page.replace("VENV", str(debian_venv)).replace("/srv/shop", str(tmp_path))
    for path in (tmp_path, *tmp_path.parents[:2], debian_venv.parent):
        path.chmod(0o755)
    config = tmp_path / "apache.conf"
    config.write_text(
        APACHE.format(
            folder=tmp_path, port=port, user="www-data", group="www-data", modules="/usr/lib/apache2/modules", page=page
        )
    )
    with running([program, "-D", "FOREGROUND", "-f", str(config)], port, tmp_path) as url:
        contract.check(url, shop_database)
        assert "Traceback" not in (tmp_path / "apache.log").read_text()
