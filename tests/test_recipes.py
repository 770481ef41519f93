"""docs/sql.md: it lists every view and column with the database's own comment, and every recipe finds something."""

import json
import re
from datetime import timedelta

import psycopg
import pytest

from opensentry_ingest import admin
from opensentry_ingest.uuids import uuid7
from tests import support
from tests.support import AI_GENERATION, ERROR, TRANSACTION, Database
from tests.test_maintain import fresh as fresh

PAGE = (support.ROOT / "docs" / "sql.md").read_text("utf-8")
RECIPES = re.findall(r"^```sql\n(.*?)^```", PAGE, re.M | re.S)


def test_the_page_says_what_the_comments_in_the_database_say(database: Database) -> None:
    rows = database.fetch(
        "SELECT relname AS view, obj_description(c.oid) AS of_view, attname AS column, "
        "col_description(c.oid, attnum) AS of_column FROM pg_class AS c JOIN pg_attribute ON attrelid = c.oid "
        "WHERE relnamespace = 'opensentry'::regnamespace AND relkind = 'v' AND attnum > 0 ORDER BY c.oid, attnum"
    )
    assert len(rows) > 50
    assert all(row["of_view"] and row["of_column"] for row in rows)
    page = re.findall(r"^### `(\w+)`\n\n(.*?)\n\n(.*?)\n\n", PAGE, re.M | re.S)
    assert {(row["view"], row["of_view"]) for row in rows} == {(name, text) for name, text, _ in page}
    listed = [(name, *pair) for name, _, table in page for pair in re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.M)]
    assert listed == [(row["view"], row["column"], row["of_column"]) for row in rows]


@pytest.fixture
def shop(fresh: Database) -> Database:
    """A project with issues that are new, old, resolved and regressed, transactions of two weeks, and AI calls."""
    with psycopg.connect(fresh.owner, autocommit=True) as connection:
        key = admin.create_project(connection, "shop")["public_key"]

        def store(age: str, *items: object) -> None:
            batch = uuid7()
            connection.execute("SELECT opensentry.ingest(%s, %s, %s)", (key, batch, json.dumps(items)))
            for table in support.TABLES:
                statement = (
                    f"UPDATE opensentry.{table} SET received_at = received_at - %s::interval WHERE batch_id = %s"
                )
                connection.execute(statement.encode(), (age, batch))
            connection.execute(
                "UPDATE opensentry.issues AS i SET first_seen = e.received_at FROM opensentry.events AS e "
                "WHERE e.fingerprint = i.fingerprint AND e.received_at < i.first_seen"
            )

        transaction = {**TRANSACTION, "release": "web@2.4.1"}
        store("40 days", {**ERROR, "exception": {"type": "Old"}})
        store("2 days", {**ERROR, "exception": {"type": "Back"}})
        connection.execute(
            "SELECT opensentry.set_issue_status(project_id, fingerprint, 'resolved') FROM opensentry.issues "
            "WHERE title LIKE 'Back%'"
        )
        connection.execute(
            "UPDATE opensentry.issues SET resolved_at = now() - interval '1 day' WHERE title LIKE 'Back%'"
        )
        store("7 days 1 minute", transaction)
        call = {**AI_GENERATION, "user": {"id": "u"}, "cachedInputTokens": 600}
        again = {**ERROR, "exception": {"type": "Back"}, "release": "web@2.5.0"}
        connection.execute(
            "INSERT INTO opensentry.model_prices (provider, model, input_usd, output_usd) "
            "VALUES ('openrouter', 'anthropic/claude-sonnet-4', 3, 15)"
        )
        unknown = {name: value for name, value in call.items() if name != "totalCostUsd"}
        store("0 days", unknown, {**unknown, "model": "unknown"})
        store("0 days", ERROR, {**ERROR, "traceId": "trace-abc-123"}, again, transaction, call)
    return fresh


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 12


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_a_recipe_finds_something_as_a_reader(shop: Database, recipe: str) -> None:
    # What Grafana makes of its macros.
    recipe = re.sub(r"\$__timeFilter\((.*?)\)", r"\1 BETWEEN now() - interval '6 hours' AND now()", recipe)
    recipe = re.sub(
        r"\$__timeGroupAlias\((.*?),.*?\)", r'floor(extract(epoch FROM \1) / 3600) * 3600 AS "time"', recipe
    )
    with psycopg.connect(shop.owner, autocommit=True) as connection:
        connection.execute("SET ROLE opensentry_reader")
        assert connection.execute(recipe.encode()).fetchall()


def test_a_login_for_a_dashboard_reads_and_changes_nothing(shop: Database) -> None:
    [block] = re.findall(r"^```postgresql\n(.*?)^```", PAGE, re.M | re.S)
    with psycopg.connect(shop.owner) as connection:
        # In a transaction that is rolled back, because roles belong to the whole cluster.
        connection.execute(block.encode())
        connection.execute("SET ROLE grafana")
        assert connection.execute("SELECT * FROM opensentry.issue_totals").fetchall()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM opensentry.events")
        connection.rollback()


@pytest.mark.parametrize(
    "name",
    ["issue_totals", "issue_hours", "transaction_hours", "ai_generation_days", "ai_generation_costs", "spend_days",
     "spend_months", "spend_tags", "spend_users", "models_without_price"],
)  # fmt: skip
def test_the_function_of_a_period_is_inlined_and_reads_that_period_alone(shop: Database, name: str) -> None:
    [row] = shop.fetch("SELECT now() AS now")
    since, until = row["now"], row["now"] + timedelta(minutes=1)
    plan = shop.fetch(f"EXPLAIN SELECT * FROM opensentry.{name}('{since}', '{until}')")
    text = "\n".join(line["QUERY PLAN"] for line in plan)
    assert set(re.findall(r"Function Scan on (\w+)", text)) <= {"jsonb_each_text", "jsonb_to_recordset"}
    assert set(re.findall(r"[a-z]_(\d{4}_\d\d|default)\b", text)) <= {f"{since:%Y_%m}", f"{until:%Y_%m}"}
    assert f"{since:%Y_%m}" in text
