"""`/ready` is 200 when a batch could be stored now, and 503 in each way that it could not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import webtest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import create_app
from tests import support
from tests.databases import clusters


@pytest.fixture(scope="module")
def cluster(programs: Path) -> Iterator[clusters.Cluster]:
    with clusters.running(programs) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def database(cluster: clusters.Cluster) -> support.Database:
    return clusters.migrated(cluster.conninfo)


@contextmanager
def client(conninfo: str) -> Iterator[webtest.TestApp]:
    app = create_app(conninfo, database_timeout=2)
    yield webtest.TestApp(app)
    app.close()


def refused(conninfo: str) -> bool:
    with client(conninfo) as app:
        assert app.get("/health").status_int == 200
        response = app.get("/ready", expect_errors=True)
        return (response.status_int, response.body, response.headers["Retry-After"]) == (
            503,
            b'{"error": "Service unavailable"}',
            "5",
        )


def test_a_migrated_database_is_ready(database: support.Database) -> None:
    with client(database.service) as app:
        assert app.get("/ready").body == b'{"status": "ok"}'


def test_a_database_that_is_not_migrated_is_not_ready(cluster: clusters.Cluster) -> None:
    with psycopg.connect(cluster.conninfo, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    assert refused(make_conninfo(cluster.conninfo, dbname="empty"))


def test_a_role_without_the_right_to_store_is_not_ready(database: support.Database) -> None:
    database.fetch("CREATE ROLE stranger LOGIN")
    assert refused(make_conninfo(database.service, user="stranger"))


def test_a_wrong_password_is_not_ready(cluster: clusters.Cluster, database: support.Database) -> None:
    database.fetch("CREATE ROLE guarded LOGIN PASSWORD 'right' IN ROLE opensentry_ingest")
    rules = cluster.data / "pg_hba.conf"
    rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    database.fetch("SELECT pg_reload_conf()")
    right = make_conninfo(database.service, user="guarded", password="right")
    support.wait_until(lambda: refused(make_conninfo(right, password="wrong")))
    with client(right) as app:
        assert app.get("/ready").status_int == 200


def test_a_read_only_database_is_not_ready(database: support.Database) -> None:
    assert refused(make_conninfo(database.service, options="-c default_transaction_read_only=on"))


def test_no_database_is_not_ready(database: support.Database) -> None:
    assert refused(make_conninfo(database.service, port=support.free_port()))


def test_a_standby_is_not_ready_until_it_is_promoted(
    programs: Path, cluster: clusters.Cluster, database: support.Database
) -> None:
    with clusters.folder() as folder:
        standby = clusters.Cluster(programs, folder, cluster)
        try:
            standby.start()
            conninfo = make_conninfo(database.service, port=standby.port)
            assert refused(conninfo)
            standby.promote()
            with client(conninfo) as app:
                assert app.get("/ready").status_int == 200
                assert app.post_json(f"/v1/ingest?key={database.key}", support.ERROR).status_int == 202
        finally:
            standby.stop()
