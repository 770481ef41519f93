"""Every version of PostgreSQL that is promised keeps the contract."""

from pathlib import Path

import pytest

from tests import contract, support
from tests.databases import clusters


@pytest.mark.parametrize("version", [15, 16, 17, 18])
def test_the_contract_holds_on_postgresql(version: int, cache: Path, tmp_path: Path) -> None:
    with clusters.running(clusters.programs(version, cache)) as cluster:
        database = clusters.migrated(cluster.conninfo)
        assert database.fetch("SHOW server_version_num")[0]["server_version_num"].startswith(str(version))
        with support.gunicorn(database.service, tmp_path / "log") as server:
            contract.check(server.url, database)
            assert support.answers(server.url + "/ready")
