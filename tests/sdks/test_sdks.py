"""What each SDK sends is stored, once, and as what it means."""

from collections.abc import Callable
from pathlib import Path

import pytest
import webtest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import embedded
from opensentry_ingest.viewer import Viewer
from tests import support
from tests.sdks import rows
from tests.sdks.conftest import LEGACY, SDK, Do, accepted, dsn, run, sends_again_after_a_503
from tests.support import Database, Server

STREAMING = ("node", "browser")
"""The SDKs that send spans instead of transactions, unless they are told not to."""

TEXT = "a \u2603 in winter"


def test_an_exception_is_stored_with_its_causes_and_its_context(do: Do, database: Database) -> None:
    do("exception")
    rows.check_exception(rows.one(database, "events"))


def test_a_message_is_stored(do: Do, database: Database) -> None:
    do(f"message {TEXT}")
    rows.check_message(rows.one(database, "events"), TEXT)


def test_a_transaction_is_stored_with_its_spans(
    sdk: SDK, do: Do, database: Database, viewer_of: Callable[..., Viewer]
) -> None:
    do("transaction")
    row = rows.one(database, "transactions")
    spans = database.rows("spans", row["batch_id"])
    rows.check_transaction(row, spans, measured=sdk.name == "python-debian", streamed=sdk.name in STREAMING)
    # And shown, by the command line and by the viewer.
    names = ("checkout", "GET /price", "SELECT 1")
    printed = support.command("trace", row["trace_id"], database_url=database.owner).stdout
    assert [name for name in names if name not in printed] == []
    viewer = viewer_of(make_conninfo(database.owner, user=embedded.VIEWER_ROLE))
    webtest.TestApp(viewer).get(f"/trace?id={row['trace_id']}").mustcontain(*names)


def test_an_event_that_is_sent_twice_is_stored_once(do: Do, server: Server, database: Database) -> None:
    before = accepted(server)
    do("twice")
    assert accepted(server) == before + 2
    assert rows.one(database, "events")["message"] == "twice"


def test_an_sdk_sends_again_after_a_503(sdk: SDK, database: Database, proxy: support.Proxy, tmp_path: Path) -> None:
    sends_again_after_a_503(sdk.start, "message ", database, proxy, tmp_path / "log")


@pytest.mark.parametrize("name", LEGACY)
def test_the_sdks_before_these_post_to_store(
    name: str, server: Server, database: Database, request: pytest.FixtureRequest
) -> None:
    """They are called Raven, and pack what is long as zlib in Base64."""
    before = accepted(server)
    with run(LEGACY[name](request), dsn(server, database)) as do:
        do("exception")
        do(f"message {TEXT}")
        do("twice")
    assert accepted(server) == before + 4
    exception, message, twice = database.fetch("SELECT * FROM opensentry.events ORDER BY received_at")
    rows.check_message(message, TEXT)
    assert twice["message"] == "twice"
    # That for Go has no breadcrumbs.
    rows.check_exception(exception, rows.LEGACY_CHAINS[name], has_breadcrumbs=name != "go")
