"""Every query of the commands and the pages is one that Citus plans, and that of one project asks one shard."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from opensentry_ingest.distribution_state import DISTRIBUTED_TABLES
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
from tests.citus import nodes
from tests.support import AI_GENERATION, ERROR, TRANSACTION, Database

NAME = TRANSACTION["name"]


class Explaining(psycopg.Cursor[Any]):
    """A cursor that also asks for the plan of each statement that has one."""

    tasks: ClassVar[list[int]] = []
    """How many shards each distributed part of a statement asks."""

    def execute(self, query: Any, params: Any = None, **keywords: Any) -> Any:
        if not query.startswith("SET "):
            super().execute("EXPLAIN " + query, params, **keywords)
            for row in self.fetchall():
                if found := re.search("Task Count: ([0-9]+)", str(row)):
                    self.tasks.append(int(found[1]))
        return super().execute(query, params, **keywords)


def shards(database: Database, action: Callable[[Connection], object]) -> set[str]:
    """Return the shards that an action asks, within functions too, of which EXPLAIN shows nothing."""
    sent: list[str] = []
    options = "-c citus.log_remote_commands=on -c citus.log_local_commands=on"
    with psycopg.connect(database.owner, autocommit=True, options=options) as connection:
        connection.add_notice_handler(lambda notice: sent.append(notice.message_primary or ""))
        action(connection)
    asked = set(re.findall(rf"opensentry\.((?:{'|'.join(DISTRIBUTED_TABLES)})_[0-9]+)\b", "".join(sent)))
    assert asked
    return asked


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with psycopg.connect(database.owner, autocommit=True, cursor_factory=Explaining) as connection:
        Explaining.tasks = []
        yield connection


@pytest.fixture(scope="module")
def stored(database: Database) -> dict[str, Any]:
    """An event in the database."""
    with_price, without_price = (
        {"type": "ai_generation", "provider": "openai", "model": model, "inputTokens": 10**6, "outputTokens": 0}
        for model in ("gpt-4o", "unheard-of")
    )
    calls = [AI_GENERATION, {**AI_GENERATION, **with_price}, {**AI_GENERATION, **without_price}]
    for call in calls[1:]:
        del call["totalCostUsd"]
    database.fetch("INSERT INTO opensentry.model_prices VALUES ('openai', 'gpt-4*', '-infinity', 3, NULL, NULL, 5)")
    items = json.dumps([{**ERROR, "traceId": TRANSACTION["traceId"]}, TRANSACTION, *calls])
    for _ in range(3):
        database.fetch("SELECT opensentry.ingest(%s, gen_random_uuid(), %s)", database.key, items)
    return database.fetch("SELECT * FROM opensentry.events LIMIT 1")[0]


def last_day(connection: Connection) -> Period:
    now = activity.clock(connection)
    return Period(now - timedelta(days=1), now + timedelta(minutes=1))


def of_project(connection: Connection, period: Period, project: UUID | None) -> None:
    """Make every query of the pages that may be of one project."""
    assert activity.stats(connection, period, timedelta(hours=1), project_id=project).totals["users"] == 1
    assert len(activity.arrivals(connection, period.since, project_id=project)[0]) == 15
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
    assert ai_generations.costs(connection, period, project_id=project).totals["calls"] == 9
    prices = ai_generations.prices(connection, period, project_id=project)
    assert ai_generations.by_user(connection, period, prices, project_id=project)[0]["calls"] == 9
    assert ai_generations.by_tag(connection, period, prices, "feature", project_id=project)[0]["value"] == "chat"
    assert ai_generations.tag_keys(connection, period, project_id=project) == ["feature"]
    assert len(ai_generations.dearest(connection, period, prices, project_id=project)) == 6
    [missing] = ai_generations.without_price(connection, period, project_id=project)
    assert (missing["model"], missing["calls"]) == ("unheard-of", 3)


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
    assert sorted(kinds) == sorted(["error", "transaction", "span", *["ai_generation"] * 3] * 3)
    assert projects.counts(connection, period)[0]["errors"] == 3
    assert json.loads(batches.batch(connection, str(stored["batch_id"])))["spans"]


FUNCTIONS = (
    "issue_totals",
    "issue_hours",
    "transaction_hours",
    "ai_generation_days",
    "ai_generation_costs",
    "spend_days",
    "spend_months",
    "spend_tags",
    "spend_users",
    "models_without_price",
)
"""The views that are functions of a period too."""


@pytest.mark.parametrize("user", ["postgres", "opensentry_viewer"])
@pytest.mark.parametrize("server", [0, 1, 2])
def test_every_view_and_function_on_every_node(
    database: Database, stored: dict[str, Any], cluster: nodes.Nodes, server: int, user: str
) -> None:
    owner = make_conninfo(database.owner, port=cluster.servers[server].port, user=user)
    there = Database(owner, "", database.project_id, "")
    views = {
        row["relname"]
        for row in there.fetch("SELECT relname FROM pg_class WHERE relnamespace = 'opensentry'::regnamespace "
                               "AND relkind = 'v'")
    }  # fmt: skip
    assert views == {*FUNCTIONS, "trace_items"}
    for name in views:
        everything = there.fetch(f"SELECT * FROM opensentry.{name}")
        of_project = there.fetch(f"SELECT * FROM opensentry.{name} WHERE project_id = %s", there.project_id)
        assert everything
        # The nodes answer in any order.
        assert sorted(map(repr, of_project)) == sorted(map(repr, everything))
    for name in FUNCTIONS:
        assert there.fetch(f"SELECT * FROM opensentry.{name}(now() - interval '1 day')")
        assert not there.fetch(f"SELECT * FROM opensentry.{name}(now() + interval '1 day')")
    sums = "SELECT sum(cost_usd) AS cost, sum(computed_cost_usd) AS computed FROM opensentry.ai_generation_sums"
    # One project is asked on its node, where price_history() runs within the query.
    for project in ("NULL", f"'{there.project_id}'"):
        [row] = there.fetch(f"{sums}('-infinity', 'infinity', '1 day', {project})")
        assert (row["cost"], row["computed"]) == (9 + 3 * Decimal(str(AI_GENERATION["totalCostUsd"])), 9)
    history = "SELECT input_usd, cached_input_usd FROM opensentry.price_history('openai', 'gpt-4o')"
    assert there.fetch(history) == [{"input_usd": 3, "cached_input_usd": 3}]
    [row] = there.fetch("SELECT sum(cost_usd) AS cost FROM opensentry.ai_generation_costs WHERE trace_id = %s",
                        AI_GENERATION["traceId"])  # fmt: skip
    assert row["cost"] == 9 + 3 * Decimal(str(AI_GENERATION["totalCostUsd"]))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM opensentry.ai_generation_costs WHERE project_id = %s",
        "SELECT * FROM opensentry.trace_items WHERE project_id = %s",
        "SELECT * FROM opensentry.ai_generation_sums('-infinity', 'infinity', '1 day', %s)",
        "SELECT opensentry.ai_generation_prices('-infinity', 'infinity', %s)",
        "SELECT * FROM opensentry.ai_generation_costs_at('-infinity', 'infinity', NULL, %s)",
    ],
)
def test_what_can_be_of_one_project_asks_one_shard_of_a_table(
    database: Database, stored: dict[str, Any], statement: str
) -> None:
    asked = shards(database, lambda connection: connection.execute(statement.encode(), [database.project_id]))
    tables = {shard.rpartition("_")[0] for shard in asked}
    assert len(asked) == len(tables), asked
    everything = re.sub(r" WHERE project_id = %s|, %s", "", statement)
    assert len(shards(database, lambda connection: connection.execute(everything.encode()))) == 4 * len(tables)


def test_the_pages_of_one_project_ask_one_shard_of_a_table(database: Database, stored: dict[str, Any]) -> None:
    project = UUID(database.project_id)
    asked = shards(database, lambda connection: of_project(connection, last_day(connection), project))
    assert {shard.rpartition("_")[0] for shard in asked} == {*DISTRIBUTED_TABLES} - {"idempotency_keys"}
    assert len(asked) == 5, asked


def test_an_issue_is_resolved_once_and_by_a_reader(database: Database, stored: dict[str, Any]) -> None:
    reader = database.owner.replace("user=postgres", "user=opensentry_viewer")
    with psycopg.connect(reader, autocommit=True) as connection:
        project, fingerprint = UUID(database.project_id), stored["fingerprint"]
        for status in ("resolved", "ignored", "open"):
            assert issues.set_status(connection, project, fingerprint, status)
            [row] = database.fetch("SELECT status, resolved_at FROM opensentry.issues")
            assert (row["status"], row["resolved_at"] is None) == (status, status != "resolved")
