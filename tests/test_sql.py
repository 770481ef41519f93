"""Migrations: once each, in order, whole, by several at once, and by a role that may not create roles."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import create_app, embedded, migrations, resources
from opensentry_ingest.errors import CommandError
from tests import support


def migrate(conninfo: str) -> list[str]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return migrations.migrate(connection)


NAMES = sorted(path.name for path in resources.folder("sql").glob("*.sql"))


def test_migrating_twice_changes_nothing(bare_database: str) -> None:
    assert migrate(bare_database) == NAMES
    assert migrate(bare_database) == []


def test_migrations_at_the_same_time_apply_each_file_once(bare_database: str) -> None:
    with ThreadPoolExecutor() as threads:
        applied = [name for names in threads.map(migrate, [bare_database] * 5) for name in names]
    assert sorted(applied) == NAMES


@pytest.fixture
def sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations that a test may change."""
    copy = tmp_path / "sql"
    shutil.copytree(resources.folder("sql"), copy)
    monkeypatch.setattr(resources, "folder", lambda _: copy)
    return copy


def test_a_migration_that_fails_leaves_nothing_of_itself(bare_database: str, sql: Path) -> None:
    (sql / "9999_bad.sql").write_text("CREATE TABLE opensentry.half (); SELECT 1 / 0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(bare_database)
    with psycopg.connect(bare_database) as connection:
        assert connection.execute("SELECT to_regclass('opensentry.half')").fetchone() == (None,)
        assert connection.execute("SELECT to_regclass('opensentry.events') IS NULL").fetchone() == (False,)
    (sql / "9999_bad.sql").unlink()
    assert migrate(bare_database) == []


def test_a_migration_that_was_changed_is_refused(bare_database: str, sql: Path) -> None:
    migrate(bare_database)
    with (sql / NAMES[0]).open("a") as file:
        file.write("-- changed\n")
    with pytest.raises(CommandError, match=NAMES[0]):
        migrate(bare_database)


def test_prices_under_langchains_names_move_to_the_right_name(bare_database: str, sql: Path) -> None:
    later = sql / "0012_langchain_providers.sql"
    text = later.read_bytes()
    later.unlink()
    migrate(bare_database)
    with psycopg.connect(bare_database, autocommit=True) as connection:
        prices = [("openai", "a", 1), ("openai-chat", "a", 2), ("openai-chat", "b", 3), ("else", "b", 4)]
        for price in prices:
            connection.execute(
                "INSERT INTO opensentry.model_prices (provider, model, input_usd, output_usd) VALUES (%s, %s, %s, 5)",
                price,
            )
        later.write_bytes(text)
        assert migrate(bare_database) == [later.name]
        statement = "SELECT provider, model, input_usd, output_usd FROM opensentry.model_prices ORDER BY input_usd"
        rows = connection.execute(statement).fetchall()
    assert rows == [("openai", "a", 1, 5), ("openai", "b", 3, 5), ("else", "b", 4, 5)]


def test_a_role_that_may_not_create_roles_is_told_what_to_grant(tmp_path: Path) -> None:
    # In a cluster of its own, where no other test has made the role.
    with embedded.server(tmp_path) as superuser:
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute("CREATE ROLE plain LOGIN")
            connection.execute("CREATE DATABASE plain OWNER plain")
        notices: list[str] = []
        with psycopg.connect(make_conninfo(superuser, dbname="plain", user="plain"), autocommit=True) as connection:
            connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
            assert migrations.migrate(connection) == NAMES
        assert len(notices) == 3
        # What they say to run is all that is needed.
        with psycopg.connect(make_conninfo(superuser, dbname="plain"), autocommit=True) as connection:
            for notice in notices:
                assert "\n" not in notice
                connection.execute(notice.partition("run: ")[2])
        service = embedded.service_conninfo(make_conninfo(superuser, dbname="plain"))
        app = create_app(service)
        app.store.check()
        app.close()


def test_a_wheel_and_a_checkout_hold_the_same_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "node_modules", "__pycache__")
    shutil.copytree(support.ROOT, source, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "wheel", "zip")
    for name in ("schemas", "sql"):
        installed = {path.name for path in (tmp_path / "wheel" / "opensentry_ingest" / name).glob("*.*")}
        assert {path.name for path in resources.folder(name).glob("*.*")} <= installed
