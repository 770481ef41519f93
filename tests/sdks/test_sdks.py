"""What each SDK sends is stored, once, and as what it means."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests import support
from tests.sdks.conftest import Client, run
from tests.support import Database, Server

CHAINS = {
    "python": (("RuntimeError", "outer"), ("KeyError", "'inner'")),
    "javascript": (("RangeError", "outer"), ("TypeError", "inner")),
    "ruby": (("RuntimeError", "outer"), ("KeyError", "inner")),
    "go": (("*fmt.wrapError", "outer: inner"), ("*errors.errorString", "inner")),
}
"""The exception that each platform raises, and its cause, as type and value."""

TABLES = ("events", "transactions", "spans")


@pytest.fixture
def client(sdk: tuple[str, list[str]], server: Server, database: Database) -> Iterator[Client]:
    for table in TABLES:
        database.fetch(f"DELETE FROM opensentry.{table}")
    with run(sdk[1], server, database) as client:
        yield client


def check_common(row: dict[str, Any]) -> None:
    """Check what is the same for all that a client sends."""
    assert (row["release"], row["environment"]) == ("shop@1.2.3", "testing")
    assert row["user"] == {"id": "42", "email": "dev@example.com"} | (row["user"] or {})
    assert row["tags"]["region"] == "us-east"
    assert "unconverted" not in (row["extra"] or {})


def check_exception(row: dict[str, Any], function: str = "exception") -> None:
    check_common(row)
    assert row["level"] == "error"
    raised, cause = CHAINS[row["extra"]["platform"] if row["extra"]["platform"] != "node" else "javascript"]
    assert (row["exception_type"], row["exception_value"]) == raised
    (inner,) = row["extra"]["causes"]
    assert (inner["type"], inner["value"]) == cause
    crumb = next(crumb for crumb in row["breadcrumbs"] if crumb.get("category") == "cart")
    assert (crumb["message"], crumb["level"], crumb["data"]) == ("added a book", "info", {"count": 2})
    # The frame that raised is the first.
    assert function in row["frames"][0]["function"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*", crumb["timestamp"])


def check_transaction(database: Database) -> None:
    """Check the one transaction with two spans, one inside the other."""
    (row,) = database.fetch("SELECT * FROM opensentry.transactions WHERE name = 'checkout'")
    check_common(row)
    assert (row["op"], row["status"]) == ("task", "ok")
    assert re.fullmatch("[0-9a-f]{32}", row["trace_id"])
    outer, inner = sorted(database.rows("spans", row["batch_id"]), key=lambda span: span["op"], reverse=True)
    assert (outer["op"], outer["description"]) == ("http.client", "GET /price")
    assert (inner["op"], inner["description"]) == ("db", "SELECT 1")
    assert outer["parent_span_id"] == row["span_id"]
    assert inner["parent_span_id"] == outer["span_id"]
    assert 0 <= outer["start_ms"] <= inner["start_ms"] <= row["duration_ms"]


def test_an_exception_is_stored_with_its_cause_and_its_context(client: Client, database: Database) -> None:
    client.do("exception")
    (row,) = database.fetch("SELECT * FROM opensentry.events")
    check_exception(row)
    assert row["fingerprint"]


def test_a_message_is_stored(client: Client, database: Database) -> None:
    client.do("message a \u2603 in winter")
    (row,) = database.fetch("SELECT * FROM opensentry.events")
    check_common(row)
    assert (row["message"], row["level"], row["exception_type"]) == ("a \u2603 in winter", "warning", None)


def test_a_transaction_is_stored_with_its_spans(client: Client, database: Database) -> None:
    client.do("transaction")
    check_transaction(database)


def test_an_event_that_is_sent_twice_is_stored_once(client: Client, database: Database) -> None:
    client.do("twice")
    # A later event was stored after both attempts.
    client.do("message later")
    rows = database.fetch("SELECT message FROM opensentry.events ORDER BY message")
    assert [row["message"] for row in rows] == ["later", "twice"]


def test_an_sdk_recovers_from_a_503(
    sdk: tuple[str, list[str]], database: Database, proxy: support.Proxy, tmp_path: Any
) -> None:
    environ = {"OPENSENTRY_DATABASE_TIMEOUT": "0.5"}
    options = ("--workers", "1", "--threads", "4", "--access-logfile", "-")
    with (
        support.gunicorn(proxy.conninfo, tmp_path / "log", *options, environ=environ) as server,
        run(sdk[1], server, database) as client,
    ):
        client.do("message before")
        proxy.stop()
        client.do("message during")
        support.wait_until(lambda: "status=503" in server.log.read_text())
        proxy.start()

        def sends_again() -> bool:
            client.do("message recovered")
            return bool(database.fetch("SELECT message FROM opensentry.events WHERE message = 'recovered'"))

        support.wait_until(sends_again, 60)
    # What met the 503 is lost: no SDK here keeps it. docs/clients.md says so.
    assert not database.fetch("SELECT message FROM opensentry.events WHERE message = 'during'")
