"""sentry-sdk inside Flask and Django, and beside clients of language models."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import support
from tests.apis import ANSWERED
from tests.sdks import rows
from tests.sdks.conftest import CLIENTS, Do, accepted, dsn, run, sends_again_after_a_503
from tests.support import TABLES, Database, Server

SAID = "canary-question"
LLM_APP = [sys.executable, str(CLIENTS / "llm_app.py")]
# The SDK also sends the local variables of each frame of an exception, which may be what was asked.
OPTIONS = {"include_local_variables": False}

# What has the SDK stream spans, as that for JavaScript does by default.
STREAM = '{"trace_lifecycle": "stream"}'
APPS = {
    "flask": ["flask_app"],
    "django": ["django_app"],
    "flask-stream": ["flask_app", STREAM],
    "django-stream": ["django_app", STREAM],
}
NAMES = {"flask": {"order"}, "django": {"/orders/{number}", "/orders/<int:number>"}}


@pytest.fixture(params=APPS)
def app_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def start(name: str, dsn: str) -> Any:
    """Start an application."""
    module, *arguments = APPS[name]
    command = [sys.executable, "-m", f"tests.sdks.clients.{module}", *arguments]
    return run(command, dsn, PYTHONPATH=str(support.ROOT))


def test_a_request_that_fails_is_stored_with_its_context(app_name: str, server: Server, database: Database) -> None:
    with start(app_name, dsn(server, database)) as do:
        do("/orders/0?page=2")
    row = rows.one(database, "events")
    rows.check_context(row)
    rows.check_breadcrumb(row)
    assert (row["exception_type"], row["exception_value"]) == ("LookupError", "no such order")
    assert row["frames"][0]["function"] == "order"
    request = row["extra"]["request"]
    assert (request["method"], request["query_string"]) == ("GET", "page=2")
    assert request["url"].endswith("/orders/0")
    assert row["extra"]["transaction"] in NAMES[app_name.partition("-")[0]]
    # If it streams spans, the SDK (2.75) also sends some for its own requests.
    (transaction,) = database.fetch("SELECT * FROM opensentry.transactions WHERE op = 'http.server'")
    assert (transaction["name"], transaction["op"], transaction["status"]) == (
        row["extra"]["transaction"],
        "http.server",
        "error",
    )
    assert row["trace_id"] == transaction["trace_id"]
    spans = database.rows("spans", transaction["batch_id"])
    assert "SELECT 1" in [span["description"] for span in spans]


def test_an_event_of_a_request_that_is_sent_twice_is_stored_once(
    app_name: str, server: Server, database: Database
) -> None:
    before = accepted(server)
    with start(app_name, dsn(server, database)) as do:
        do("/twice")
    assert accepted(server) == before + 2
    assert rows.one(database, "events")["message"] == "twice"


def test_an_application_sends_again_after_a_503(
    app_name: str, database: Database, proxy: support.Proxy, tmp_path: Path
) -> None:
    sends_again_after_a_503(partial(start, app_name), "/messages/", database, proxy, tmp_path / "log")


@pytest.fixture(scope="module")
def ask(apis_url: str, server: Server, database: Database) -> Iterator[Do]:
    with run([*LLM_APP, json.dumps(OPTIONS)], dsn(server, database), APIS_URL=apis_url) as do:
        yield do


def texts(database: Database) -> str:
    """Return everything that was stored, as text."""
    return "\n".join(
        row["text"]
        for table in TABLES
        for row in database.fetch(f"SELECT t::text AS text FROM opensentry.{table} AS t")
    )


GPT = ("openai", "gpt-test-2024-07-18")
CLAUDE = ("anthropic", "claude-test-20250514")
TOKENS = ("input_tokens", "output_tokens", "total_tokens", "cached_input_tokens", "cache_write_tokens")


def check_call(database: Database, how: str, model: tuple[str, str], tokens: tuple[int | None, ...]) -> None:
    """Check what is stored of a call, its transaction included, and that nothing is that was said."""
    row = rows.one(database, "ai_generations")
    assert (row["provider"], row["model"], row["status"]) == (*model, "ok")
    assert tuple(row[name] for name in TOKENS) == tokens
    assert (row["release"], row["environment"]) == ("shop@1.2.3", "testing")
    assert row["latency_ms"] > 0
    transaction = rows.one(database, "transactions")
    assert (transaction["name"], row["trace_id"]) == (how, transaction["trace_id"])
    spans = {span["span_id"]: span for span in database.rows("spans", transaction["batch_id"])}
    assert spans[row["span_id"]]["parent_span_id"] == transaction["span_id"]
    # The request of the client is inside or beside it.
    parents = [span["parent_span_id"] for span in spans.values() if span["op"] == "http.client"]
    assert set(parents) <= {row["span_id"], transaction["span_id"]}
    assert parents
    assert SAID not in texts(database)
    assert ANSWERED not in texts(database)


@pytest.mark.parametrize(
    ("how", "model", "tokens"),
    [
        ("chat", GPT, (1200, 34, 1234, 1024, None)),
        ("stream", GPT, (1200, 34, 1234, 1024, None)),
        ("responses", GPT, (1200, 34, 1234, 1024, None)),
        ("embeddings", ("openai", "gpt-test"), (8, None, 8, None, None)),
        ("claude", CLAUDE, (1200, 34, 1234, 1000, 124)),
        ("claude-stream", CLAUDE, (1200, 34, 1234, 1000, 124)),
    ],
)
def test_a_call_of_a_model_is_stored_without_what_was_said(
    how: str, model: tuple[str, str], tokens: tuple[int | None, ...], ask: Do, database: Database
) -> None:
    ask(how)
    check_call(database, how, model, tokens)


@pytest.mark.parametrize("how", ["chat", "claude"])
def test_a_call_that_stays_in_its_transaction_is_stored_in_the_same_way(
    how: str, apis_url: str, server: Server, database: Database
) -> None:
    options = json.dumps({**OPTIONS, "stream_gen_ai_spans": False})
    with run([*LLM_APP, options], dsn(server, database), APIS_URL=apis_url) as do:
        do(how)
    model, tokens = (GPT, (1200, 34, 1234, 1024, None)) if how == "chat" else (CLAUDE, (1200, 34, 1234, 1000, 124))
    check_call(database, how, model, tokens)


def test_a_call_through_langchain_is_stored_once(apis_url: str, server: Server, database: Database) -> None:
    options = json.dumps({**OPTIONS, "langchain": True})
    with run([*LLM_APP, options], dsn(server, database), APIS_URL=apis_url) as do:
        do("langchain")
    # This is what LangChain calls that API.
    check_call(database, "langchain", ("openai-chat", GPT[1]), (1200, 34, 1234, 1024, None))


@pytest.mark.parametrize(
    ("how", "provider", "model", "error", "text"),
    [
        ("refused", "openai", "gpt-refused", "RateLimitError", "Error code: 429"),
        ("claude-refused", "anthropic", "claude-refused", "OverloadedError", "Error code: 529"),
    ],
)
def test_a_call_of_a_model_that_fails_is_stored_as_that(
    how: str, provider: str, model: str, error: str, text: str, ask: Do, database: Database
) -> None:
    ask(how)
    row = rows.one(database, "ai_generations")
    assert (row["provider"], row["model"], row["status"]) == (provider, model, "error")
    assert SAID not in texts(database)
    event = rows.one(database, "events")
    assert event["exception_type"] == error
    assert event["exception_value"].startswith(text)
