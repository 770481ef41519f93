"""`make demo`, with few items, against a real server: what it sends is valid, and each page has something to show."""

import os
import subprocess
import sys

from tests import support
from tests.support import Database


def demo(server: support.Server, database: Database, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tools.demo", "--url", server.url, "--items", "400", *options]
    environ = {**os.environ, "DATABASE_URL": database.owner}
    return subprocess.run(command, cwd=support.ROOT, env=environ, capture_output=True, text=True, check=False)


def test_a_week_of_a_shop_twice(server: support.Server, database: Database) -> None:
    for run in (1, 2):
        done = demo(server, database)
        assert (done.returncode, done.stderr) == (0, "")
        # What the service keeps aside, because the schema does not know it, would be a mistake of the demo.
        for table in support.TABLES:
            assert database.fetch(f"SELECT count(*) FROM opensentry.{table} WHERE extra IS NOT NULL") == [{"count": 0}]
            assert database.counts()[table] > 0
        [span] = database.fetch(
            "SELECT min(received_at) < now() - interval '6 days' AS week, max(received_at) <= now() AS past, "
            "bool_and(received_at = timestamp) AS moved FROM opensentry.transactions"
        )
        assert span == {"week": True, "past": True, "moved": True}
        orphans = (
            "SELECT count(*) FROM opensentry.spans AS s LEFT JOIN opensentry.transactions AS t "
            "USING (project_id, batch_id, position, received_at) WHERE t.name IS NULL"
        )
        assert database.fetch(orphans) == [{"count": 0}]
        rows = database.fetch("SELECT title, status, regressed, events, first_seen FROM opensentry.issue_totals")
        issues = {row["title"].partition(":")[0]: row for row in rows}
        assert len(rows) == 25
        assert (issues["KeyError"]["status"], issues["KeyError"]["regressed"]) == ("resolved", True)
        assert (issues["OperationalError"]["status"], issues["OperationalError"]["regressed"]) == ("resolved", False)
        assert issues["PaymentDeclined"]["status"] == "ignored"
        assert {row["status"] for row in rows} == {"open", "resolved", "ignored"}
        new = "SELECT first_seen > now() - interval '7 days' AS new, count(*) AS n FROM opensentry.issues GROUP BY 1"
        assert all(row["n"] > 5 for row in database.fetch(new))
        costs = database.fetch("SELECT DISTINCT cost_source FROM opensentry.ai_generation_costs ORDER BY 1")
        assert [row["cost_source"] for row in costs] == ["computed", "sent", "unknown"]
        # The price of the operator stays as it is; so does that of the first run.
        assert database.fetch("SELECT model, valid_from = '-infinity' AS always FROM opensentry.model_prices") == [
            {"model": "gpt-4.1-mini", "always": True}
        ]
        late = (
            "SELECT count(*) FROM opensentry.issues AS i WHERE first_seen > "
            "(SELECT min(received_at) FROM opensentry.events AS e WHERE e.fingerprint = i.fingerprint)"
        )
        assert database.fetch(late) == [{"count": 0}]
        trace = (
            "SELECT array_agg(DISTINCT kind ORDER BY kind) AS kinds, count(*) FILTER (WHERE kind = 'transaction') AS n "
            "FROM opensentry.trace_items GROUP BY project_id, trace_id ORDER BY count(DISTINCT kind) DESC"
        )
        traces = database.fetch(trace)
        assert {row["n"] for row in traces} == {1}
        assert traces[0]["kinds"] == ["ai_generation", "error", "span", "transaction"]
        assert database.fetch("SELECT count(*) FROM opensentry.projects WHERE name = 'shop'") == [{"count": 1}]
        assert database.counts()["transactions"] >= 50 * run


def test_without_a_service_it_is_one_line(server: support.Server, database: Database) -> None:
    done = demo(server, database, "--url", f"http://127.0.0.1:{support.free_port()}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "is the service running" in done.stderr
