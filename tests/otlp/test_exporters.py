"""Traces of the exporters of OpenTelemetry's SDKs: what they send is what is stored, once, whatever fails meanwhile."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import support
from tests.otlp.conftest import CLIENTS, Exporter, Relay, environ, relaying, run, running
from tests.support import Database

pytestmark = pytest.mark.usefixtures("no_rows")


def stored(database: Database, trace_id: str) -> list[dict[str, Any]]:
    """Return the transactions of a trace, each with its spans."""
    transactions = database.fetch(
        "SELECT * FROM opensentry.transactions WHERE trace_id = %s ORDER BY timestamp, duration_ms DESC", trace_id
    )
    for transaction in transactions:
        transaction["spans"] = database.fetch(
            "SELECT * FROM opensentry.spans WHERE batch_id = %s AND position = %s ORDER BY span_index",
            transaction["batch_id"],
            transaction["position"],
        )
    return transactions


def all_spans(database: Database) -> list[str]:
    """Return the ids of all spans that are stored, as transactions or as spans of one."""
    rows = database.fetch(
        "SELECT span_id FROM opensentry.transactions UNION ALL SELECT span_id FROM opensentry.spans ORDER BY 1"
    )
    return [row["span_id"] for row in rows]


def test_a_trace_is_stored_as_it_was_sent(exporter: Exporter, database: Database, relay: Relay) -> None:
    with running([*exporter.command, "together"], environ(database, relay)) as do:
        made = do("GET /orders/{id}")
    assert made["sent"]
    assert [(each.content_type, each.status) for each in relay.exported] == [(exporter.content_type, 200)]
    assert sorted(made["spans"].values()) == all_spans(database)
    rows = {row["span_id"]: row for each in stored(database, made["trace"]) for row in (each, *each["spans"])}
    root, query, inner = (rows[made["spans"][name]] for name in ("root", "query", "inner"))

    assert (root["name"], root["op"], root["status"], root["parent_span_id"]) == (
        "GET /orders/{id}",
        "server",
        "error",
        None,
    )
    assert (root["environment"], root["release"], root["tags"]) == (
        "testing",
        "shop@1.2.3",
        {"service.name": "shop"},
    )
    assert root["duration_ms"] > 0
    assert root["extra"]["statusMessage"] == "no stock"
    assert root["extra"]["scope"] == "shop.orders"
    assert root["extra"]["attributes"] == {
        "http.route": "/orders/{id}",
        "http.response.status_code": 500,
        "items": [1, 2, 3],
    }
    assert root["extra"]["resource"]["service.name"] == "shop"

    assert (query["op"], query["parent_span_id"]) == ("client", root["span_id"])
    assert query["extra"]["attributes"] == {
        "db.system.name": "postgresql",
        "ratio": 0.25,
        "cached": False,
        "big": 2**40 + 1,
    }
    assert (inner["op"], inner["parent_span_id"]) == ("internal", query["span_id"])
    (event,) = inner["extra"]["events"]
    assert (event["name"], event["attributes"]) == ("decoded", {"rows": 3})
    assert (query["description"], query["status"], inner["status"]) == ("SELECT orders", "ok", None)
    assert 0 <= query["start_ms"] <= inner["start_ms"]
    assert 0 < inner["duration_ms"] <= query["duration_ms"] <= root["duration_ms"]


def test_a_trace_in_three_requests_out_of_order_reads_as_one(
    exporter: Exporter, database: Database, relay: Relay
) -> None:
    with running([*exporter.command, "apart"], environ(database, relay)) as do:
        made = do("GET /orders/{id}")
    assert [each.status for each in relay.exported] == [200] * 3
    assert len(database.fetch("SELECT DISTINCT batch_id FROM opensentry.transactions")) == 3
    command = [sys.executable, "-m", "opensentry_ingest", "trace", made["trace"], "--json"]
    text = subprocess.check_output(command, env={**os.environ, "DATABASE_URL": database.owner}, text=True)
    rows = json.loads(text)["rows"]
    # Each is inside the one before it, although the innermost came first.
    assert [(row["span_id"], row["depth"]) for row in rows] == [
        (made["spans"]["root"], 0),
        (made["spans"]["query"], 1),
        (made["spans"]["inner"], 2),
    ]


def test_what_an_exporter_sends_again_is_stored_once(exporter: Exporter, database: Database, relay: Relay) -> None:
    with running([*exporter.command, "together"], environ(database, relay)) as do:
        relay.drop = 1
        made = do("GET /orders/{id}")
    assert made["sent"]
    first, second = relay.exported[:2]
    assert first == second
    assert first.status == 200
    assert sorted(made["spans"].values()) == all_spans(database)


@pytest.fixture(params=["unreachable", "answers are lost"])
def outage(request: pytest.FixtureRequest, proxy: support.Proxy) -> tuple[support.Proxy, str]:
    """Each kind of outage. In the second, statements are committed, but the service cannot know."""
    return proxy, request.param


@pytest.fixture
def relay_in_outage(proxy: support.Proxy, tmp_path: Path) -> Iterator[Relay]:
    """A relay to a service that reaches PostgreSQL through the proxy."""
    environ = {"OPENSENTRY_DATABASE_TIMEOUT": "1"}
    with support.gunicorn(proxy.conninfo, tmp_path / "log", environ=environ) as server, relaying(server) as relay:
        yield relay


def test_an_outage_of_the_database_loses_and_doubles_nothing(
    exporter: Exporter, database: Database, outage: tuple[support.Proxy, str], relay_in_outage: Relay
) -> None:
    proxy, kind = outage
    relay = relay_in_outage
    # Seconds for Python, milliseconds for Node.js.
    timeout = "60" if exporter.name == "python" else "60000"
    with (
        running([*exporter.command, "together"], environ(database, relay, OTEL_EXPORTER_OTLP_TIMEOUT=timeout)) as do,
        ThreadPoolExecutor(1) as pool,
    ):
        made = [do("before")]
        if kind == "unreachable":
            proxy.stop()
        else:
            proxy.hold_answers()
        during = pool.submit(do, "during")
        support.wait_until(lambda: 503 in [each.status for each in relay.exported], 60)
        if kind == "unreachable":
            proxy.start()
        else:
            assert len(all_spans(database)) == 6, "it should be committed"
            proxy.resume()
        made += [during.result(timeout=120), do("after")]
    assert [each["sent"] for each in made] == [True] * 3
    assert sorted(id for each in made for id in each["spans"].values()) == all_spans(database)


def test_flask_and_its_exception(python: str, database: Database, relay: Relay) -> None:
    (statuses,) = run([python, str(CLIENTS / "flask_app.py")], environ(database, relay))
    assert statuses == [200, 500]
    works, broken = database.fetch("SELECT * FROM opensentry.transactions ORDER BY timestamp")
    assert (works["name"], works["op"], works["status"]) == ("GET /orders/<int:number>", "server", "ok")
    assert works["extra"]["attributes"]["http.status_code"] == 200
    assert (broken["name"], broken["op"], broken["status"]) == ("GET /broken/<int:number>", "server", "error")
    (span,) = database.fetch("SELECT * FROM opensentry.spans")
    assert (span["description"], span["parent_span_id"]) == ("charge", broken["span_id"])
    # Two spans recorded it.
    (event,) = database.fetch("SELECT * FROM opensentry.events")
    assert (event["exception_type"], event["exception_value"]) == ("ZeroDivisionError", "order 8")
    assert (event["trace_id"], event["span_id"]) == (broken["trace_id"], span["span_id"])
    assert (event["environment"], event["release"]) == ("testing", "shop@1.2.3")
    assert "in broken" in json.dumps(event["extra"])
