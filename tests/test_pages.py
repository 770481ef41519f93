"""Each page of the viewer shows what was stored, also with the lowest version of Jinja. `tests/viewer` has the rest."""

from collections.abc import Callable
from urllib.parse import quote

import pytest
import webtest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import create_app, embedded
from opensentry_ingest.viewer import Viewer
from opensentry_ingest.viewer.pages import PAGES
from tests import support
from tests.support import AI_GENERATION, ERROR, TRANSACTION, Database

TRACE = {"traceId": "trace-abc-123"}

SHOWN = {
    "/issues": ("TypeError", "loadData in app/page.tsx"),
    "/issues/FINGERPRINT": ("app/page.tsx:42:12", "User opened settings", "us-east", "user_123"),
    "/trace?id=trace-abc-123": ("TypeError", "GET /api/checkout", "SELECT * FROM orders", "anthropic/claude-sonnet-4"),
    "/projects": ("@zapdev-labs/sentry-clone", " s ago"),
    "/performance": ("GET /api/checkout", "245 ms"),
    f"/performance/transaction?name={quote(TRANSACTION['name'])}": ("200 ms to 500 ms", "SELECT * FROM orders"),
    "/llm": ("anthropic/claude-sonnet-4", "$0.0048"),
}


@pytest.fixture(scope="module")
def fingerprint(database: Database) -> str:
    """That of an issue with one error, whose trace has a transaction and an AI generation too."""
    application = create_app(database.service)
    support.post(webtest.TestApp(application), database.key, [{**ERROR, **TRACE}, TRANSACTION, AI_GENERATION])
    application.close()
    return str(database.fetch("SELECT fingerprint FROM opensentry.issues")[0]["fingerprint"])


@pytest.mark.parametrize("path", SHOWN)
def test_a_page_and_its_json_show_what_was_stored(
    database: Database, fingerprint: str, path: str, viewer_of: Callable[..., Viewer]
) -> None:
    viewer = viewer_of(make_conninfo(database.owner, user=embedded.VIEWER_ROLE))
    page = webtest.TestApp(viewer, lint=True).get(path.replace("FINGERPRINT", fingerprint))
    page.mustcontain(*SHOWN[path])
    assert page.click("This page as JSON").json


def test_every_page_is_among_them() -> None:
    assert len(SHOWN) == len(PAGES)
