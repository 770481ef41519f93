"""The plan of `distribute`, which needs no Citus; tests/citus/ carries it out."""

import pytest

from opensentry_ingest import migrations
from opensentry_ingest.distribution import plan
from opensentry_ingest.distribution_state import DISTRIBUTED_TABLES, REFERENCE_TABLES, State, Table
from tests.support import Database, command

LOCAL = {name: Table(name) for name in (*REFERENCE_TABLES, *DISTRIBUTED_TABLES)}
DONE = {name: Table(name, "reference") for name in REFERENCE_TABLES} | {
    name: Table(name, "distributed") for name in DISTRIBUTED_TABLES
}


def statements(state: State) -> list[str]:
    return [step.statement for step in plan(state)]


def test_projects_come_first_and_all_else_is_distributed_with_issues() -> None:
    reference = [f"SELECT create_reference_table('opensentry.{name}')" for name in REFERENCE_TABLES]
    first = "SELECT create_distributed_table('opensentry.issues', 'project_id', colocate_with => 'none')"
    others = [
        f"SELECT create_distributed_table('opensentry.{name}', 'project_id', colocate_with => 'opensentry.issues')"
        for name in DISTRIBUTED_TABLES
        if name != "issues"
    ]
    assert statements(State(LOCAL)) == [*reference, first, *others]


def test_a_table_that_is_not_there_yet_is_left_out() -> None:
    without = {name: table for name, table in LOCAL.items() if name != "model_prices"}
    assert statements(State(without)) == [text for text in statements(State(LOCAL)) if "model_prices" not in text]


def test_nothing_is_left_of_the_plan_when_it_is_done() -> None:
    assert plan(State(DONE)) == []


@pytest.mark.parametrize("count", range(len(LOCAL)))
def test_a_run_that_was_cut_short_is_continued(count: int) -> None:
    begun = LOCAL | dict(list(DONE.items())[:count])
    assert statements(State(begun)) == statements(State(LOCAL))[count:]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("SELECT 1; SELECT 2", 2),
        ("SELECT ';'; -- a; b\nSELECT \";\";\n", 2),
        ("DO $do$ BEGIN PERFORM $$;$$; END $do$;", 1),
        ("CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ SELECT 1; $$; SELECT 3", 2),
        ("", 0),
    ],
)
def test_each_statement_is_sent_by_itself_and_none_is_left_out(text: str, count: int) -> None:
    found = migrations.statements(text)
    assert len(found) == count
    assert "".join(found).strip() == text.strip()


def test_rows_are_freed_after_everything_else() -> None:
    state = State(
        DONE | {"events": Table("events", "distributed", left=["events_2026_01", "events_default"])},
        alone={"opensentry.f()": "SELECT create_distributed_function('opensentry.f()')"},
        inlined={"opensentry.g()": "CREATE OR REPLACE FUNCTION opensentry.g() ..."},
        rights={"TABLE opensentry.v": ["REVOKE ALL ON TABLE opensentry.v FROM PUBLIC", "GRANT ..."]},
        logins={"reader": "SELECT ..."},
    )
    assert statements(state) == [
        "SELECT create_distributed_function('opensentry.f()')",
        "CREATE OR REPLACE FUNCTION opensentry.g() ...",
        "REVOKE ALL ON TABLE opensentry.v FROM PUBLIC; GRANT ...",
        "SELECT ...",
        "SELECT truncate_local_data_after_distributing_table('opensentry.events_2026_01')",
        "SELECT truncate_local_data_after_distributing_table('opensentry.events_default')",
    ]


def test_every_table_of_the_schema_is_in_the_plan(database: Database) -> None:
    tables = database.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'opensentry'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition AND relname <> 'migrations'"
    )
    assert {row["relname"] for row in tables} <= set(LOCAL)


def test_every_distributed_table_leads_with_the_project(database: Database) -> None:
    for name in DISTRIBUTED_TABLES:
        [key] = database.fetch(
            "SELECT pg_get_indexdef(indexrelid) AS definition FROM pg_index "
            "WHERE indrelid = ('opensentry.' || %s)::regclass AND indisprimary",
            name,
        )
        assert "(project_id, " in key["definition"]


@pytest.mark.parametrize("arguments", [["distribute"], ["distribute", "--dry-run"]])
def test_without_citus_it_says_so_in_one_line(database: Database, arguments: list[str]) -> None:
    done = command(*arguments, database_url=database.owner)
    assert (done.returncode, done.stdout) == (1, "")
    assert "this database has no Citus: run CREATE EXTENSION citus" in done.stderr


def test_a_database_that_is_not_migrated_is_refused(bare_database: str) -> None:
    done = command("distribute", database_url=bare_database)
    assert done.returncode == 1
    assert "run `opensentry-ingest migrate`" in done.stderr


def test_migrate_leaves_a_database_without_citus_alone(database: Database) -> None:
    done = command("migrate", database_url=database.owner)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing to do\n", "")
