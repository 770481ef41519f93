"""Every version of PostgreSQL that is promised keeps the contract."""

from pathlib import Path

import psycopg
import pytest

from tests import contract, support
from tests.databases import clusters


def compressions(database: support.Database) -> set[str]:
    """Return how the long values of the items' tables and partitions are compressed; "" is the server's default."""
    rows = database.fetch(
        "SELECT a.attcompression::text AS name FROM unnest(%s::name[]) AS t, "
        "pg_partition_tree(format('opensentry.%%I', t)::regclass) AS member, pg_attribute AS a "
        "WHERE a.attrelid = member.relid AND a.attnum > 0 AND a.attstorage = 'x'",
        list(support.TABLES),
    )
    return {row["name"] for row in rows}


# Of these builds, Debian's alone has lz4.
@pytest.mark.parametrize("version", [15, 16, 17, 18])
def test_the_contract_holds_on_postgresql(version: int, cache: Path, tmp_path: Path) -> None:
    with clusters.running(clusters.programs(version, cache)) as cluster:
        database = clusters.migrated(cluster.conninfo)
        assert database.fetch("SHOW server_version_num")[0]["server_version_num"].startswith(str(version))
        assert compressions(database) == {"l" if version == 15 else ""}
        with psycopg.connect(database.owner, autocommit=True) as connection:
            connection.execute(
                "SELECT opensentry.build_partition(t, '2031-05-01 00:00Z'), "
                "opensentry.attach_partition(t, '2031-05-01 00:00Z') FROM unnest(%s::name[]) AS t",
                (list(support.TABLES),),
            )
        assert compressions(database) == {"l" if version == 15 else ""}
        with support.gunicorn(database.service, tmp_path / "log") as server:
            contract.check(server.url, database)
            assert support.answers(server.url + "/ready")
