"""The viewer: what it shows, to whom, and what it lets nobody do."""

import pytest
import webtest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import create_app, create_viewer, embedded
from opensentry_ingest.viewer import Viewer
from tests import support
from tests.support import ERROR, Database


@pytest.fixture(scope="module")
def viewer_conninfo(database: Database) -> str:
    return make_conninfo(database.owner, user=embedded.VIEWER_ROLE)


@pytest.fixture(scope="module")
def viewer(viewer_conninfo: str) -> Viewer:
    return create_viewer(viewer_conninfo)


@pytest.fixture
def client(viewer: Viewer) -> webtest.TestApp:
    return webtest.TestApp(viewer, lint=True)


def test_a_stored_error_is_on_the_page_of_issues(client: webtest.TestApp, database: Database) -> None:
    ingest = create_app(database.service)
    support.post(webtest.TestApp(ingest), database.key, ERROR)
    ingest.close()
    client.get("/issues").mustcontain("Cannot read property", "loadData in app/page.tsx")
