"""The viewer as its command runs it, a database with what people and attackers send, and axe-core."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import webtest
from playwright.sync_api import Browser, BrowserContext, Page
from psycopg.conninfo import make_conninfo

from opensentry_ingest import create_app, embedded
from tests import support
from tests.browsers.conftest import browser
from tests.support import AI_GENERATION, ERROR, TRANSACTION, Database
from tests.viewer.hostile import HOSTILE, ai_generation, error, transaction

__all__ = ["browser"]

Opened = Callable[..., Page]

CLIENT = """
import * as sentry from "@zapdev-labs/sentry-clone";
sentry.init({dsn: process.argv[2], environment: "production", release: "shop@1"});
sentry.captureException(new RangeError("sent by the published client"));
await sentry.flush();
"""

# Long enough without a space to need a place to break.
LONG = {**ERROR, "exception": {"type": "L" + "o" * 200 + "ng", "value": "x" * 3000}, "tags": {"k" * 100: "v" * 300}}


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core."""
    folder = tmp_path_factory.mktemp("axe")
    command = [support.tool("npm"), "install", "--no-audit", "--no-fund", "--silent", "axe-core@4.11.0"]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "node_modules/axe-core/axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def filled(database: Database, sentry_clone: Path, server: support.Server) -> Database:
    """A database with real items, hostile ones, and one that the published client sent."""
    (sentry_clone / "send.mjs").write_text(CLIENT)
    dsn = f"http://{database.key}@127.0.0.1:{server.port}/v1/ingest"
    subprocess.run([support.tool("node"), "send.mjs", dsn], cwd=sentry_clone, check=True)
    application = create_app(database.service)
    ingest = webtest.TestApp(application)
    trace = {"traceId": "trace-abc-123"}
    batches = [[{**ERROR, **trace}, TRANSACTION, AI_GENERATION, LONG]]
    batches += [[error(text), transaction(text), ai_generation(text)] for text in HOSTILE]
    for batch in batches:
        support.post(ingest, database.key, batch)
    application.close()
    return database


def running(conninfo: str, log: Path) -> Iterator[str]:
    """Run the command `view`; yield its URL."""
    port = support.free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "opensentry_ingest", "view", "--port", str(port)],
            env={**os.environ, "DATABASE_URL": make_conninfo(conninfo, user=embedded.VIEWER_ROLE)},
            stdout=output,
            stderr=output,
        )
    try:
        support.wait_until(lambda: support.listens(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield f"http://localhost:{port}"
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def url(filled: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from running(filled.owner, tmp_path_factory.mktemp("viewer") / "log")


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opened]:
    """Opens a page in a profile of its own; whatever it executes that it should not fails the test."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def elsewhere(url: str) -> None:
        if not url.startswith("http://localhost:"):
            wrong.append(f"request: {url}")

    def opened(url: str, **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda request: elsewhere(request.url))
        if options.get("java_script_enabled", True):
            page.add_init_script(
                "addEventListener('securitypolicyviolation', event => console.error('CSP ' + event.blockedURI))"
            )
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        assert context.cookies() == []
        context.close()
    assert wrong == []
