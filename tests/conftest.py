"""The fixtures: one PostgreSQL for the run, a new database for each module, and the app with each validator."""

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from wsgiref.validate import validator as wsgi_validator

import psycopg
import pytest
import webtest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from opensentry_ingest import Application, admin, create_app, create_viewer, embedded, migrations, validators
from opensentry_ingest.viewer import Viewer
from tests import apis, support


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The connection string of a superuser of this run's PostgreSQL."""
    if os.environ.get("TEST_DATABASE_URL"):
        yield os.environ["TEST_DATABASE_URL"]
        return
    with embedded.server(tmp_path_factory.mktemp("postgres")) as conninfo:
        # Only a crash of the machine would lose data.
        execute(conninfo, "ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET full_page_writes = off")
        execute(conninfo, "SELECT pg_reload_conf()")
        yield conninfo


def execute(conninfo: str, *statements: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    """The name of a migrated database, from which the others are copied."""
    name = f"opensentry_template_{secrets.token_hex(4)}"
    execute(postgres, f"CREATE DATABASE {name}")
    with psycopg.connect(make_conninfo(postgres, dbname=name), autocommit=True) as connection:
        migrations.migrate(connection)
    embedded.service_conninfo(make_conninfo(postgres, dbname=name))
    embedded.viewer_conninfo(make_conninfo(postgres, dbname=name))
    if password := conninfo_to_dict(postgres).get("password"):
        for role in (embedded.SERVICE_ROLE, embedded.VIEWER_ROLE):
            execute(postgres, f"ALTER ROLE {role} PASSWORD '{password}'")
    yield name
    execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def database(postgres: str, template: str) -> Iterator[support.Database]:
    name = f"opensentry_test_{secrets.token_hex(4)}"
    execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    owner = make_conninfo(postgres, dbname=name)
    with psycopg.connect(owner, autocommit=True) as connection:
        project = admin.create_project(connection, "test")
    service = make_conninfo(owner, user=embedded.SERVICE_ROLE)
    yield support.Database(owner, service, project["id"], project["public_key"])
    execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def bare_database(postgres: str) -> Iterator[str]:
    """The connection string of the owner of an empty database."""
    name = f"opensentry_bare_{secrets.token_hex(4)}"
    execute(postgres, f"CREATE DATABASE {name}")
    yield make_conninfo(postgres, dbname=name)
    execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["jsonschema", "jsonschema-rs"])
def each_validator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with each validator."""
    check = validators.fast() if request.param == "jsonschema-rs" else validators.reference().is_valid
    monkeypatch.setattr(validators, "is_valid", check)
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def app(database: support.Database) -> Iterator[Application]:
    application = create_app(database.service)
    yield application
    application.close()


@pytest.fixture(scope="module")
def viewer_of() -> Iterator[Callable[..., Viewer]]:
    """`create_viewer()`; the connections are closed at the end."""
    with ExitStack() as stack:
        yield lambda *arguments, **keywords: stack.enter_context(closing(create_viewer(*arguments, **keywords)))


@pytest.fixture
def client(app: Application, each_validator: str) -> webtest.TestApp:
    """The app, checked by wsgiref's validator and WebTest's lint, with each JSON Schema validator."""
    return webtest.TestApp(wsgi_validator(app), lint=True)


@pytest.fixture(scope="module")
def server(database: support.Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[support.Server]:
    """A real gunicorn."""
    with support.gunicorn(database.service, tmp_path_factory.mktemp("gunicorn") / "log") as running:
        yield running


@pytest.fixture
def proxy(database: support.Database) -> Iterator[support.Proxy]:
    proxy = support.Proxy(database.service)
    yield proxy
    proxy.resume()
    proxy.stop()


@pytest.fixture(scope="session")
def apis_url() -> Iterator[str]:
    """The URL of the stand-in for the APIs of OpenAI and Anthropic."""
    with apis.serving() as url:
        yield url


@pytest.fixture(scope="session")
def sentry_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the published client for JavaScript."""
    support.tool("node")
    folder = tmp_path_factory.mktemp("node")
    command = [support.tool("npm"), "install", "--no-audit", "--no-fund", "--silent", "@zapdev-labs/sentry-clone@0.1.4"]
    subprocess.run(command, cwd=folder, check=True)
    return folder
