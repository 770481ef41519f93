"""sentry-sdk inside Flask and Django, and beside an OpenAI client."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.sdks import rows
from tests.sdks.conftest import CLIENTS, Do, dsn, metric, run
from tests.support import TABLES, Database, Server

SAID = "canary-question"
ANSWERED = "canary-answer"
MODEL = "gpt-test-2026-01-02"
OPENAI = [sys.executable, str(CLIENTS / "openai_app.py")]
USAGE = {
    "prompt_tokens": 1200,
    "completion_tokens": 34,
    "total_tokens": 1234,
    "prompt_tokens_details": {"cached_tokens": 1000},
}


@pytest.mark.parametrize(
    ("client", "names"),
    [("flask_app.py", {"order"}), ("django_app.py", {"/orders/{number}", "/orders/<int:number>"})],
)
def test_a_request_that_fails_is_stored_with_its_context(
    client: str, names: set[str], server: Server, database: Database
) -> None:
    with run([sys.executable, str(CLIENTS / client)], dsn(server, database)) as do:
        do("/orders/0?page=2")
    row = rows.one(database, "events")
    rows.check_context(row)
    rows.check_breadcrumb(row)
    assert (row["exception_type"], row["exception_value"]) == ("LookupError", "no such order")
    assert row["frames"][0]["function"] == "order"
    request = row["extra"]["request"]
    assert (request["method"], request["query_string"]) == ("GET", "page=2")
    assert request["url"].endswith("/orders/0")
    assert row["extra"]["transaction"] in names
    transaction = rows.one(database, "transactions")
    assert (transaction["name"], transaction["op"], transaction["status"]) == (
        row["extra"]["transaction"],
        "http.server",
        "error",
    )
    assert row["trace_id"] == transaction["trace_id"]
    spans = database.rows("spans", transaction["batch_id"])
    assert "SELECT 1" in [span["description"] for span in spans]


class Api(BaseHTTPRequestHandler):
    """The parts of OpenAI's API that the client calls."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert SAID in json.dumps(request)
        if request["model"] == "gpt-refused":
            self._answer(429, json.dumps({"error": {"message": "too many requests"}}))
        elif request.get("stream"):
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
            choice = {"index": 0, "delta": {"role": "assistant", "content": ANSWERED}, "finish_reason": None}
            chunks = [{**chunk, "choices": [choice]}, {**chunk, "choices": [], "usage": USAGE}]
            lines = [f"data: {json.dumps(each)}\n\n" for each in chunks]
            self._answer(200, "".join(lines) + "data: [DONE]\n\n", "text/event-stream")
        else:
            self._answer(200, json.dumps(ANSWERS[self.path](request)))

    def _answer(self, status: int, text: str, media_type: str = "application/json") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def _chat(request: Any) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", "content": ANSWERED}, "finish_reason": "stop"}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
        "usage": USAGE,
    }


def _response(request: Any) -> Any:
    content = [{"type": "output_text", "text": ANSWERED, "annotations": []}]
    message = {"id": "2", "type": "message", "role": "assistant", "status": "completed", "content": content}
    usage = {
        "input_tokens": 1200,
        "input_tokens_details": {"cached_tokens": 1000},
        "output_tokens": 34,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 1234,
    }
    return {
        "id": "1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": MODEL,
        "output": [message],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    }


def _embeddings(request: Any) -> Any:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
    usage = {"prompt_tokens": 1200, "total_tokens": 1200}
    return {"object": "list", "model": MODEL, "data": data, "usage": usage}


ANSWERS = {"/chat/completions": _chat, "/responses": _response, "/embeddings": _embeddings}


@pytest.fixture(scope="module")
def openai_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def ask(openai_url: str, server: Server, database: Database) -> Iterator[Do]:
    # By default, the SDK sends the spans of models in an item of their own, which is skipped, and the local variables
    # of each frame of an exception, which may be what was asked.
    options = {"stream_gen_ai_spans": False, "include_local_variables": False}
    with run([*OPENAI, json.dumps(options)], dsn(server, database), OPENAI_URL=openai_url) as do:
        yield do


def texts(database: Database) -> str:
    """Return everything that was stored, as text."""
    return "\n".join(
        row["text"]
        for table in TABLES
        for row in database.fetch(f"SELECT t::text AS text FROM opensentry.{table} AS t")
    )


@pytest.mark.parametrize(
    ("how", "model", "tokens"),
    [
        ("chat", MODEL, (1200, 34, 1234, 1000)),
        ("stream", MODEL, (1200, 34, 1234, 1000)),
        ("responses", MODEL, (1200, 34, 1234, 1000)),
        ("embeddings", MODEL, (1200, None, 1200, None)),
    ],
)
def test_a_call_of_a_model_is_stored_without_what_was_said(
    how: str, model: str, tokens: tuple[int | None, ...], ask: Do, database: Database
) -> None:
    ask(how)
    row = rows.one(database, "ai_generations")
    assert (row["provider"], row["model"], row["status"]) == ("openai", model, "ok")
    names = ("input_tokens", "output_tokens", "total_tokens", "cached_input_tokens")
    assert tuple(row[name] for name in names) == tokens
    assert (row["release"], row["environment"]) == ("shop@1.2.3", "testing")
    transaction = rows.one(database, "transactions")
    assert (transaction["name"], row["trace_id"]) == (how, transaction["trace_id"])
    assert row["span_id"] in [span["span_id"] for span in database.rows("spans", transaction["batch_id"])]
    assert SAID not in texts(database)
    assert ANSWERED not in texts(database)


def test_a_call_of_a_model_that_fails_is_stored_as_that(ask: Do, database: Database) -> None:
    ask("refused")
    row = rows.one(database, "ai_generations")
    assert (row["provider"], row["model"], row["status"]) == ("openai", "gpt-refused", "error")
    assert SAID not in texts(database)
    error = rows.one(database, "events")
    assert (error["exception_type"], error["exception_value"]) == (
        "RateLimitError",
        "Error code: 429 - too many requests",
    )


def test_calls_of_models_that_are_streamed_are_skipped_and_counted(
    openai_url: str, server: Server, database: Database
) -> None:
    skipped = metric(server, 'opensentry_ingest_skipped_total{type="span"}')
    with run([*OPENAI, "{}"], dsn(server, database), OPENAI_URL=openai_url) as do:
        do("chat")
    assert metric(server, 'opensentry_ingest_skipped_total{type="span"}') == skipped + 1
    assert rows.one(database, "transactions")["name"] == "chat"
    assert database.counts()["ai_generations"] == 0
    assert SAID not in texts(database)
