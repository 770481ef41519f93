"""Every command, on a cluster: each works, and again after itself."""

import json
import signal
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import webtest

from opensentry_ingest import commands, uuids
from opensentry_ingest.viewer import Viewer
from tests.citus import nodes
from tests.databases.conftest import Start
from tests.databases.test_pgbouncer import COMMANDS, PRICES, WITHOUT_DATABASE, WITHOUT_END, subcommands
from tests.support import AI_GENERATION, ERROR, TRANSACTION, Database, command


@pytest.fixture(scope="module")
def names(database: Database) -> dict[str, Any]:
    """What the commands are about."""
    items = json.dumps([{**ERROR, "traceId": "abc"}, {**TRANSACTION, "traceId": "abc"}, AI_GENERATION])
    [batch] = database.fetch("SELECT opensentry.ingest(%s, gen_random_uuid(), %s)::text AS id", database.key, items)
    [issue] = database.fetch("SELECT fingerprint FROM opensentry.issues")
    spare = command("key", "create", "test", "--json", database_url=database.owner)
    key = json.loads(spare.stdout)["public_key"]
    command("prices", "import", PRICES, database_url=database.owner)
    return {"project": "test", "key": key, "batch": batch["id"], "issue": issue["fingerprint"], "trace": "abc"}


@pytest.mark.parametrize("template", [*COMMANDS, "distribute", "distribute --dry-run"])
def test_a_command_works_twice_in_a_row(database: Database, names: dict[str, Any], template: str) -> None:
    for number in range(2):
        done = command(*template.format(number=number, **names).split(), database_url=database.owner)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout


def test_no_command_is_left_out() -> None:
    every = subcommands(commands._parser())
    tested = {name for name in every if any(f"{each} ".startswith(f"{name} ") for each in (*COMMANDS, "distribute"))}
    assert tested == every - WITHOUT_DATABASE - WITHOUT_END


def test_a_revoked_key_stops_at_once_and_a_new_one_works(database: Database) -> None:
    made = json.loads(command("key", "create", "test", "--json", database_url=database.owner).stdout)["public_key"]
    ingest = "SELECT opensentry.ingest(%s, gen_random_uuid(), %s) AS id"
    assert database.fetch(ingest, made, json.dumps(ERROR))[0]["id"]
    revoked = [
        json.loads(command("key", "revoke", made, "--json", database_url=database.owner).stdout) for _ in range(2)
    ]
    assert revoked[0]["revoked_at"] == revoked[1]["revoked_at"] is not None
    assert database.fetch(ingest, made, json.dumps(ERROR)) == [{"id": None}]


def test_the_pages_of_the_viewer(database: Database, names: dict[str, Any], viewer_of: Callable[..., Viewer]) -> None:
    viewer = webtest.TestApp(viewer_of(database.owner.replace("user=postgres", "user=opensentry_viewer")))
    for project in ("", f"?project={database.project_id}"):
        for path in ("/issues", "/performance", "/llm", "/projects"):
            assert viewer.get(path + project).status_int == 200
    page = viewer.get("/issues")
    assert "TypeError" in page.text
    assert viewer.get(f"/issues/{names['issue']}").status_int == 200
    assert viewer.get("/traces/abc", expect_errors=True).status_int in (200, 404)


def test_tail_prints_each_item_once(database: Database, start: Start) -> None:
    tail = start(database.owner, "tail")
    assert tail.stdout
    for message in ("message 1", "message 2", "message 3"):
        item = {"type": "error", "exception": {}, "message": message}
        database.fetch("SELECT opensentry.ingest(%s, %s, %s)", database.key, uuids.uuid7(), json.dumps(item))
        # Those of the tests before come first, where they are of the last seconds.
        line = next(line for line in tail.stdout if "  message " in line)
        assert line.endswith(f"  test  {message}\n")
    tail.send_signal(signal.SIGINT)
    assert tail.communicate(timeout=60)[0] == ""


def test_regroup_moves_events_to_new_issues_and_keeps_their_status(database: Database, names: dict[str, Any]) -> None:
    command("resolve", str(names["issue"]), database_url=database.owner)
    database.fetch(
        "UPDATE opensentry.events SET client_fingerprint = '[\"mine\"]' WHERE project_id = %s AND fingerprint = %s",
        database.project_id,
        names["issue"],
    )
    done = command("regroup", database_url=database.owner)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("regrouped ")
    assert command("regroup", database_url=database.owner).stdout == "nothing to do\n"
    states = {row["status"] for row in database.fetch("SELECT status FROM opensentry.issue_totals")}
    assert "resolved" in states
    assert not database.fetch("SELECT FROM opensentry.events WHERE fingerprint = %s", names["issue"])


def test_prices_are_stored_on_every_node(database: Database, cluster: nodes.Nodes) -> None:
    call = {name: value for name, value in AI_GENERATION.items() if not name.endswith("Usd")}
    call |= {"provider": "mistralai", "model": "large-2026-01-01", "inputTokens": 2_000_000, "outputTokens": 0}
    database.fetch("SELECT opensentry.ingest(%s, gen_random_uuid(), %s)", database.key, json.dumps(call))
    missing = command("prices", "list", "--missing", "--json", database_url=database.owner)
    assert [row["model"] for row in json.loads(missing.stdout)] == ["large-2026-01-01"]
    for price, answer in (("1", "set"), ("2", "changed"), ("2", "unchanged")):
        given = ("--input", price, "--output", "9", "--valid-from", "2026-01-01")
        done = command("prices", "set", "mistral", "large", *given, database_url=database.owner)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{answer}\n", "")
    for server in cluster.servers:
        there = database.owner.replace(str(cluster.coordinator.port), str(server.port))
        listed = json.loads(command("prices", "list", "--json", database_url=there).stdout)
        assert [row["input_usd"] for row in listed if row["model"] == "large"] == [2]
        with psycopg.connect(there) as connection:
            statement = "SELECT cost_usd FROM opensentry.ai_generation_costs WHERE provider = 'mistralai'"
            assert connection.execute(statement).fetchall() == [(Decimal(4),)]
    done = command("prices", "delete", "mistral", "large", database_url=database.owner)
    assert (done.returncode, done.stdout) == (0, "deleted 1\n")


def test_an_idempotency_key_is_used_once(database: Database) -> None:
    ingest = "SELECT opensentry.ingest(%s, gen_random_uuid(), %s, 'once')::text AS id"
    before = database.counts()["events"]
    ids = [database.fetch(ingest, database.key, json.dumps(ERROR))[0]["id"] for _ in range(3)]
    assert len(set(ids)) == 1
    assert database.counts()["events"] == before + 1


@pytest.mark.parametrize("name", ["distribute", "migrate", "maintain"])
def test_a_worker_node_refuses_what_needs_the_coordinator(database: Database, cluster: nodes.Nodes, name: str) -> None:
    done = command(
        name, database_url=database.owner.replace(str(cluster.coordinator.port), str(cluster.workers[0].port))
    )
    assert done.returncode == 1
    assert "this is a worker node: use the DATABASE_URL of the coordinator" in done.stderr
