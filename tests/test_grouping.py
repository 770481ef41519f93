"""Grouping: what is one issue, by a second implementation of the rule; what requests at once do; and regroup."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from opensentry_ingest import admin, regroup
from opensentry_ingest.uuids import uuid7
from tests import support
from tests.support import ERROR, Database
from tests.test_maintain import fresh as fresh
from tests.test_maintain import load

Item = dict[str, Any]


MASKED = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # a UUID
    r"|0x[0-9a-f]+"  # a hexadecimal number with its prefix
    r"|\b(?=[a-f]*[0-9])[0-9a-f]{8,}\b"  # one without: eight digits or more, one of which is no letter
    r"|[0-9]+",
    re.IGNORECASE | re.ASCII,
)


def grouping(item: Item) -> str:
    """Return what makes an issue of an error item, as docs/grouping.md says it."""
    exception = item.get("exception", {})
    frames = exception.get("stacktrace", {}).get("frames") or []
    message = exception.get("value", item.get("message", ""))
    if frames:
        frames = [frame for frame in frames if frame.get("inApp")] or frames
        names = [[frame[name] for frame in frames if name in frame] for name in ("filename", "function")]
        what = "".join(json.dumps(each, ensure_ascii=False) for each in names)
    else:
        what = MASKED.sub("#", message[:1000])
    return f"{exception.get('type', '')}\n{what}"


def fingerprint(project_id: str, item: Item) -> str:
    text = grouping(item)
    if "fingerprint" in item:
        client = json.dumps(item["fingerprint"], ensure_ascii=False)
        text = re.sub(r'"\{\{ ?default ?\}\}"', lambda _: f'"{{{{default}}}}{text}"', client)
    digest = hashlib.md5(f"{project_id}{text}".encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


def ingest(database: Database, *items: Item) -> str:
    """Store a batch and return its id."""
    [row] = database.fetch(
        "SELECT opensentry.ingest(%s, %s, %s)::text AS id", database.key, uuid7(), json.dumps(list(items))
    )
    return str(row["id"])


def stored(database: Database, *items: Item) -> list[str]:
    """Store a batch and return the fingerprint of each of its items."""
    return [str(row["fingerprint"]) for row in database.rows("events", ingest(database, *items))]


def error(
    type: str | None = "ValueError", value: str | None = None, frames: list[Item] | None = None, **members: Any
) -> Item:
    exception: Item = {} if type is None else {"type": type}
    if value is not None:
        exception["value"] = value
    if frames is not None:
        exception["stacktrace"] = {"frames": frames}
    return {"type": "error", "exception": exception, **members}


def frame(filename: str, function: str, in_app: bool | None = None, **members: Any) -> Item:
    return {"filename": filename, "function": function, **({} if in_app is None else {"inApp": in_app}), **members}


A, B, LIBRARY = frame("a.py", "f", True), frame("b.py", "g", True), frame("lib.py", "call", False)
UUIDS = "550e8400-e29b-41d4-a716-446655440000", "123E4567-E89B-12D3-A456-426614174000"

# Pairs of items, and whether they are one issue.
CASES: dict[str, tuple[Item, Item, bool]] = {
    "the same frames, another message": (error(value="x", frames=[A]), error(value="y", frames=[A]), True),
    "another line": (error(frames=[{**A, "lineno": 1}]), error(frames=[{**A, "lineno": 2, "colno": 3}]), True),
    "another file": (error(frames=[A]), error(frames=[{**A, "filename": "b.py"}]), False),
    "another function": (error(frames=[A]), error(frames=[{**A, "function": "g"}]), False),
    "another type": (error("A", frames=[A]), error("B", frames=[A]), False),
    "other frames of libraries": (error(frames=[A, LIBRARY]), error(frames=[LIBRARY, A]), True),
    "in-app frames in another order": (error(frames=[A, B]), error(frames=[B, A]), False),
    "frames of libraries alone": (error(frames=[LIBRARY]), error(frames=[frame("lib2.py", "call", False)]), False),
    "in-app unknown, and false": (error(frames=[frame("a", "f")]), error(frames=[frame("a", "f", False)]), True),
    "empty frames, and none": (error(value="x", frames=[]), error(value="x"), True),
    "no frames, another message": (error(value="x"), error(value="y"), False),
    "a missing and an empty type": (error(None, value="x"), error("", value="x"), True),
    "a message in the place of a value": (error(value="x"), error(message="x"), True),
    "a value, and a message beside it": (error(value="x", message="y"), error(value="x"), True),
    "numbers": (error(value="order 17 of 3"), error(value="order 4 of 99"), True),
    "a hexadecimal number": (error(value="at 0x7f3a"), error(value="at 0xdeadbeef"), True),
    "a digest": (error(value="commit 9fceb02d0ae5"), error(value="commit 0123456789abcdef"), True),
    "words of letters that are hexadecimal digits": (error(value="defaced"), error(value="effaced"), False),
    "long such words": (error(value="feedbeefcafe"), error(value="deadbeefcafe"), False),
    "UUIDs": (error(value=f"user {UUIDS[0]} gone"), error(value=f"user {UUIDS[1]} gone"), True),
    "after 1,000 characters": (error(value="é" * 1000 + "x"), error(value="é" * 1000 + "y"), True),
    "within 1,000 characters": (error(value="é" * 999 + "x"), error(value="é" * 999 + "y"), False),
    "non-ASCII": (error(value="größer"), error(value="großer"), False),
    "digits of another script": (error(value="\u0661"), error(value="\u0662"), False),
    "frames without names": (error(frames=[{"lineno": 1}]), error(frames=[{"lineno": 2}, {}]), True),
    "one's own": (error("A", "x", fingerprint=["k"]), error("B", "y", [A], fingerprint=["k"]), True),
    "one's own, another": (error(fingerprint=["k"]), error(fingerprint=["l"]), False),
    "one's own, and ours": (error(value="x"), error(value="x", fingerprint=["x"]), False),
    "the default, alone and not": (
        error(fingerprint=["{{ default }}"]),
        error(fingerprint=["{{ default }}", "k"]),
        False,
    ),
    "the default, in both spellings": (
        error(fingerprint=["{{ default }}", "k"]),
        error(fingerprint=["{{default}}", "k"]),
        True,
    ),
    "the default, of two types": (
        error("A", fingerprint=["{{ default }}", "k"]),
        error("B", fingerprint=["{{ default }}", "k"]),
        False,
    ),
    "the default within a string is text": (
        error("A", fingerprint=["x {{ default }}"]),
        error("B", fingerprint=["x {{ default }}"]),
        True,
    ),
    "parts, and one with a comma": (error(fingerprint=["a", "b"]), error(fingerprint=['a", "b']), False),
}


@pytest.mark.parametrize("name", CASES)
def test_events_are_one_issue_by_the_rule(database: Database, name: str) -> None:
    one, other, same = CASES[name]
    found = stored(database, one, other)
    assert found == [fingerprint(database.project_id, item) for item in (one, other)]
    assert (found[0] == found[1]) == same


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40) | st.text("0123456789abcdefx-F g\n")
FRAMES = st.lists(
    st.fixed_dictionaries({}, optional={"filename": TEXT, "function": TEXT, "inApp": st.booleans(), "module": TEXT}),
    max_size=4,
)
ERRORS = st.builds(
    lambda type, value, frames, members: error(type, value, frames, **members),
    st.none() | TEXT,
    st.none() | TEXT,
    st.none() | FRAMES,
    st.fixed_dictionaries(
        {},
        optional={
            "message": TEXT,
            "fingerprint": st.lists(TEXT | st.sampled_from(["{{ default }}", "{{default}}"]), min_size=1, max_size=3),
        },
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(item=ERRORS)
@example(item=error("{{default}}", "a", fingerprint=["{{default}}", "{{ default }}"]))
@example(item=error("\\", '"', fingerprint=["{{default}}", '"', "\\1"]))
@example(item=error(value="g550e8400-e29b-41d4-a716-446655440000"))
@example(item=error(value="zabcdef12 abcdef12_ 0xg 00xfg"))
def test_any_event_has_the_fingerprint_of_the_rule(database: Database, item: Item) -> None:
    assert stored(database, item) == [fingerprint(database.project_id, item)]


def test_projects_share_no_issue(database: Database) -> None:
    with psycopg.connect(database.owner, autocommit=True) as connection:
        other = admin.create_project(connection, "other")
    elsewhere = Database(database.owner, database.service, other["id"], other["public_key"])
    item = error(value="the same in both", fingerprint=["the same in both"])
    [one], [another] = stored(database, item), stored(elsewhere, item)
    assert one != another
    found = database.fetch("SELECT project_id::text FROM opensentry.issues WHERE fingerprint IN (%s, %s)", one, another)
    assert {row["project_id"] for row in found} == {database.project_id, other["id"]}


def test_postgresql_inlines_the_functions_in_the_insert(database: Database) -> None:
    [row] = database.fetch("SELECT pg_get_functiondef('opensentry.ingest'::regproc) AS source")
    select = re.search(
        r"            (SELECT\n                project, .*?OFFSET 0\n +\) AS errors)", row["source"], re.S
    )
    assert select
    query = select[1].replace("ingest.batch_id", "$2")
    query = re.sub(r"\bproject\b", "$1", re.sub(r"\bbatch\b", "$3", re.sub(r"\breceived\b", "now()", query)))
    with psycopg.connect(database.owner, autocommit=True) as connection:
        connection.execute(f"PREPARE one (uuid, uuid, jsonb) AS {query}".encode())
        plans = connection.execute(
            f"EXPLAIN (VERBOSE) EXECUTE one ('{uuid7()}', '{uuid7()}', '{json.dumps([support.MINIMAL])}')".encode()
        ).fetchall()
    plan = "\n".join(line for (line,) in plans)
    assert "md5" in plan
    assert "regexp_replace" in plan
    assert "jsonb_path_query_array" in plan
    assert "opensentry.fingerprint" not in plan
    assert "opensentry.default_grouping" not in plan


def issues(database: Database) -> list[dict[str, Any]]:
    return database.fetch("SELECT xmin, * FROM opensentry.issues ORDER BY fingerprint")


def test_an_issue_is_inserted_with_its_first_event_and_not_touched_by_others(fresh: Database) -> None:
    first = error("E", "first line\nsecond", [LIBRARY, A], release="1.0", level="warning")
    ingest(fresh, first, {**first, "release": "2.0"}, {**first, "level": "fatal"})
    before = issues(fresh)
    for _ in range(3):
        ingest(fresh, {**first, "release": "3.0", "level": "error"})
    assert issues(fresh) == before
    [issue] = before
    assert issue["first_seen"] == fresh.fetch("SELECT min(received_at) AS first FROM opensentry.events")[0]["first"]
    del issue["xmin"], issue["project_id"], issue["fingerprint"], issue["first_seen"]
    assert issue == {
        "title": "E: first line",
        "culprit": "f in a.py",
        "level": "warning",
        "status": "open",
        "resolved_at": None,
        "first_release": "1.0",
    }
    [totals] = fresh.fetch("SELECT events, releases FROM opensentry.issue_totals")
    assert totals == {"events": 6, "releases": ["1.0", "2.0", "3.0"]}


def test_requests_at_once_with_the_same_new_issues_make_one_row_each(fresh: Database) -> None:
    barrier = Barrier(4)

    def post(number: int) -> None:
        with psycopg.connect(fresh.service, autocommit=True) as connection:
            for turn in range(40):
                items = [error(value=f"{word} {turn * 'x'}") for word in ("one", "other")]
                batch = json.dumps(items if number % 2 else items[::-1])
                barrier.wait(30)
                row = connection.execute("SELECT opensentry.ingest(%s, %s, %s)", (fresh.key, uuid7(), batch)).fetchone()
                assert row != (None,)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(post, range(4)))
    totals = fresh.fetch("SELECT events FROM opensentry.issue_totals")
    assert [row["events"] for row in totals] == [4] * 80
    assert len(issues(fresh)) == 80


def test_long_trace_ids_are_stored_and_fail_nothing(database: Database) -> None:
    # Of random characters, because PostgreSQL compresses an entry of an index before it refuses it.
    trace_id = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(94))[:6000]
    batch = ingest(
        database,
        {**ERROR, "traceId": trace_id, "spanId": trace_id},
        {**support.TRANSACTION, "traceId": trace_id},
        {**support.AI_GENERATION, "traceId": trace_id},
    )
    for table in ("events", "transactions", "ai_generations"):
        assert [row["trace_id"] for row in database.rows(table, batch)] == [trace_id]


def set_status(database: Database, fingerprint: str, status: str) -> bool:
    statement = "SELECT opensentry.set_issue_status(%s, %s, %s) AS done"
    return bool(database.fetch(statement, database.project_id, fingerprint, status)[0]["done"])


def totals(database: Database, fingerprint: str) -> dict[str, Any]:
    [row] = database.fetch(
        "SELECT status, regressed, resolved_at FROM opensentry.issue_totals WHERE fingerprint = %s", fingerprint
    )
    return row


def test_an_issue_that_is_seen_after_it_was_resolved_is_regressed(database: Database) -> None:
    item = error(value="status")
    [issue] = stored(database, item)
    assert set_status(database, issue, "resolved")
    row = totals(database, issue)
    assert (row["status"], row["regressed"]) == ("resolved", False)
    assert row["resolved_at"]
    stored(database, item)
    assert totals(database, issue) == {**row, "regressed": True}
    assert set_status(database, issue, "open")
    assert totals(database, issue) == {"status": "open", "regressed": False, "resolved_at": None}
    assert set_status(database, issue, "ignored")
    assert totals(database, issue) == {"status": "ignored", "regressed": False, "resolved_at": None}
    assert not set_status(database, uuid7(), "resolved")
    with pytest.raises(psycopg.errors.CheckViolation):
        set_status(database, issue, "closed")
    assert totals(database, issue)["status"] == "ignored"


READABLE = {
    "model_prices",
    "projects",
    "project_keys",
    "events",
    "transactions",
    "spans",
    "ai_generations",
    "issues",
    "issue_totals",
    "issue_hours",
    "transaction_hours",
    "ai_generation_days",
    "ai_generation_costs",
    "models_without_price",
    "spend_days",
    "spend_months",
    "spend_tags",
    "spend_users",
    "trace_items",
}

EXECUTABLE = {
    "set_issue_status",
    # The views that are also functions of a period.
    *("issue_totals", "issue_hours", "transaction_hours", "ai_generation_days", "ai_generation_costs"),
    *("models_without_price", "spend_days", "spend_months", "spend_tags", "spend_users"),
    # What views and pages are made of.
    *("user_key", "issue_title", "culprit", "model_provider", "price_history", "sent_cost_usd", "plain_input_tokens"),
    *(
        "is_price_of",
        "price_rank",
        "token_cost_usd",
        "has_tokens",
        "computed_cost_usd",
        "ai_generation_prices",
        "ai_generation_costs_at",
        "ai_generation_sums",
    ),
}


def test_a_reader_may_read_the_views_and_their_tables_and_set_a_status_and_nothing_else(database: Database) -> None:
    rows = database.fetch(
        "SELECT relname, p.name AS right FROM pg_class, unnest("
        "'{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p (name) "
        "WHERE relnamespace = 'opensentry'::regnamespace AND relkind IN ('r', 'p', 'v') "
        "AND has_table_privilege('opensentry_reader', oid, p.name)"
    )
    assert {(row["relname"], row["right"]) for row in rows} == {(name, "SELECT") for name in READABLE}
    rows = database.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'opensentry'::regnamespace "
        "AND has_function_privilege('opensentry_reader', oid, 'EXECUTE')"
    )
    assert {row["proname"] for row in rows} == EXECUTABLE
    with psycopg.connect(database.owner, autocommit=True) as connection:
        connection.execute("SET ROLE opensentry_reader")
        for name in READABLE:
            connection.execute(f"SELECT * FROM opensentry.{name} LIMIT 1".encode())
            for statement in (f"DELETE FROM opensentry.{name}", f"INSERT INTO opensentry.{name} DEFAULT VALUES"):
                with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
                    connection.execute(statement.encode())
        for statement in (
            "SELECT * FROM opensentry.idempotency_keys",
            "SELECT opensentry.ingest('', gen_random_uuid(), '[]')",
            "UPDATE opensentry.issues SET status = 'open'",
            "CREATE TABLE opensentry.mine ()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def replace_rule(database: Database) -> None:
    """Change the rule: the type alone makes an issue."""
    database.fetch(
        "CREATE OR REPLACE FUNCTION opensentry.default_grouping(exception_type text, message text, frames jsonb) "
        "RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT coalesce(exception_type, '') $$"
    )


def run_regroup(database: Database) -> list[str]:
    said: list[str] = []
    with psycopg.connect(database.owner, autocommit=True) as connection:
        regroup.regroup(connection, said.append)
    return said


def statuses(database: Database) -> dict[str, tuple[str, int]]:
    rows = database.fetch("SELECT title, status, events FROM opensentry.issue_totals")
    return {row["title"]: (row["status"], row["events"]) for row in rows}


def test_after_the_rule_has_changed_regroup_moves_events_and_keeps_what_people_said(
    fresh: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regroup, "STEP_EVENTS", 3)
    [resolved] = stored(fresh, error("A", "oldest", release="1"))
    [_, ignored] = stored(fresh, error("A", "younger"), error("B", "oldest"))
    stored(fresh, error("B", "younger"), error("C", "alone"), error("D", "x", fingerprint=["own"]))
    assert set_status(fresh, resolved, "resolved")
    assert set_status(fresh, ignored, "ignored")
    [own] = fresh.fetch("SELECT * FROM opensentry.issues WHERE title = 'D: x'")
    replace_rule(fresh)
    # By the new rule, an event has come already: its issue takes over what was said of its older events.
    stored(fresh, error("B", "new"))
    assert run_regroup(fresh) == ["regrouped 5 of 7 events"]
    assert statuses(fresh) == {
        "A: oldest": ("resolved", 2),
        "B: new": ("ignored", 3),
        "C: alone": ("open", 1),
        "D: x": ("open", 1),
    }
    [row] = fresh.fetch(
        "SELECT first_seen, first_release, regressed FROM opensentry.issue_totals WHERE title LIKE 'A%%'"
    )
    first = fresh.fetch("SELECT min(received_at) AS first FROM opensentry.events")[0]["first"]
    assert row == {"first_seen": first, "first_release": "1", "regressed": False}
    assert fresh.fetch("SELECT * FROM opensentry.issues WHERE title = 'D: x'") == [own]
    before = (issues(fresh), fresh.fetch("SELECT xmin, * FROM opensentry.events ORDER BY batch_id, position"))
    assert run_regroup(fresh) == []
    assert (issues(fresh), fresh.fetch("SELECT xmin, * FROM opensentry.events ORDER BY batch_id, position")) == before


def test_regroup_beside_load_and_after_it_was_killed_leaves_every_event_in_its_issue(
    fresh: Database, tmp_path: Path
) -> None:
    fresh.fetch(
        "SELECT opensentry.ingest(%s, (lpad(to_hex(n), 12, '0') || '70008000000000000000')::uuid, jsonb_build_array("
        "jsonb_build_object('type', 'error', 'exception', "
        "jsonb_build_object('type', 'T' || n %% 7, 'value', md5(n::text))))) FROM generate_series(1, 20000) AS n",
        fresh.key,
    )
    kept = fresh.fetch("SELECT count(*) FROM opensentry.events")[0]["count"]
    command = [sys.executable, "-m", "opensentry_ingest", "regroup"]
    environ = {**os.environ, "DATABASE_URL": fresh.owner}
    expected = "SELECT count(DISTINCT fingerprint) AS issues FROM opensentry.events WHERE exception_type LIKE 'T_'"
    with load(fresh, tmp_path) as running:
        replace_rule(fresh)
        with subprocess.Popen(command, cwd=support.ROOT, env=environ, stdout=subprocess.PIPE) as process:
            try:
                # Seven issues of the old kind are replaced by seven of the new one as soon as a step has ended.
                half = "SELECT 1 FROM opensentry.issues AS i WHERE fingerprint = md5(%s || 'T1')::uuid"
                support.wait_until(lambda: fresh.fetch(half, fresh.project_id) or process.poll() is not None, 60)
            finally:
                process.kill()
        assert process.returncode == -signal.SIGKILL
        assert fresh.fetch(expected)[0]["issues"] > 7
        again = subprocess.run(command, cwd=support.ROOT, env=environ, capture_output=True, text=True, check=False)
        assert (again.returncode, again.stderr) == (0, "")
    assert set(running.statuses) == {202}
    run_regroup(fresh)
    assert fresh.fetch(expected) == [{"issues": 7}]
    assert sum(events for _, events in statuses(fresh).values()) == kept + len(running.statuses)
    wrong = (
        "SELECT count(*) FROM opensentry.events WHERE fingerprint IS DISTINCT FROM opensentry.fingerprint("
        "project_id, exception_type, exception_value, frames, client_fingerprint)"
    )
    assert fresh.fetch(wrong) == [{"count": 0}]


def test_the_totals_of_an_issue_name_each_release_once_and_count_each_user_once(fresh: Database) -> None:
    for user, release in (("b", "2"), ("a", "10"), ("b", "2"), ("a", None), (None, "1")):
        of_user = {} if user is None else {"user": {"id": user}}
        of_release = {} if release is None else {"release": release}
        ingest(fresh, {**error("E", "many"), **of_user, **of_release})
    ingest(fresh, error("F", "none"))
    totals = "SELECT title, events, users, releases FROM opensentry.issue_totals ORDER BY title"
    many, none = fresh.fetch(totals)
    assert many == {"title": "E: many", "events": 5, "users": 2, "releases": ["1", "10", "2"]}
    assert none == {"title": "F: none", "events": 1, "users": 0, "releases": None}
