"""The examples in docs/clients.md send, and retry through an outage so that every batch is stored once."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import support
from tests.schemas.conftest import Run

PAGE = (support.ROOT / "docs" / "clients.md").read_text("utf-8")
EXAMPLES = dict(re.findall(r"^```(python|typescript|go)\n(.*?)^```$", PAGE, re.M | re.S))
ITEMS = {"python": 21, "typescript": 21, "go": 1}


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest, workshop: Path, run: Run) -> tuple[str, list[str]]:
    """The language of an example, and the command that runs it."""
    language = str(request.param)
    file = workshop / {"python": "client.py", "typescript": "client.ts", "go": "client.go"}[language]
    file.write_text(EXAMPLES[language])
    if language == "python":
        return language, [sys.executable, str(file)]
    if language == "go":
        support.tool("go")
        run(f"GOCACHE={workshop}/cache go build -o client client.go")
        return language, [str(workshop / "client")]
    (workshop / "package.json").write_text('{"type": "module"}')
    paths = '{"opensentry-ingest-schemas": ["./schemas/index.d.ts"]}'
    (workshop / "tsconfig.json").write_text(
        f'{{"compilerOptions": {{"strict": true, "module": "nodenext", "target": "es2022", "outDir": "built", '
        f'"types": ["node"], "paths": {paths}}}, "files": ["client.ts"]}}'
    )
    run("tsc --project .")
    return language, [support.tool("node"), str(workshop / "built" / "client.js")]


def start(command: list[str], server: support.Server, key: str) -> "subprocess.Popen[str]":
    dsn = f"http://{key}@127.0.0.1:{server.port}/v1/ingest"
    return subprocess.Popen(command, env={**os.environ, "DSN": dsn}, stdout=subprocess.PIPE, text=True)


def test_each_example_has_fewer_than_60_lines() -> None:
    assert set(EXAMPLES) == set(ITEMS)
    assert max(len(code.splitlines()) for code in EXAMPLES.values()) < 60


def test_an_example_sends_its_items(
    example: tuple[str, list[str]], database: support.Database, server: support.Server
) -> None:
    before = database.counts()["events"]
    language, command = example
    process = start(command, server, database.key)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    ids = re.findall(r"[0-9a-f-]{36}", out)
    assert sum(len(database.rows("events", batch)) for batch in ids) == ITEMS[language]
    assert database.counts()["events"] == before + ITEMS[language]


def test_an_example_survives_an_outage_of_the_database(
    example: tuple[str, list[str]], database: support.Database, proxy: support.Proxy, tmp_path: Path
) -> None:
    before = database.counts()["events"]
    language, command = example
    with support.gunicorn(proxy.conninfo, tmp_path / "log", environ={"OPENSENTRY_DATABASE_TIMEOUT": "0.5"}) as server:
        proxy.stop()
        process = start(command, server, database.key)
        support.wait_until(lambda: "status=503" in server.log.read_text())
        time.sleep(0.1)
        proxy.start()
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert database.counts()["events"] == before + ITEMS[language]


def test_an_example_does_not_retry_after_a_403(
    example: tuple[str, list[str]], database: support.Database, tmp_path: Path
) -> None:
    log = ("--workers", "1", "--threads", "4", "--access-logfile", "-")
    with support.gunicorn(database.service, tmp_path / "log", *log) as server:
        start(example[1], server, "nobody").communicate(timeout=60)
        support.wait_until(lambda: '/v1/ingest HTTP/1.1"' in server.log.read_text())
    requests = re.findall(r'"POST /v1/ingest HTTP/1.1" (\d+)', server.log.read_text())
    assert requests == ["403"]
