"""Looking at what came in, from a terminal: issues, traces, numbers, and what arrives."""

import fcntl
import itertools
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import tracemalloc
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
import webtest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import Application, formats, reading, uuids
from opensentry_ingest.reading import activity, issue, issues, traces
from tests import support
from tests.support import AI_GENERATION, TRANSACTION, Database

HOSTILE = "\x1b[31m\x1b]0;owned\x07 \x9b2J \u202egnp\u2066 \u200b\ufeff\u2028\x7f \U000e0041 %_\\ <b>\r\n\t日本語🛒é"
"""What a terminal acts on, does not show, or shows in two columns."""

FRAMES = [
    {"filename": "src/cart.ts", "function": "total", "lineno": 42, "colno": 7, "inApp": True,
     "preContext": ["let sum = 0;", "\tfor (const line of lines) {"], "contextLine": "    sum += line.price;",
     "postContext": ["}"]},
    {"filename": "node_modules/express/router.js", "function": "handle", "lineno": 5, "inApp": False},
    {"filename": "node_modules/express/layer.js", "function": "next", "lineno": 6},
    {"filename": "src/server.ts", "function": "listen", "lineno": 9, "inApp": True},
]  # fmt: skip


@pytest.fixture(autouse=True)
def empty(database: Database) -> None:
    """Each test begins with the one project and nothing in it."""
    database.fetch(
        "TRUNCATE opensentry.events, opensentry.transactions, opensentry.spans, opensentry.ai_generations, "
        "opensentry.issues"
    )
    database.fetch("DELETE FROM opensentry.project_keys WHERE public_key <> %s", database.key)
    database.fetch("DELETE FROM opensentry.projects WHERE id <> %s", database.project_id)


@pytest.fixture
def connection(database: Database) -> Iterator[reading.Connection]:
    with psycopg.connect(database.owner, autocommit=True) as connection:
        yield connection


def post(app: Application, database: Database, *items: dict[str, Any]) -> str:
    """Store items through the application; return the id of the batch."""
    batch_id: str = support.post(webtest.TestApp(app), database.key, [*items], status=202).json["id"]
    return batch_id


def error(name: str, **members: Any) -> dict[str, Any]:
    """Return an error item whose issue is named by the type of its exception."""
    frames = members.pop("frames", FRAMES)
    exception = {"type": name, "value": members.pop("value", "it broke"), "stacktrace": {"frames": frames}}
    return {"type": "error", "exception": exception, **members}


