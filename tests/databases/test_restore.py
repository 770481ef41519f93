"""The backup that docs/operations.md describes brings everything back."""

import os
import re
import subprocess
from pathlib import Path

import psycopg
import webtest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import create_app, migrations
from tests import support
from tests.databases import clusters


def test_a_dump_is_restored_as_the_documentation_says(programs: Path, tmp_path: Path) -> None:
    text = (support.ROOT / "docs" / "operations.md").read_text()
    commands = re.findall(r"^    ((?:pg_dump|psql|pg_restore) .*)$", text, re.MULTILINE)
    assert len(commands) == 3
    with clusters.running(programs) as old, clusters.running(programs) as new:
        database = clusters.migrated(old.conninfo)
        app = create_app(database.service)
        path = f"/v1/ingest?key={database.key}"
        batch = webtest.TestApp(app).post_json(path, support.ERROR).json["id"]
        app.close()
        environ = {**os.environ, "DATABASE_URL": old.conninfo, "NEW_DATABASE_URL": new.conninfo}
        environ["PATH"] = f"{programs}:{environ['PATH']}"
        for command in commands:
            subprocess.run(command, shell=True, check=True, env=environ, cwd=tmp_path)
        with psycopg.connect(new.conninfo, autocommit=True) as connection:
            assert migrations.migrate(connection) == []
            connection.execute("CREATE ROLE opensentry_service LOGIN IN ROLE opensentry_ingest")
        restored = create_app(make_conninfo(new.conninfo, user="opensentry_service"))
        client = webtest.TestApp(restored)
        assert client.get("/ready").status_int == 200
        assert client.post_json(path, support.ERROR).status_int == 202
        restored.close()
        where = "SELECT * FROM opensentry.events WHERE batch_id = %s"
        with psycopg.connect(new.conninfo) as connection:
            rows = connection.execute(where, (batch,)).fetchall()
        assert rows == [tuple(row.values()) for row in database.fetch(where, batch)]
        assert len(rows) == 1
