"""What the rows must say, whichever SDK has sent them."""

from datetime import datetime, timezone
from typing import Any

from tests.support import Database

CHAINS = {
    "python": [("RuntimeError", "outer"), ("ValueError", "middle"), ("KeyError", "'inner'")],
    "node": [("RangeError", "outer"), ("SyntaxError", "middle"), ("TypeError", "inner")],
    "ruby": [("RuntimeError", "outer"), ("ArgumentError", "middle"), ("KeyError", "inner")],
    "go": [
        ("*fmt.wrapError", "outer: middle: inner"),
        ("*fmt.wrapError", "middle: inner"),
        ("*errors.errorString", "inner"),
    ],
}
"""The exception that each platform raises, then its causes, as type and value."""
CHAINS["javascript"] = CHAINS["node"]

LEGACY_CHAINS = {
    "ruby": CHAINS["ruby"],
    # They know no causes; to that for Go, the client gives a list.
    "node": [("RangeError", "outer")],
    "go": [("*fmt.wrapError", "inner"), ("*errors.errorString", "inner")],
}
"""The same of the SDKs that preceded those."""


def one(database: Database, table: str) -> dict[str, Any]:
    """Return the only row of a table."""
    (row,) = database.fetch(f"SELECT * FROM opensentry.{table}")
    return row


def check_context(row: dict[str, Any], tags: bool = True) -> None:
    """Check what is the same for all that a client sends, except for tags if it sends none."""
    assert (row["release"], row["environment"]) == ("shop@1.2.3", "testing")
    assert {name: row["user"][name] for name in ("id", "email")} == {"id": "42", "email": "dev@example.com"}
    assert not tags or row["tags"]["region"] == "us-east"
    assert "unconverted" not in row["extra"]


def check_breadcrumb(row: dict[str, Any]) -> None:
    crumb = next(crumb for crumb in row["breadcrumbs"] if crumb.get("category") == "cart")
    assert (crumb["message"], crumb["level"], crumb["data"]) == ("added a book", "info", {"count": 2})
    assert datetime.fromisoformat(crumb["timestamp"].replace("Z", "+00:00")).tzinfo


def check_exception(
    row: dict[str, Any], chain: list[tuple[str, str]] | None = None, has_breadcrumbs: bool = True
) -> None:
    """Check an exception.

    Args:
        chain: itself and its causes, as type and value; None: what is in CHAINS.
        has_breadcrumbs: whether the SDK has them.
    """
    check_context(row)
    if has_breadcrumbs:
        check_breadcrumb(row)
    found = [(row["exception_type"], row["exception_value"])]
    found += [(cause["type"], cause["value"]) for cause in row["extra"].get("causes", [])]
    assert found == (chain or CHAINS[row["extra"]["platform"]])
    assert row["level"] == "error"
    # The first frame is the one that raised.
    assert "exception" in row["frames"][0]["function"]


def check_message(row: dict[str, Any], text: str) -> None:
    check_context(row)
    assert (row["message"], row["level"], row["exception_type"]) == (text, "warning", None)


def check_transaction(row: dict[str, Any], spans: list[dict[str, Any]], measured: bool, streamed: bool) -> None:
    """Check a transaction and its two spans, one inside the other.

    Args:
        measured: whether the SDK measured when the transaction ended, instead of being told.
        streamed: whether it streamed the spans, which have no tags then.
    """
    check_context(row, tags=not streamed)
    assert (row["name"], row["op"], row["status"]) == ("checkout", "task", "ok")
    assert ("is_segment" in row["extra"]["contexts"]["trace"]) == streamed
    assert [len(row["trace_id"]), len(row["span_id"]), row["parent_span_id"]] == [32, 16, None]
    if not measured:
        assert row["timestamp"] == datetime(2026, 1, 2, 3, 4, 5, 250_000, timezone.utc)
        assert row["duration_ms"] == 250
    names = ("parent_span_id", "op", "description", "start_ms", "duration_ms")
    outer, inner = sorted(spans, key=lambda span: int(span["start_ms"]))
    assert [outer[name] for name in names] == [row["span_id"], "http.client", "GET /price", 50, 150]
    assert [inner[name] for name in names] == [outer["span_id"], "db", "SELECT 1", 100, 40]
