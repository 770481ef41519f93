"""Every query of the commands and the pages is one that Citus plans, and that of one project asks one shard."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

import psycopg
import pytest

from opensentry_ingest.reading import (
    Connection,
    Period,
    activity,
    ai_generations,
    batches,
    issue,
    issues,
    projects,
    traces,
    transactions,
)
from tests.support import AI_GENERATION, ERROR, TRANSACTION, Database

NAME = TRANSACTION["name"]


class Explaining(psycopg.Cursor[Any]):
    """A cursor that also asks for the plan of each statement."""

    tasks: ClassVar[list[int]] = []
    """How many shards each distributed part of a statement asks."""

    def execute(self, query: Any, params: Any = None, **keywords: Any) -> Any:
        super().execute("EXPLAIN " + query, params, **keywords)
        for row in self.fetchall():
            if found := re.search("Task Count: ([0-9]+)", str(row)):
                self.tasks.append(int(found[1]))
        return super().execute(query, params, **keywords)


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with psycopg.connect(database.owner, autocommit=True, cursor_factory=Explaining) as connection:
        Explaining.tasks = []
        yield connection


@pytest.fixture(scope="module")
def stored(database: Database) -> dict[str, Any]:
    """An event in the database."""
    items = json.dumps([{**ERROR, "traceId": TRANSACTION["traceId"]}, TRANSACTION, AI_GENERATION])
    for _ in range(3):
        database.fetch("SELECT opensentry.ingest(%s, gen_random_uuid(), %s)", database.key, items)
    return database.fetch("SELECT * FROM opensentry.events LIMIT 1")[0]


def last_day(connection: Connection) -> Period:
    now = activity.clock(connection)
    return Period(now - timedelta(days=1), now + timedelta(minutes=1))


def of_project(connection: Connection, period: Period, project: UUID | None) -> None:
    """Make every query of the pages that may be of one project."""
    assert activity.stats(connection, period, timedelta(hours=1), project_id=project).totals["users"] == 1
    assert len(activity.arrivals(connection, period.since, project_id=project)[0]) == 9
    for sort in issues.SORTS:
        [found] = issues.issues(connection, period, project_id=project, sort=sort, search="typeerror").rows
        assert (found["events"], found["users"]) == (3, 1)
    assert issues.filter_values(connection, period, project_id=project)["releases"] == ["web@2.4.1"]
    for sort in transactions.SORTS:
        assert transactions.transactions(connection, period, project_id=project, sort=sort).rows[0]["count"] == 3
    assert sum(transactions.chart(connection, period, project_id=project).counts) == 3
    assert transactions.summary(connection, period, NAME, project_id=project)
    assert len(transactions.slowest(connection, period, NAME, project_id=project)) == 3
    [span] = transactions.spans(connection, period, NAME, project_id=project)
    assert (span["count"], span["transactions"], span["total_ms"]) == (3, 3, 120)
    assert ai_generations.costs(connection, period, project_id=project).totals["calls"] == 3
    prices = ai_generations.prices(connection, period)
    assert ai_generations.by_user(connection, period, prices, project_id=project)[0]["calls"] == 3
    assert ai_generations.by_tag(connection, period, prices, "feature", project_id=project)[0]["value"] == "chat"
    assert ai_generations.tag_keys(connection, period, project_id=project) == ["feature"]
    assert len(ai_generations.dearest(connection, period, prices, project_id=project)) == 3


def test_the_queries_of_one_project_ask_one_shard(
    database: Database, stored: dict[str, Any], connection: Connection
) -> None:
    project, period = UUID(database.project_id), last_day(connection)
    of_project(connection, period, project)
    fingerprint, event = stored["fingerprint"], (stored["batch_id"], stored["position"])
    assert sum(map(sum, issue.chart(connection, project, fingerprint, period).releases.values())) == 3
    assert issue.tags(connection, project, fingerprint, period).tags[0]["key"] == "region"
    assert issue.users(connection, project, fingerprint, period)[0]["user"] == "user_123"
    assert issue.event(connection, project, fingerprint)
    assert issue.event(connection, project, fingerprint, *event)
    assert len(issue.events(connection, project, fingerprint, period).rows) == 3
    assert len(Explaining.tasks) > 20
    assert set(Explaining.tasks) == {1}


def test_the_queries_of_all_projects_are_planned(
    database: Database, stored: dict[str, Any], connection: Connection
) -> None:
    period, fingerprint = last_day(connection), stored["fingerprint"]
    of_project(connection, period, None)
    assert max(Explaining.tasks) == 4
    rows = issues.issues(connection, period).rows
    assert sum(map(sum, issues.sparklines(connection, rows, period)[1].values())) == 3
    assert [row["fingerprint"] for row in issues.find(connection, str(fingerprint)[:8])] == [fingerprint]
    found = issue.summary(connection, fingerprint, period)
    assert found
    assert (found["events"], found["users"], found["releases"]) == (3, 1, ["web@2.4.1"])
    kinds = [row["kind"] for row in traces.trace(connection, TRANSACTION["traceId"]).rows]
    assert sorted(kinds) == sorted(["error", "transaction", "span", "ai_generation"] * 3)
    assert projects.counts(connection, period)[0]["errors"] == 3
    assert json.loads(batches.batch(connection, str(stored["batch_id"])))["spans"]


@pytest.mark.parametrize(
    "name", ["issue_totals", "issue_hours", "transaction_hours", "ai_generation_days", "trace_items"]
)
def test_a_view_is_planned_with_its_period_and_for_a_reader(
    database: Database, stored: dict[str, Any], name: str
) -> None:
    reader = Database(database.owner.replace("user=postgres", "user=opensentry_viewer"), "", "", "")
    assert "opensentry_viewer" in reader.owner
    everything = f"SELECT * FROM opensentry.{name} WHERE project_id = %s"
    assert reader.fetch(everything, database.project_id)
    if name != "trace_items":
        assert reader.fetch(f"SELECT * FROM opensentry.{name}(now() - interval '1 day')")
        assert not reader.fetch(f"SELECT * FROM opensentry.{name}(now() + interval '1 day')")


def test_an_issue_is_resolved_once_and_by_a_reader(database: Database, stored: dict[str, Any]) -> None:
    reader = database.owner.replace("user=postgres", "user=opensentry_viewer")
    with psycopg.connect(reader, autocommit=True) as connection:
        project, fingerprint = UUID(database.project_id), stored["fingerprint"]
        for status in ("resolved", "ignored", "open"):
            assert issues.set_status(connection, project, fingerprint, status)
            [row] = database.fetch("SELECT status, resolved_at FROM opensentry.issues")
            assert (row["status"], row["resolved_at"] is None) == (status, status != "resolved")