def lines(database: Database, *arguments: str) -> list[str]:
    done = support.command(*arguments, database_url=database.owner)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def as_json(database: Database, *arguments: str) -> Any:
    done = support.command(*arguments, "--json", database_url=database.owner)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def in_terminal(database: Database, *arguments: str, columns: int = 80, **environ: str) -> str:
    """Run the command with a terminal as its standard output; return what it wrote there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    environment |= {"DATABASE_URL": database.owner, "TERM": "xterm", "PYTHONUTF8": "1", **environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "opensentry_ingest", *arguments],
        cwd=support.ROOT,
        env=environment,
        stdout=slave,
        stderr=subprocess.PIPE,
    )
    os.close(slave)
    written = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            # Linux says so that the other side is closed.
            break
        if not data:
            break
        written += data
    os.close(master)
    assert process.stderr is not None
    assert (process.wait(60), process.stderr.read()) == (0, b"")
    process.stderr.close()
    return written.decode().replace("\r\n", "\n")


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def width(text: str) -> int:
    """Return how many columns a terminal gives a text without colours."""
    return sum(
        0 if unicodedata.category(char) == "Mn" else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def test_the_settings_of_a_statement_are_those_of_no_other(database: Database) -> None:
    with psycopg.connect(database.owner) as connection, connection.transaction():
        shown = [
            reading.fetch(connection, "SHOW random_page_cost", {}, **settings)[0]["random_page_cost"]
            for settings in ({}, {"random_page_cost": "2"}, {})
        ]
    assert shown == ["4", "2", "4"]


def test_issues_lists_what_was_seen_with_its_numbers(app: Application, database: Database) -> None:
    post(app, database, *(error("Often", user={"id": str(number % 2)}) for number in range(3)))
    post(app, database, error("Once", level="warning"))
    once, often = as_json(database, "issues")
    assert (once["title"], once["events"], once["users"], once["level"]) == ("Once: it broke", 1, 0, "warning")
    assert (often["title"], often["events"], often["users"]) == ("Often: it broke", 3, 2)
    assert often["culprit"] == "total in src/cart.ts"
    assert (often["new"], often["regressed"], often["status"]) == (True, False, "open")
    assert [row["title"] for row in as_json(database, "issues", "--sort", "events")] == [often["title"], once["title"]]
    heading, first, second = lines(database, "issues")
    assert heading.split() == ["ID", "EVENTS", "USERS", "LAST", "SEEN", "TITLE"]
    assert first.startswith(once["fingerprint"][:8])
    assert first.endswith("new  Once: it broke")
    assert "s ago" in second


def test_issues_says_that_there_are_more(app: Application, database: Database) -> None:
    post(app, database, error("A"), error("B"))
    done = support.command("issues", "--limit", "1", database_url=database.owner)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert "--limit" in done.stderr


def test_the_status_of_an_issue_from_new_to_ignored(app: Application, database: Database) -> None:
    def listed(status: str) -> int:
        return len(as_json(database, "issues", "--status", status))

    post(app, database, error("Changes"))
    (issue,) = as_json(database, "issues")
    short = issue["fingerprint"][:8]
    assert [listed(status) for status in issues.STATUSES] == [1, 0, 0, 0, 1]
    assert lines(database, "resolve", short) == [f"{short}  resolved  Changes: it broke"]
    assert [listed(status) for status in issues.STATUSES] == [0, 1, 0, 0, 1]
    post(app, database, error("Changes"))
    assert [listed(status) for status in issues.STATUSES] == [1, 0, 0, 1, 1]
    assert "regressed  Changes" in lines(database, "issues")[1]
    assert lines(database, "issue", short)[0] == "regressed  Changes: it broke"
    assert as_json(database, "ignore", issue["fingerprint"])["status"] == "ignored"
    assert [listed(status) for status in issues.STATUSES] == [0, 0, 1, 0, 1]
    assert lines(database, "reopen", short) == [f"{short}  open  Changes: it broke"]
    assert [listed(status) for status in issues.STATUSES] == [1, 0, 0, 0, 1]


@pytest.mark.parametrize("part", ["100%", "a_b", "\\", "IT IS", "'; --"])
def test_search_takes_each_character_as_itself(app: Application, database: Database, part: str) -> None:
    post(app, database, error("Found", value="it is 100% a_b \\ '; -- É"), error("Other", value="100 aXb"))
    assert [row["title"][:5] for row in as_json(database, "issues", "--search", part)] == ["Found"]


def test_issues_of_one_project_or_of_a_time(app: Application, database: Database) -> None:
    post(app, database, error("Ours"))
    (other,) = database.fetch("INSERT INTO opensentry.projects (name) VALUES ('other') RETURNING id::text")
    for project in ("other", other["id"]):
        assert support.command("issues", "--project", project, database_url=database.owner).stdout == ""
    assert len(as_json(database, "issues", "--project", "test")) == 1
    database.fetch("UPDATE opensentry.events SET received_at = now() - interval '2 hours'")
    assert [len(as_json(database, "issues", "--since", age)) for age in ("30m", "24h", "7d")] == [0, 1, 1]
    done = support.command("stats", "--project", "nobody", database_url=database.owner)
    assert (done.returncode, "project list" in done.stderr) == (1, True)


@pytest.mark.parametrize("age", ["", "0h", "24", "h", "1w", "-1h", "99999d", "1h "])
def test_an_age_is_a_number_and_a_unit(age: str) -> None:
    assert support.command("issues", f"--since={age}").returncode == 2


def test_an_issue_is_named_by_the_beginning_of_its_id(app: Application, database: Database) -> None:
    post(app, database, error("One"))
    (row,) = as_json(database, "issues")
    fingerprint = row["fingerprint"]
    for name in (fingerprint, fingerprint[:8], fingerprint[:12].upper(), fingerprint.replace("-", "")):
        assert as_json(database, "reopen", name)["fingerprint"] == fingerprint
    twin = fingerprint[:-1] + ("0" if fingerprint[-1] != "0" else "1")
    database.fetch(
        "INSERT INTO opensentry.issues (project_id, fingerprint, title, level, first_seen) "
        "VALUES (%s, %s, 'twin', 'error', now())", database.project_id, twin,
    )  # fmt: skip
    done = support.command("resolve", fingerprint[:8], database_url=database.owner)
    assert done.returncode == 1
    assert fingerprint in done.stderr
    assert twin in done.stderr
    assert as_json(database, "resolve", twin)["title"] == "twin"
    assert "No event" in "".join(lines(database, "issue", twin))
    for nothing in (fingerprint[:7], "0" * 32, "nonsense", "", "%", fingerprint + "0", HOSTILE):
        done = support.command("resolve", nothing, database_url=database.owner)
        assert (done.returncode, "`issues`" in done.stderr) == (1, True)


def test_an_issue_is_shown_in_the_order_in_which_people_read(app: Application, database: Database) -> None:
    at = datetime(2026, 5, 30, 12, tzinfo=timezone.utc)
    breadcrumbs = [
        {"category": "navigation", "message": "to the cart", "timestamp": "2026-05-30T11:59:29Z"},
        {"category": "http", "data": {"status": 500}, "level": "error", "timestamp": "2026-05-30T11:59:59.755"},
        {"message": "at some time", "timestamp": "yesterday"},
        {},
    ]
    batch_id = post(
        app, database,
        error("TypeError", value="first line\nsecond line", breadcrumbs=breadcrumbs, timestamp=at.isoformat(),
              tags={"region": "eu"}, user={"id": "u1"}, release="web@1", environment="production", traceId="abc"),
    )  # fmt: skip
    (row,) = as_json(database, "issues")
    text = lines(database, "issue", row["fingerprint"])
    stack = text.index("  total in src/cart.ts:42:7")
    assert text[:2] == ["new  TypeError: first line", "total in src/cart.ts"]
    assert text[stack - 2 :][:9] == [
        "TypeError: first line",
        "second line",
        "  total in src/cart.ts:42:7",
        "      40  let sum = 0;",
        "      41      for (const line of lines) {",
        "    > 42      sum += line.price;",
        "      43  }",
        "  2 library frames: handle, next",
        "  listen in src/server.ts:9",
    ]
    crumbs = text.index("Breadcrumbs")
    assert [line.split() for line in text[crumbs + 1 :][:4]] == [
        ["-31.0", "s", "navigation", "to", "the", "cart"],
        ["-245", "ms", "http", "error", '{"status":', "500}"],
        ["yesterday", "at", "some", "time"],
        [],
    ]
    rest = [line.split(None, 1) for line in text[text.index("Context") + 1 :]]
    assert rest == [
        ["environment", "production"],
        ["release", "web@1"],
        ["user", "id u1"],
        ["tag", "region   eu"],
        ["trace", "opensentry-ingest trace abc"],
        ["all", f"of it    opensentry-ingest show {batch_id}"],
    ]
    shown = as_json(database, "issue", row["fingerprint"])
    assert (shown["events_24h"], shown["users_30d"], shown["releases"]) == (1, 1, ["web@1"])
    assert shown["last_event"]["frames"] == FRAMES


def test_without_own_frames_all_are_shown_and_the_first_is_never_folded(app: Application, database: Database) -> None:
    foreign = [{"filename": f"lib{number}.js", "function": "f"} for number in range(3)]
    for name, frames in (("Foreign", foreign), ("Mixed", [foreign[0], FRAMES[0]]), ("Odd", [{}, {"lineno": 3}])):
        post(app, database, error(name, frames=frames))
    text = {
        row["title"][:3]: "\n".join(lines(database, "issue", row["fingerprint"])) for row in as_json(database, "issues")
    }
    assert "\n  f in lib0.js\n  f in lib1.js\n  f in lib2.js\n" in text["For"]
    assert "\n  f in lib0.js\n  total in src/cart.ts:42:7\n" in text["Mix"]
    assert "\n  ?\n  ?:3\n" in text["Odd"]


def test_text_of_strangers_never_reaches_the_terminal_as_it_is(app: Application, database: Database) -> None:
    hostile = {
        "type": "error", "exception": {"type": HOSTILE, "value": HOSTILE, "stacktrace": {"frames": [
            {"filename": HOSTILE, "function": HOSTILE, "inApp": True, "contextLine": HOSTILE, "lineno": 1,
             "preContext": [HOSTILE], "postContext": [HOSTILE]},
            {"filename": HOSTILE, "function": HOSTILE}]}},
        "breadcrumbs": [{"category": HOSTILE, "message": HOSTILE, "level": HOSTILE, "timestamp": HOSTILE},
                        {"data": {HOSTILE: HOSTILE}}],
        "tags": {HOSTILE: HOSTILE}, "user": {HOSTILE: HOSTILE, "id": HOSTILE}, "environment": HOSTILE,
        "release": HOSTILE, "traceId": HOSTILE, "spanId": HOSTILE, HOSTILE: HOSTILE,
    }  # fmt: skip
    batch_id = post(
        app, database, hostile,
        {"type": "transaction", "name": HOSTILE, "traceId": HOSTILE, "durationMs": 5, "spanId": HOSTILE, "spans": [
            {"spanId": "s", "op": HOSTILE, "description": HOSTILE, "durationMs": 1, "startMs": 1}]},
        {"type": "ai_generation", "provider": HOSTILE, "model": HOSTILE, "inputTokens": 1, "traceId": HOSTILE},
    )  # fmt: skip
    database.fetch("UPDATE opensentry.projects SET name = %s", HOSTILE)
    (row,) = as_json(database, "issues")
    assert row["title"] == f"{HOSTILE}: ".split("\n")[0]
    try:
        calls = (["issues"], ["issue", row["fingerprint"]], ["trace", HOSTILE], ["resolve", row["fingerprint"]],
                 ["stats"], ["show", batch_id], ["project", "list"], ["key", "list", HOSTILE])  # fmt: skip
        for arguments in calls:
            texts = []
            for option in ([], ["--json"]):
                piped = support.command(*arguments, *option, database_url=database.owner)
                assert (piped.returncode, piped.stderr) == (0, "")
                texts.append(piped.stdout)
            if arguments[0] in ("issues", "issue", "trace"):
                texts.append(without_colours(in_terminal(database, *arguments)))
            for text in texts:
                unsafe = {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")}
                assert unsafe <= {"\n"}, arguments
        assert as_json(database, "show", batch_id)["events"][0]["message"] is None
        assert as_json(database, "show", batch_id)["events"][0]["release"] == HOSTILE
        with tailing(database) as tail:
            support.wait_until(lambda: len(tail.lines) == 3)
        assert {char for char in "".join(tail.lines) if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")} == set()
    finally:
        database.fetch("UPDATE opensentry.projects SET name = 'test'")


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_no_line_of_a_table_wraps_and_wide_characters_count_twice(
    app: Application, database: Database, columns: int
) -> None:
    (project,) = database.fetch("INSERT INTO opensentry.projects (name) VALUES ('日本語のプロジェクト') RETURNING id")
    database.fetch("INSERT INTO opensentry.project_keys VALUES ('wide', %s)", project["id"])
    wide = Database(database.owner, database.service, str(project["id"]), "wide")
    for target, name in ((database, "日本語のエラー" * 12), (wide, "Long" * 60), (wide, "e\u0301" * 90)):
        post(app, target, error(name, traceId="t"), {**TRANSACTION, "name": name, "traceId": "t"})
    (fingerprint, *_) = [row["fingerprint"] for row in as_json(database, "issues")]
    for arguments in (["issues"], ["issue", fingerprint], ["stats"], ["trace", "t"]):
        text = without_colours(in_terminal(database, *arguments, columns=columns))
        assert max(map(width, text.splitlines())) <= columns, text
        assert "……" not in text
    if columns == 80:
        heading, *rows = without_colours(in_terminal(database, "issues")).splitlines()
        title = width(heading.partition("TITLE")[0])
        assert {width(re.split("new  ", row)[0]) for row in rows} == {title}
        assert max(width(row) for row in rows) > 70


def test_only_a_terminal_gets_colours_and_cut_lines(app: Application, database: Database) -> None:
    post(app, database, error("Long", value="x" * 200))
    assert "\x1b[" in in_terminal(database, "issues")
    assert "…" in in_terminal(database, "issues")
    assert "\x1b" not in in_terminal(database, "issues", NO_COLOR="1")
    assert "\x1b" not in in_terminal(database, "issues", TERM="dumb")
    piped = "".join(lines(database, "issues"))
    assert "x" * 200 in piped
    assert "\x1b" not in piped


def test_an_encoding_that_cannot_say_it_is_no_error(app: Application, database: Database) -> None:
    post(app, database, error("日本語"), AI_GENERATION)
    environ = {
        **os.environ,
        "DATABASE_URL": database.owner,
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": str(support.ROOT),
    }
    for name in ("issues", "stats"):
        done = subprocess.run([sys.executable, "-m", "opensentry_ingest", name], env=environ, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")


class Tail:
    """A `tail` in a process of its own."""

    def __init__(self, database_url: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "opensentry_ingest", "tail", *options],
            cwd=support.ROOT,
            env={**os.environ, "DATABASE_URL": database_url, "PYTHONUTF8": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self.lines: list[str] = []
        self.notes: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=pair)
            for pair in ((self.process.stdout, self.lines), (self.process.stderr, self.notes))
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _read(source: Any, sink: list[str]) -> None:
        sink.extend(line.rstrip("\n") for line in iter(source.readline, ""))

    def stop(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(60)
        for thread in self._threads:
            thread.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return status


@contextmanager
def tailing(database: Database, *options: str, database_url: str | None = None) -> Iterator[Tail]:
    tail = Tail(database_url or database.owner, *options)
    try:
        yield tail
    finally:
        status = tail.stop()
    assert status == 0


def test_tail_prints_each_item_once_in_a_line(app: Application, database: Database) -> None:
    post(app, database, error("Before"))
    with tailing(database) as tail:
        support.wait_until(lambda: tail.lines)
        post(app, database, error("After", level="fatal"), {**TRANSACTION, "status": "error"}, AI_GENERATION)
        support.wait_until(lambda: len(tail.lines) == 4)
        post(app, database, error("Last"))
        support.wait_until(lambda: len(tail.lines) == 5)
    assert [re.split("  +", re.sub("^[0-9]{2}:[0-9]{2}:[0-9]{2}Z  ", "", line)) for line in tail.lines] == [
        ["error", "test", "Before: it broke"],
        ["fatal", "test", "After: it broke"],
        ["transaction", "test", "error", "GET /api/checkout", "245 ms"],
        ["ai call", "test", "anthropic/claude-sonnet-4", "1.8 s, 1,540 tokens, $0.0048"],
        ["error", "test", "Last: it broke"],
    ]
    assert tail.notes == []


def test_tail_misses_nothing_that_commits_late(app: Application, database: Database) -> None:
    with tailing(database, "--json") as tail, psycopg.connect(database.owner) as late:
        post(app, database, error("Before"))
        support.wait_until(lambda: len(tail.lines) == 1)
        item = json.dumps({**error("Late"), "release": HOSTILE})
        late.execute("SELECT opensentry.ingest(%s, %s, %s)", [database.key, uuids.uuid7(), item])
        # It has an earlier received_at than these, and commits after they were seen.
        post(app, database, *(error("Between") for _ in range(3)))
        support.wait_until(lambda: len(tail.lines) == 4)
        late.commit()
        support.wait_until(lambda: len(tail.lines) == 5)
        post(app, database, error("After"))
        support.wait_until(lambda: len(tail.lines) == 6)
    rows = [json.loads(line) for line in tail.lines]
    assert [row["name"].split(":")[0] for row in rows] == ["Before", *["Between"] * 3, "Late", "After"]
    assert rows[4]["received_at"] < rows[3]["received_at"]
    assert rows[4]["release"] == HOSTILE


def test_tail_survives_the_loss_of_the_database(app: Application, database: Database) -> None:
    proxy = support.Proxy(database.owner)
    try:
        with tailing(database, database_url=proxy.conninfo) as tail:
            post(app, database, error("Before"))
            support.wait_until(lambda: len(tail.lines) == 1)
            proxy.stop()
            support.wait_until(lambda: tail.notes)
            post(app, database, error("Meanwhile"))
            proxy.start()
            support.wait_until(lambda: len(tail.lines) == 2)
            post(app, database, error("After"))
            support.wait_until(lambda: len(tail.lines) == 3)
    finally:
        proxy.stop()
    assert ["Before" in tail.lines[0], "Meanwhile" in tail.lines[1], "After" in tail.lines[2]] == [True] * 3
    assert len(tail.notes) == 2
    assert all(note.startswith("opensentry-ingest: ") for note in tail.notes)


def test_tail_reads_more_than_one_page_at_once(
    app: Application, database: Database, connection: reading.Connection
) -> None:
    since = datetime.now(timezone.utc) - timedelta(minutes=1)
    for _ in range(3):
        post(app, database, *(error("Many") for _ in range(3)), TRANSACTION, AI_GENERATION)
    seen = []
    after = None
    while True:
        rows, after = activity.arrivals(connection, since, after=after, limit=4)
        seen += [(row["received_at"], row["batch_id"], row["position"]) for row in rows]
        if after is None:
            break
    assert seen == sorted(set(seen))
    assert len(seen) == 15


def test_stats_counts_what_came_in(app: Application, database: Database) -> None:
    post(app, database, error("A", user={"id": "1"}), error("A"), error("B", user={"id": "1"}))
    post(app, database, TRANSACTION, {**TRANSACTION, "status": "error"}, AI_GENERATION)
    stats = as_json(database, "stats")
    assert {name: value for name, value in stats.items() if name not in ("by", "rows")} == {
        "errors": 3, "issues": 2, "new_issues": 2, "users": 1, "transactions": 2, "failed_transactions": 1,
        "ai_generations": 1, "failed_ai_generations": 0, "tokens": 1540, "cost_usd": 0.00482, "computed_cost_usd": None,
    }  # fmt: skip
    assert (stats["by"], len(stats["rows"])) == ("hour", 25)
    for name in ("errors", "transactions", "ai_generations"):
        assert sum(row[name] for row in stats["rows"]) == stats[name]
    days = as_json(database, "stats", "--since", "7d")
    assert (days["by"], days["errors"], len(days["rows"])) == ("day", 3, 8)
    text = lines(database, "stats")
    assert text[0].split() == ["errors", "3", "2", "issues,", "2", "new;", "1", "users"]
    assert "█" in text[-1] + text[-2]
    assert any(formats.UNKNOWN in line for line in text)


def span(span_id: str, parent: str | None = None, **members: Any) -> dict[str, Any]:
    return {"spanId": span_id, "op": "db", "description": span_id, "durationMs": 10, "parentSpanId": parent, **members}


def test_a_trace_is_a_tree_by_span_ids(app: Application, database: Database) -> None:
    at = datetime(2026, 5, 30, 12, tzinfo=timezone.utc)
    later = (at + timedelta(milliseconds=50)).isoformat()
    transaction = {"type": "transaction", "name": "root", "traceId": "t", "durationMs": 200, "spanId": "r"}
    spans = [span("child", "r", startMs=20), span("grandchild", "child", startMs=25), span("unknown start", "r"),
             span("lost parent", "nobody", startMs=150), span("circle 1", "circle 2"), span("circle 2", "circle 1"),
             span("self", "self")]  # fmt: skip
    for item in spans:
        item.update({} if item["parentSpanId"] else {"parentSpanId": "r"})
    post(app, database, error("Within", traceId="t", spanId="grandchild", timestamp=at.isoformat()))
    post(app, database, {**transaction, "spans": spans, "timestamp": (at + timedelta(milliseconds=160)).isoformat()})
    post(app, database, {**AI_GENERATION, "traceId": "t", "spanId": "child", "latencyMs": 10, "timestamp": later})
    post(app, database, error("Alone", traceId="t", timestamp=later))
    post(app, database, {**TRANSACTION, "traceId": "another"})
    trace = as_json(database, "trace", "t")
    tree = [(row["depth"], row["name"].split(":")[0], row["offset_ms"], row["duration_ms"]) for row in trace["rows"]]
    assert tree == [
        (0, "root", 0.0, 200),
        (1, "child", 20.0, 10),
        (2, "grandchild", 25.0, 10),
        (3, "Within", 40.0, None),
        (2, "anthropic/claude-sonnet-4", 80.0, 10),
        (1, "lost parent", 150.0, 10),
        (1, "unknown start", None, 10),
        (0, "Alone", 90.0, None),
        (0, "circle 1", None, 10),
        (1, "circle 2", None, 10),
        (0, "self", None, 10),
    ]
    assert (trace["duration_ms"], trace["cut"]) == (200.0, False)
    text = lines(database, "trace", "t")
    assert text[0] == "200 ms, 2026-05-30 11:59:59 UTC, test"
    assert re.fullmatch(r"  child +10 ms +█+", text[4])
    assert re.fullmatch(r"      Within: it broke +error +\u00d7", text[6])
    assert re.fullmatch(r"  unknown start +10 ms", text[9])
    done = support.command("trace", "nothing", database_url=database.owner)
    assert (done.returncode, "nothing of a trace" in done.stderr) == (1, True)


def test_a_trace_is_cut_at_its_limit(app: Application, database: Database, connection: reading.Connection) -> None:
    for _ in range(3):
        post(app, database, *({**TRANSACTION, "traceId": "t"} for _ in range(4)))
    assert [len(traces.trace(connection, "t", limit).rows) for limit in (5, 23, 24)] == [5, 23, 24]
    assert [traces.trace(connection, "t", limit).cut for limit in (5, 23, 24)] == [True, True, False]
    assert {row["depth"] for row in traces.trace(connection, "t").rows} == {0, 1}


def test_times_that_no_calendar_has_are_shown_all_the_same(app: Application, database: Database) -> None:
    for timestamp in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"):
        for duration in (0, 2**53 - 1):
            item = {**TRANSACTION, "traceId": "t", "durationMs": duration, "timestamp": timestamp}
            item["spans"] = [span("s", "p", startMs=2**53 - 1)]
            post(app, database, item, {**AI_GENERATION, "traceId": "t", "latencyMs": duration, "timestamp": timestamp})
        breadcrumbs = [{"timestamp": "0001-01-01T00:00:00+14:00"}, {"timestamp": "9999-12-31T23:59:59-14:00"}]
        post(app, database, error("Then", traceId="t", timestamp=timestamp, breadcrumbs=breadcrumbs))
    (row,) = as_json(database, "issues")
    for arguments in (["issue", row["fingerprint"]], ["trace", "t"], ["stats"]):
        assert lines(database, *arguments)
        assert as_json(database, *arguments)


def test_a_member_of_the_reader_may_look_and_set_a_status(app: Application, database: Database) -> None:
    post(app, database, error("Seen", traceId="t"), TRANSACTION, AI_GENERATION)
    role = f"reader_{os.getpid()}"
    database.fetch(f"CREATE ROLE {role} LOGIN IN ROLE opensentry_reader")
    password = psycopg.conninfo.conninfo_to_dict(database.owner).get("password")
    if password:
        database.fetch(f"ALTER ROLE {role} PASSWORD '{password}'")
    reader = Database(make_conninfo(database.owner, user=role), "", "", "")
    try:
        (row,) = as_json(reader, "issues", "--project", "test")
        for arguments in (["issue", row["fingerprint"]], ["trace", "t"], ["stats"], ["resolve", row["fingerprint"]]):
            assert as_json(reader, *arguments)
        with tailing(reader) as tail:
            support.wait_until(lambda: len(tail.lines) == 3)
        # The role of the service may not look.
        done = support.command("issues", database_url=database.service)
        assert (done.returncode, "opensentry_reader" in done.stderr) == (1, True)
    finally:
        database.fetch(f"DROP ROLE {role}")


def test_nothing_to_show_says_what_to_do(database: Database, bare_database: str) -> None:
    for name in ("issues", "stats"):
        done = support.command(name, database_url=database.owner)
        assert (done.returncode, done.stdout) == (0, "")
        assert "--since 30d" in done.stderr
        assert "project list" in done.stderr
        assert support.command(name, "--json", database_url=database.owner).stderr == ""
    database.fetch("DELETE FROM opensentry.project_keys")
    database.fetch("DELETE FROM opensentry.projects")
    try:
        assert "project create" in support.command("issues", database_url=database.owner).stderr
    finally:
        database.fetch("INSERT INTO opensentry.projects (id, name) VALUES (%s, 'test')", database.project_id)
        database.fetch("INSERT INTO opensentry.project_keys VALUES (%s, %s)", database.key, database.project_id)
    for name in ("issues", "stats", "tail"):
        assert "opensentry-ingest migrate" in support.command(name, database_url=bare_database).stderr


DAY = timedelta(days=1)


def last_day() -> reading.Period:
    now = datetime.now(timezone.utc)
    return reading.Period(now - DAY, now + timedelta(minutes=1))


@pytest.mark.parametrize("sort", issues.SORTS)
def test_pages_of_issues_hold_each_once(
    app: Application, database: Database, connection: reading.Connection, sort: str
) -> None:
    # One batch: all have the same times, and many the same counts.
    post(app, database, *(error(f"E{number % 7}", user={"id": str(number)}) for number in range(18)))
    whole = issues.issues(connection, last_day(), sort=sort)
    assert whole.after is None
    paged: list[reading.Row] = []
    after = None
    while True:
        page = issues.issues(connection, last_day(), sort=sort, limit=2, after=after)
        paged += page.rows
        after = page.after
        if after is None:
            break
    assert len(paged) == 7
    assert paged == whole.rows
    assert [row[sort] for row in paged] == sorted((row[sort] for row in paged), reverse=True)
    for cursor in ("", "~", "x~y", f"1~{UUID(int=0)}~", "\x00~"):
        with pytest.raises(psycopg.DataError):
            issues.issues(connection, last_day(), sort="last_seen", after=cursor)


def test_filters_of_issues_count_only_what_matches(
    app: Application, database: Database, connection: reading.Connection
) -> None:
    for number in range(6):
        release, environment = f"r{number % 3}", "staging" if number == 5 else "production"
        post(app, database, error("E", release=release, environment=environment, user={"id": str(number)}))
    post(app, database, error("Other", level="info"))
    (row,) = issues.issues(connection, last_day(), environment="production", release="r2").rows
    assert (row["events"], row["users"]) == (1, 1)
    (row,) = issues.issues(connection, last_day(), environment="production", sort="users").rows
    assert (row["events"], row["users"]) == (5, 5)
    assert [row["title"] for row in issues.issues(connection, last_day(), level="info").rows] == ["Other: it broke"]
    assert issues.filter_values(connection, last_day()) == {
        "environments": ["production", "staging"],
        "releases": ["r0", "r1", "r2"],
        "levels": ["error", "info"],
    }
    rows = issues.issues(connection, last_day()).rows
    buckets, counts = issues.sparklines(connection, rows, last_day(), environment="production")
    assert {len(series) for series in counts.values()} == {len(buckets.starts)}
    assert sorted(map(sum, counts.values())) == [0, 5]


def test_what_is_known_of_one_issue(app: Application, database: Database, connection: reading.Connection) -> None:
    for number in range(8):
        tags = {"region": "eu" if number else "us", f"key {number}": "x"}
        release = {"release": f"r{min(number // 2, 2)}"} if number else {}
        post(app, database, error("E", tags=tags, user={"id": f"u{number % 3}"}, **release))
    (row,) = issues.issues(connection, last_day()).rows
    name = row["project_id"], row["fingerprint"]
    found = issue.summary(connection, row["fingerprint"], last_day())
    assert found is not None
    assert (found["events"], found["users"], found["releases"]) == (8, 3, ["r2", "r1", "r0"])
    assert issue.summary(connection, UUID(int=0), last_day()) is None
    chart = issue.chart(connection, *name, last_day(), top=1)
    assert {release: sum(counts) for release, counts in chart.releases.items()} == {"r2": 4, None: 4}
    assert list(chart.releases) == ["r2", None]
    tags_of = issue.tags(connection, *name, last_day(), keys=2)
    assert tags_of.events == 8
    assert tags_of.tags == [
        {"key": "region", "events": 8, "values": [{"value": "eu", "events": 7}, {"value": "us", "events": 1}]},
        {"key": "key 0", "events": 1, "values": [{"value": "x", "events": 1}]},
    ]
    assert [(user["user"], user["events"]) for user in issue.users(connection, *name, last_day(), limit=2)] == [
        ("u0", 3),
        ("u1", 3),
    ]
    early = reading.Period(last_day().since - DAY, last_day().since)
    assert issue.tags(connection, *name, early) == (0, [])
    assert issue.chart(connection, *name, early).releases == {}
    assert issue.events(connection, *name, early).rows == []


def test_events_of_an_issue_follow_each_other(
    app: Application, database: Database, connection: reading.Connection
) -> None:
    post(app, database, *(error("E") for _ in range(3)), error("Other"))
    post(app, database, *(error("E") for _ in range(2)))
    row = issues.issues(connection, last_day(), search="E:").rows[0]
    name = row["project_id"], row["fingerprint"]
    listed: list[tuple[UUID, int]] = []
    after = None
    while True:
        page = issue.events(connection, *name, last_day(), limit=2, after=after)
        listed += [(event["batch_id"], event["position"]) for event in page.rows]
        after = page.after
        if after is None:
            break
    stepped = []
    event = issue.event(connection, *name)
    assert event is not None
    assert event.next is None
    while event:
        here = event.row["batch_id"], event.row["position"]
        stepped.append(here)
        if event.previous is None:
            break
        event = issue.event(connection, *name, *event.previous)
        assert event is not None
        assert event.next == here
        assert json.loads(event.json)["position"] == event.row["position"]
    assert stepped == listed
    assert len(listed) == 5
    assert issue.event(connection, *name, UUID(int=0), 0) is None


@pytest.mark.parametrize("span_of_time", [timedelta(minutes=1), timedelta(hours=1), DAY, 7 * DAY, 30 * DAY, 400 * DAY])
def test_buckets_are_aligned_and_cover_the_period(span_of_time: timedelta) -> None:
    until = datetime(2026, 3, 1, 12, 34, 56, 789, tzinfo=timezone.utc)
    for period in (reading.Period(until - span_of_time, until), reading.Period(until.replace(hour=0), until)):
        step, starts = reading.buckets(period)
        assert len(starts) <= 60
        assert starts[0] <= period.since < starts[0] + step
        assert starts[-1] < period.until <= starts[-1] + step
        assert {later - earlier for earlier, later in itertools.pairwise(starts)} <= {step}
        assert not any((start - reading.ORIGIN) % step for start in starts)


def test_buckets_of_years_are_made_without_one_for_each_minute() -> None:
    until = datetime(2026, 3, 1, tzinfo=timezone.utc)
    tracemalloc.start()
    try:
        divided = reading.buckets(reading.Period(until - 2000 * DAY, until))
        most_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (divided.step, len(divided.starts)) == (7 * DAY, 286)
    assert most_bytes < 1_000_000


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.count(None), formats.UNKNOWN),
        (formats.count(0), "0"),
        (formats.count(1234), "1,234"),
        (formats.count(12345), "12.3k"),
        (formats.count(999_999), "1.0M"),
        (formats.count(10**400), "1.0e+400"),
        (formats.milliseconds(None), formats.UNKNOWN),
        (formats.milliseconds(245), "245 ms"),
        (formats.milliseconds(1820), "1.8 s"),
        (formats.milliseconds(59_990), "1.0 min"),
        (formats.milliseconds(2**53), "104M days"),
        (formats.dollars(None), formats.UNKNOWN),
        (formats.dollars(Decimal(0)), "$0.00"),
        (formats.dollars(Decimal("0.00482")), "$0.0048"),
        (formats.dollars(Decimal("12.4")), "$12.40"),
        (formats.dollars(Decimal("1e-300")), "<$0.000001"),
        (formats.dollars(Decimal("1e300")), "$1.0e+300"),
        (formats.percent(0, 0), formats.UNKNOWN),
        (formats.percent(1, 3), "33%"),
        (formats.percent(1, 200), "0.5%"),
    ],
)
def test_numbers_are_shown_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s ago"),
        (59, "59 s ago"),
        (180, "3 min ago"),
        (7200, "2 h ago"),
        (200_000, "2 days ago"),
        (-90, "in 1 min"),
    ],
)
def test_times_are_shown_as_ages(seconds: int, expected: str) -> None:
    now = datetime.now(timezone.utc)
    assert formats.ago(now - timedelta(seconds=seconds), now) == expected
    assert formats.ago(None, now) == formats.UNKNOWN
