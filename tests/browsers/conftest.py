"""A browser, pages on two origins, and services: open to any origin, closed to all but one, without a database."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests import support

# Root needs --no-sandbox; the others keep the browser from calling home.
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]

PAGE = """<!doctype html>
<title>A page that reports its errors</title>
<script type="importmap">
{"imports": {"@zapdev-labs/sentry-clone": "/node_modules/@zapdev-labs/sentry-clone/dist/index.js"}}
</script>
<script type="module">window.sentry = await import("@zapdev-labs/sentry-clone");</script>
"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=support.tool("chromium"), args=FLAGS)
        yield browser
        browser.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Serve a folder of pages; yield the port. By its two names, it is two origins on two sites."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def port_of_pages(sentry_clone: Path) -> Iterator[int]:
    (sentry_clone / "page.html").write_text(PAGE)
    with serving(sentry_clone) as port:
        yield port


@pytest.fixture(scope="session")
def origin(port_of_pages: int) -> str:
    return f"http://localhost:{port_of_pages}"


@pytest.fixture(scope="session")
def other_origin(port_of_pages: int) -> str:
    return f"http://127.0.0.1:{port_of_pages}"


def opened(browser: Browser, origin: str) -> Iterator[Page]:
    """Open a page of an origin in a profile of its own, which has seen no preflight yet."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(origin + "/page.html")
    page.wait_for_function("window.sentry")
    yield page
    assert context.cookies() == []
    context.close()


@pytest.fixture
def page(browser: Browser, origin: str) -> Iterator[Page]:
    yield from opened(browser, origin)


@pytest.fixture
def other_page(browser: Browser, other_origin: str) -> Iterator[Page]:
    yield from opened(browser, other_origin)


@pytest.fixture(scope="module")
def closed_server(
    database: support.Database, origin: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[support.Server]:
    """The service of an operator who lists one origin."""
    log = tmp_path_factory.mktemp("closed") / "log"
    environ = {"OPENSENTRY_ALLOWED_ORIGINS": f"https://app.example.com {origin}"}
    with support.gunicorn(database.service, log, environ=environ) as running:
        yield running


@pytest.fixture(scope="module")
def server_without_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[support.Server]:
    log = tmp_path_factory.mktemp("away") / "log"
    conninfo = f"host=127.0.0.1 port={support.free_port()} dbname=away"
    with support.gunicorn(conninfo, log, environ={"OPENSENTRY_DATABASE_TIMEOUT": "1"}) as running:
        yield running


@pytest.fixture(scope="module")
def wildcard_server(database: support.Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[support.Server]:
    """The service with its answers rewritten."""
    log = tmp_path_factory.mktemp("wildcard") / "log"
    with support.gunicorn(database.service, log, app="tests.browsers.wildcard") as running:
        yield running
