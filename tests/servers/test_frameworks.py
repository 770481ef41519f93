"""The examples of `docs/embedding.md`, unchanged, with the real frameworks."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests import contract, support
from tests.servers.examples import command_of, running, write_example
from tests.support import ROOT, Database


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def check(module: str, folder: Path, database: Database) -> None:
    """Check the contract of the service under /telemetry, and that the application answers all other paths."""
    port = support.free_port()
    command = [*command_of("gunicorn", port)[:-1], "--no-control-socket", module]
    with running(command, port, folder) as url:
        assert get(url + "/") == (200, "the shop")
        contract.check(url + "/telemetry", database)
        for path in ("/v1/ingest", "/health", "/telemetryx/health"):
            status, text = get(url + path)
            assert status == 404
            assert '{"error"' not in text, "the service answered outside its path"
        assert get(url + "/") == (200, "the shop")
        if module == "shop.wsgi":
            assert get(url + "/errors") == (200, str(database.counts()["events"]))


@pytest.mark.parametrize("section", ["Plain WSGI", "Flask", "Pyramid"])
def test_the_example_meets_the_contract(shop_database: Database, tmp_path: Path, section: str) -> None:
    write_example(section, tmp_path, shop_database.service)
    check("app", tmp_path, shop_database)


def test_django_and_the_service_share_a_database(shop_database: Database, tmp_path: Path) -> None:
    def run(*command: str) -> None:
        subprocess.run([sys.executable, *command], cwd=tmp_path, check=True, capture_output=True)

    run("-m", "django", "startproject", "shop", ".")
    write_example("Plain WSGI", tmp_path, shop_database.service)
    write_example("Django", tmp_path, shop_database.service)
    info = conninfo_to_dict(shop_database.service)
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    database = {"ENGINE": "django.db.backends.postgresql", **{name: info.get(key) for name, key in names.items()}}
    with (tmp_path / "shop/settings.py").open("a") as settings:
        settings.write(f"\nDATABASES = {{'default': {database!r}}}\n")
    run("manage.py", "migrate")
    tables = shop_database.fetch(
        "SELECT schemaname, tablename FROM pg_tables WHERE tablename IN ('auth_user', 'events')"
    )
    assert {(row["schemaname"], row["tablename"]) for row in tables} == {
        ("public", "auth_user"),
        ("opensentry", "events"),
    }
    check("shop.wsgi", tmp_path, shop_database)


LOGGING = """
import io, logging, sys
from opensentry_ingest import create_app
app = create_app(sys.argv[1], database_timeout=0.2)
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("%(name)s %(levelname)s"))
logging.getLogger("opensentry_ingest").addHandler(handler)
environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/ready", "wsgi.input": io.BytesIO()}
app(environ, lambda status, headers: print(status))
loggers = [logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)]
ours = [logger for logger in loggers if logger.name.startswith(("root", "opensentry_ingest"))]
assert [each for logger in ours for each in logger.handlers] == [handler]
"""


def test_the_service_logs_but_installs_no_handlers() -> None:
    unreachable = f"host=127.0.0.1 port={support.free_port()} dbname=x user=x"
    environ = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    ran = subprocess.run(
        [sys.executable, "-c", LOGGING, unreachable], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert sorted(ran.stdout.splitlines()) == ["503 Service Unavailable", "opensentry_ingest WARNING"]
