"""Sentry's protocol: what its SDKs send is stored, once and whole, and no event is refused for one bad member."""

import base64
import gzip
import io
import json
import os
import secrets
import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import brotli
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from webtest import TestApp as Client
from webtest import TestResponse

from opensentry_ingest import Application, create_app, payload
from opensentry_ingest.errors import RequestError
from opensentry_ingest.protocols import envelope, sentry, streams
from tests.support import TABLES, Database, Proxy

EVENT: dict[str, Any] = {"message": "hello", "platform": "other"}
MIB = 1_048_576


def new_id() -> str:
    return uuid.uuid4().hex


def pack(header: Any, *items: tuple[Any, bytes]) -> bytes:
    """Return an envelope: its header, and the header and payload of each item."""
    lines = [json.dumps(header).encode()]
    for item_header, content in items:
        lines += [json.dumps(item_header).encode(), content]
    return b"\n".join(lines) + b"\n"


def of(event: Any, kind: str = "event") -> tuple[Any, bytes]:
    content = json.dumps(event).encode()
    return {"type": kind, "length": len(content)}, content


def send(client: Client, database: Database, body: bytes, **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(
        f"/api/1/envelope/?sentry_key={database.key}",
        body,
        headers={"Content-Type": "application/x-sentry-envelope", **named},
        expect_errors=True,
    )


def stored(client: Client, database: Database, event: Any, kind: str = "event", table: str = "events") -> Any:
    """Send one event and return its row."""
    event_id = new_id()
    response = send(client, database, pack({"event_id": event_id}, of(event, kind)))
    assert (response.status_int, response.json) == (200, {"id": event_id})
    (row,) = database.rows(table, event_id)
    return row


def test_an_event_is_stored_as_an_error(client: Client, database: Database) -> None:
    breadcrumb = {"category": "own", "timestamp": "2026-01-02T03:04:05Z", "level": "info", "data": {"b": [2]}}
    event = {
        "event_id": "f" * 32,
        "timestamp": 1_700_000_000.25,
        "platform": "python",
        "level": "fatal",
        "exception": {
            "values": [
                {"type": "KeyError", "value": "'x'", "stacktrace": {"frames": [{"function": "inner"}]}},
                {"type": "TypeError", "value": "no x"},
                {
                    "type": "ValueError",
                    "value": "bad",
                    "module": "app",
                    "mechanism": {"type": "chained", "exception_id": 0},
                    "stacktrace": {
                        "frames": [
                            {"filename": "main.py", "function": "main", "in_app": True, "lineno": 1},
                            {
                                "filename": "lib.py",
                                "function": "load",
                                "module": "lib",
                                "abs_path": "/srv/lib.py",
                                "lineno": 7,
                                "colno": 3,
                                "in_app": False,
                                "pre_context": ["a"],
                                "context_line": "b",
                                "post_context": ["c"],
                                "vars": {"x": None},
                            },
                        ],
                        "registers": {"pc": "0x1"},
                    },
                },
            ]
        },
        "breadcrumbs": {
            "values": [{"category": "q", "timestamp": 1_700_000_000, "data": {"a": 1}, "event_id": None}, breadcrumb]
        },
        "tags": [["a", "b"], ["n", 1]],
        "user": {"id": 5, "email": "a@b.c", "geo": {"city": "Wien"}},
        "environment": "production",
        "release": "1.0",
        "dist": "7",
        "fingerprint": ["{{ default }}", 3],
        "contexts": {"trace": {"trace_id": "t" * 32, "span_id": "s" * 16}, "os": {"name": "Linux"}},
        "modules": {"django": "5.0"},
        "transaction": "/checkout",
        "extra": {"free": "text"},
        "request": None,
    }
    row = stored(client, database, event)
    assert (row["exception_type"], row["exception_value"]) == ("ValueError", "bad")
    assert row["timestamp"].timestamp() == 1_700_000_000.25
    assert (row["level"], row["environment"], row["release"]) == ("fatal", "production", "1.0")
    assert row["frames"] == [
        {
            "filename": "lib.py",
            "function": "load",
            "module": "lib",
            "absPath": "/srv/lib.py",
            "lineno": 7,
            "colno": 3,
            "inApp": False,
            "preContext": ["a"],
            "contextLine": "b",
            "postContext": ["c"],
            "vars": {"x": None},
        },
        {"filename": "main.py", "function": "main", "inApp": True, "lineno": 1},
    ]
    assert row["breadcrumbs"] == [
        {"category": "q", "timestamp": "2023-11-14T22:13:20+00:00", "data": {"a": 1}},
        breadcrumb,
    ]
    assert row["tags"] == {"a": "b", "n": "1"}
    assert row["user"] == {"id": "5", "email": "a@b.c"}
    assert (row["trace_id"], row["span_id"]) == ("t" * 32, "s" * 16)
    assert row["client_fingerprint"] == ["{{ default }}", "3"]
    assert row["extra"] == {
        "event_id": "f" * 32,
        "platform": "python",
        "dist": "7",
        "contexts": event["contexts"],
        "modules": {"django": "5.0"},
        "transaction": "/checkout",
        "extra": {"free": "text"},
        "causes": [
            {"type": "TypeError", "value": "no x"},
            {"type": "KeyError", "value": "'x'", "stacktrace": {"frames": [{"function": "inner"}]}},
        ],
        "exception": {
            "module": "app",
            "mechanism": {"type": "chained", "exception_id": 0},
            "stacktrace": {"registers": {"pc": "0x1"}},
        },
        "unconverted": {"user": {"geo": {"city": "Wien"}}},
    }


# The event, and some columns of its row.
EVENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "a message": ({"message": "hi"}, {"exception_value": "hi", "message": "hi", "level": "error", "extra": None}),
    "a message with parameters": (
        {"logentry": {"message": "a %s", "formatted": "a b", "params": ["b"]}, "level": "log"},
        {"message": "a b", "level": "info", "extra": {"logentry": {"message": "a %s", "params": ["b"]}}},
    ),
    "a message given twice": ({"logentry": "a", "message": "a"}, {"message": "a", "extra": None}),
    "two messages": ({"logentry": "a", "message": "b"}, {"message": "a", "extra": {"unconverted": {"message": "b"}}}),
    "a message as an object": ({"message": {"message": "a"}}, {"message": "a", "extra": None}),
    "a message that is none": (
        {"message": [1], "logentry": {}},
        {"message": None, "extra": {"unconverted": {"message": [1]}, "logentry": {}}},
    ),
    "tags as a map": (
        {"tags": {"a": True, "b": None, "c": 1.5, "d": [1]}},
        {"tags": {"a": "true", "c": "1.5"}, "extra": {"unconverted": {"tags": {"d": [1]}}}},
    ),
    "tags as pairs": (
        {"tags": [["a", "b"], None, ["c"], ["d", None], [1, 2], ["a", "e"]]},
        {"tags": {"a": "b", "1": "2"}, "extra": {"unconverted": {"tags": [["c"], ["d", None], ["a", "e"]]}}},
    ),
    "tags that are none": ({"tags": "a"}, {"tags": None, "extra": {"unconverted": {"tags": "a"}}}),
    "null everywhere": (
        dict.fromkeys(["exception", "tags", "user", "level", "timestamp", "contexts", "breadcrumbs", "spans"]),
        {"level": "error", "extra": None},
    ),
    "a level of another logger": ({"level": "critical"}, {"level": "fatal"}),
    "an unknown level": ({"level": "loud"}, {"level": "error", "extra": {"unconverted": {"level": "loud"}}}),
    "a bad timestamp": ({"timestamp": "soon"}, {"extra": {"unconverted": {"timestamp": "soon"}}}),
    "a day that does not exist": (
        {"timestamp": "2026-02-30T00:00:00Z"},
        {"extra": {"unconverted": {"timestamp": "2026-02-30T00:00:00Z"}}},
    ),
    "a timestamp of another planet": ({"timestamp": 1e15}, {"extra": {"unconverted": {"timestamp": 1e15}}}),
    "a user that is text": ({"user": "me"}, {"user": None, "extra": {"unconverted": {"user": "me"}}}),
    "an exception without a list": ({"exception": {"type": "E", "value": 42}}, {"exception_value": "42"}),
    "exceptions as a list": ({"exception": [{"type": "E"}, None]}, {"exception_type": "E", "extra": None}),
    "no exceptions": ({"exception": {"values": []}}, {"exception_type": None, "extra": None}),
    "exceptions that are none": (
        {"exception": {"values": ["x", {"type": "E"}]}},
        {"exception_type": "E", "extra": {"unconverted": {"exception": {"values": ["x"]}}}},
    ),
    "bad frames": (
        {"exception": [{"stacktrace": {"frames": [None, 1, {"lineno": "7", "in_app": 1, "inApp": True}]}}]},
        {
            "frames": [{"unconverted": {"lineno": "7", "in_app": 1, "inApp": True}}],
            "extra": {"exception": {"stacktrace": {"unconverted": {"frames": [1]}}}},
        },
    ),
    "a bad breadcrumb": (
        {"breadcrumbs": [1, {"level": 3, "timestamp": "any text"}]},
        {
            "breadcrumbs": [{"timestamp": "any text", "unconverted": {"level": 3}}],
            "extra": {"unconverted": {"breadcrumbs": [1]}},
        },
    ),
    "too long a fingerprint": (
        {"fingerprint": ["a"] * 21},
        {"client_fingerprint": None, "extra": {"unconverted": {"fingerprint": ["a"] * 21}}},
    ),
    "names of ours": (
        {"traceId": 1, "causes": 2, "unconverted": 3},
        {"trace_id": None, "extra": {"unconverted": {"traceId": 1, "causes": 2, "unconverted": 3}}},
    ),
    "a number that is too large": ({"a": "1e999"}, {"extra": {"a": "1e999"}}),
    "characters that PostgreSQL cannot hold": ({"message": "\0\ud800"}, {"message": "\ufffd\ufffd"}),
    # The documented shapes of other platforms.
    "native": (
        {
            "platform": "native",
            "exception": {
                "values": [
                    {
                        "type": "SIGSEGV",
                        "value": "Segfault",
                        "thread_id": 7,
                        "mechanism": {"type": "signalhandler", "meta": {"signal": {"number": 11}}},
                    }
                ]
            },
            "threads": {
                "values": [
                    {"id": 1, "stacktrace": {"frames": [{"function": "other"}]}},
                    {
                        "id": 7,
                        "crashed": True,
                        "stacktrace": {
                            "frames": [
                                {"instruction_addr": "0x7f01", "package": "/usr/lib/libc.so.6"},
                                {"instruction_addr": "0x5580", "image_addr": "0x5500", "function": "crash"},
                            ]
                        },
                    },
                ]
            },
            "debug_meta": {"images": [{"type": "elf", "image_addr": "0x5500", "debug_id": "abc"}]},
        },
        {
            "exception_type": "SIGSEGV",
            "frames": [
                {"instruction_addr": "0x5580", "image_addr": "0x5500", "function": "crash"},
                {"instruction_addr": "0x7f01", "package": "/usr/lib/libc.so.6"},
            ],
        },
    ),
    "Java": (
        {
            "platform": "java",
            "exception": {
                "values": [
                    {"type": "SQLException", "value": "refused", "module": "java.sql", "thread_id": 1},
                    {"type": "RuntimeException", "value": "java.sql.SQLException", "module": "java.lang"},
                ]
            },
            "modules": {"org.springframework:spring-core": "6.1"},
        },
        {
            "exception_type": "RuntimeException",
            "extra": {
                "platform": "java",
                "causes": [{"type": "SQLException", "value": "refused", "module": "java.sql", "thread_id": 1}],
                "exception": {"module": "java.lang"},
                "modules": {"org.springframework:spring-core": "6.1"},
            },
        },
    ),
    "Cocoa": (
        {
            "platform": "cocoa",
            "timestamp": 1_700_000_000.123456,
            "exception": {"values": [{"type": "NSRangeException", "value": "out of bounds", "thread_id": 0}]},
            "debug_meta": {"images": [{"type": "macho", "debug_id": "abc", "image_addr": "0x1"}]},
            "threads": {"values": [{"id": 0, "current": True, "main": True}]},
        },
        {"exception_type": "NSRangeException", "frames": None},
    ),
    "C#": (
        {
            "platform": "csharp",
            "timestamp": "2026-05-30T12:00:00.1234567+02:00",
            "exception": {
                "values": [
                    {
                        "type": "System.AggregateException",
                        "value": "One or more",
                        "mechanism": {"is_exception_group": True, "exception_id": 0},
                        "stacktrace": {"frames": [{"function": "void Main()", "in_app": True, "addr_mode": "rel:0"}]},
                    }
                ]
            },
        },
        {"exception_type": "System.AggregateException"},
    ),
    "PHP": (
        {
            "platform": "php",
            "timestamp": 1_700_000_000.5,
            "exception": {
                "values": [
                    {"type": "LogicException", "stacktrace": {"frames": [{"filename": "/index.php", "lineno": 3}]}}
                ]
            },
            "tags": [],
            "user": [],
            "extra": [],
            "breadcrumbs": {"values": []},
        },
        {"exception_type": "LogicException", "tags": {}, "breadcrumbs": []},
    ),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_keeps_what_it_has(client: Client, database: Database, name: str) -> None:
    event, expected = EVENTS[name]
    row = stored(client, database, event)
    assert {column: row[column] for column in expected} == expected


def test_a_number_too_large_for_a_float_is_kept_as_text(client: Client, database: Database) -> None:
    event_id = new_id()
    content = b'{"extra": {"a": 1e999, "b": -1e999999}, "timestamp": 1e999}'
    assert send(client, database, pack({"event_id": event_id}, ({"type": "event"}, content))).status_int == 200
    (row,) = database.rows("events", event_id)
    assert row["extra"] == {"extra": {"a": "1e999", "b": "-1e999999"}, "unconverted": {"timestamp": "1e999"}}


def chat(**members: Any) -> dict[str, Any]:
    data = {
        "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024",
        "gen_ai.usage.input_tokens": 120,
        "gen_ai.usage.input_tokens.cached": 100,
        "gen_ai.usage.output_tokens": 30,
        "gen_ai.usage.total_tokens": 150,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.messages": '[{"role": "user", "content": "secret"}]',
        "gen_ai.response.text": "secret",
    }
    times = {"start_timestamp": 1_700_000_000.1, "timestamp": 1_700_000_000.35}
    return {"span_id": secrets.token_hex(8), "op": "gen_ai.chat", "data": data, **times, **members}


TRANSACTION: dict[str, Any] = {
    "type": "transaction",
    "transaction": "GET /",
    "start_timestamp": 1_700_000_000.0,
    "timestamp": "2023-11-14T22:13:21.500Z",
    "environment": "production",
    "release": "1.0",
    "tags": {"a": "b"},
    "user": {"id": 1},
    "contexts": {
        "trace": {
            "trace_id": "t" * 32,
            "span_id": "root",
            "parent_span_id": "caller",
            "op": "http.server",
            "status": "ok",
        }
    },
    "spans": [
        {
            "span_id": "s1",
            "parent_span_id": "root",
            "trace_id": "t" * 32,
            "op": "db",
            "description": "SELECT 1",
            "start_timestamp": 1_700_000_000.25,
            "timestamp": 1_700_000_000.75,
            "status": "internal_error",
            "data": {"db.system": "postgresql"},
        },
        None,
        {"span_id": "s2", "timestamp": None},
        {"op": "no id"},
        chat(span_id="s3"),
    ],
}


def test_a_transaction_is_stored_with_its_spans_and_calls_of_models(client: Client, database: Database) -> None:
    row = stored(client, database, TRANSACTION, "transaction", "transactions")
    assert (row["name"], row["trace_id"], row["duration_ms"], row["status"]) == ("GET /", "t" * 32, 1500, "ok")
    assert (row["span_id"], row["parent_span_id"], row["op"]) == ("root", "caller", "http.server")
    assert (row["tags"], row["user"], row["release"]) == ({"a": "b"}, {"id": "1"}, "1.0")
    assert row["extra"]["unconverted"] == {"spans": [{"op": "no id"}]}
    first, second, third = database.rows("spans", row["batch_id"])
    assert (first["span_id"], first["start_ms"], first["duration_ms"], first["status"]) == ("s1", 250, 500, "error")
    assert (first["parent_span_id"], first["op"], first["description"]) == ("root", "db", "SELECT 1")
    assert first["extra"] == {"data": {"db.system": "postgresql"}, "unconverted": {"status": "internal_error"}}
    assert (second["span_id"], second["op"], second["duration_ms"], second["start_ms"]) == ("s2", "default", 0, None)
    assert (third["start_ms"], third["duration_ms"]) == (100, 250)
    (call,) = database.rows("ai_generations", row["batch_id"])
    assert (call["provider"], call["model"], call["latency_ms"]) == ("openai", "gpt-4o-2024", 250)
    assert (call["input_tokens"], call["cached_input_tokens"], call["output_tokens"]) == (120, 100, 30)
    assert (call["trace_id"], call["span_id"], call["environment"]) == ("t" * 32, "s3", "production")
    assert call["metadata"] == {"gen_ai.request.model": "gpt-4o", "gen_ai.request.temperature": 0.5}
    assert call["timestamp"].timestamp() == 1_700_000_000.35
    for table in TABLES:
        assert "secret" not in str(database.rows(table, row["batch_id"]))


def test_prompts_are_kept_if_the_operator_wants_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENSENTRY_KEEP_PROMPTS", "yes")
    application = create_app(database.service)
    row = stored(Client(application), database, TRANSACTION, "transaction", "transactions")
    application.close()
    (span,) = [each for each in database.rows("spans", row["batch_id"]) if each["span_id"] == "s3"]
    assert span["extra"]["data"]["gen_ai.response.text"] == "secret"


@pytest.mark.parametrize("nested", [900, 960, 980, 1000, 5000])
def test_data_nested_deep_is_stored_or_refused(client: Client, database: Database, nested: int) -> None:
    content = b'{"spans": [{"span_id": "s", "data": {"a":' + b'{"a":' * nested + b"1" + b"}" * nested + b"}}]}"
    response = send(client, database, pack({}, ({"type": "transaction"}, content)))
    assert response.status_int in (200, 400)


@pytest.mark.parametrize(
    ("spans", "calls"),
    [
        ([chat(op="gen_ai.invoke_agent")], 0),
        ([chat(op="gen_ai.execute_tool")], 0),
        ([chat(op="gen_ai.embeddings")], 1),
        ([chat(op="http.client")], 1),
        ([chat(op="http.client", data={"gen_ai.operation.name": "invoke_agent"})], 0),
        ([chat(op=None, data=None)], 0),
        ([chat(data=None)], 1),
        # An agent with two calls; and one call that two integrations saw.
        ([chat(op="gen_ai.invoke_agent", span_id="a"), chat(parent_span_id="a"), chat(parent_span_id="a")], 2),
        ([chat(span_id="a"), chat(parent_span_id="a")], 1),
        ([chat(span_id="a"), chat(parent_span_id=["a"])], 2),
    ],
)
def test_each_call_of_a_model_counts_once(client: Client, database: Database, spans: Any, calls: int) -> None:
    row = stored(client, database, {**TRANSACTION, "spans": spans}, "transaction", "transactions")
    assert len(database.rows("ai_generations", row["batch_id"])) == calls


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({}, {"name": "<unlabeled transaction>", "duration_ms": 0, "status": "ok"}),
        ({"start_timestamp": 5, "timestamp": 4}, {"duration_ms": 0}),
        ({"contexts": {"trace": {"status": "cancelled"}}}, {"status": "cancelled"}),
        ({"contexts": {"trace": {"status": "unknown"}}}, {"status": "ok"}),
        ({"contexts": {"trace": {"status": "not_found", "span_id": ["x"]}}}, {"status": "error", "span_id": None}),
        ({"spans": {"a": 1}}, {"extra": {"unconverted": {"spans": {"a": 1}}}}),
    ],
)
def test_a_transaction_keeps_what_it_has(
    client: Client, database: Database, event: dict[str, Any], expected: dict[str, Any]
) -> None:
    row = stored(client, database, event, "transaction", "transactions")
    assert {column: row[column] for column in expected} == expected


def test_a_transaction_without_a_trace_has_the_id_of_its_event(client: Client, database: Database) -> None:
    row = stored(client, database, {}, "transaction", "transactions")
    assert row["trace_id"] == row["batch_id"].hex


HELLO = json.dumps(EVENT).encode()
LENGTH = b'{"type": "event", "length": %d}\n' % len(HELLO)

# The name, the envelope after its header, and how many events of it are stored.
ENVELOPES: dict[str, tuple[bytes, int]] = {
    "with a length": (LENGTH + HELLO + b"\n", 1),
    "no final newline": (LENGTH + HELLO, 1),
    "without a length": (b'{"type": "event"}\n' + HELLO + b"\n", 1),
    "without a length or a newline": (b'{"type": "event"}\n' + HELLO, 1),
    "a length of null": (b'{"type": "event", "length": null}\n' + HELLO, 1),
    "empty lines": (b"\n\n" + LENGTH + HELLO + b"\n\n\n", 1),
    "carriage returns": (b"\r\n" + LENGTH.replace(b"\n", b"\r\n") + HELLO + b"\r\n\r\n", 1),
    "a payload with newlines": (b'{"type": "event", "length": 5}\n{\n\n\n}\n', 1),
    "two events": (LENGTH + HELLO + b"\n" + LENGTH + HELLO, 2),
    "an attachment before": (b'{"type": "attachment", "length": 9}\nab\n{"x":\n\n' + LENGTH + HELLO, 1),
    "an unknown item after": (LENGTH + HELLO + b'\n{"type": "novelty"}\nwhatever\n{}\nno type', 1),
    "an unknown item at the end": (LENGTH + HELLO + b'\n{"type": "novelty"}', 1),
    "a type that is none": (b'{"type": ["event"]}\n[]\n' + LENGTH + HELLO, 1),
    "a transaction in an event": (b'{"type": "event"}\n{"type": "transaction"}', 0),
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_is_read_however_it_is_written(client: Client, database: Database, name: str) -> None:
    items, events = ENVELOPES[name]
    event_id = new_id()
    response = send(client, database, b'{"event_id": "%s"}\n' % event_id.encode() + items)
    assert (response.status_int, response.json) == (200, {"id": event_id})
    assert len(database.rows("events", event_id)) == events


@pytest.mark.parametrize(
    "items",
    [
        b"",
        b"\n\n",
        b'{"type": "session"}\n{}',
        b'{"type": "attachment", "length": 3}\nabc',
        b'{"type": "event_of_tomorrow"}\n{}',
    ],
)
def test_an_envelope_with_nothing_to_store_is_accepted(client: Client, database: Database, items: bytes) -> None:
    event_id = new_id()
    body = b'{"event_id": "%s"}\n' % event_id.encode() + items
    response = send(client, database, body)
    assert (response.status_int, response.json) == (200, {})
    # Its id is not used up: the event of this id may come later.
    assert send(client, database, pack({"event_id": event_id}, of(EVENT))).json == {"id": event_id}
    assert len(database.rows("events", event_id)) == 1
    # An unknown key is refused all the same.
    response = client.post("/api/1/envelope/?sentry_key=wrong", body, expect_errors=True)
    assert (response.status_int, response.json) == (403, {"error": "Invalid DSN key"})


# The name, what follows a good event, the status, and the error.
LIES: dict[str, tuple[bytes, int, str]] = {
    "a length that is too long": (b'{"type": "session", "length": 10}\n{}', 400, "Invalid JSON"),
    "a length of gigabytes": (b'{"type": "attachment", "length": 99999999999}\n{}', 400, "Invalid JSON"),
    "an event that is too short": (b'{"type": "event", "length": 10}\n{}', 400, "Invalid JSON"),
    "a length that is too short": (b'{"type": "session", "length": 1}\n{}', 400, "Invalid JSON"),
    "a negative length": (b'{"type": "session", "length": -1}\n{}', 400, "Invalid JSON"),
    "a length in words": (b'{"type": "session", "length": "2"}\n{}', 400, "Invalid JSON"),
    "a header that is no JSON": (b"{\n{}", 400, "Invalid JSON"),
    "a header that is no object": (b"[]\n{}", 400, "Invalid JSON"),
    "a header that is too long": (b'{"type": "' + b"x" * 70_000 + b'"}\n{}', 400, "Invalid JSON"),
    "an event that is no JSON": (b'{"type": "event"}\n{', 400, "Invalid JSON"),
    "an event that is no object": (b'{"type": "event"}\n[]', 400, "Invalid payload"),
    "an event nested too deep": (b'{"type": "event"}\n{"a":' + b"[" * 200_000, 400, "Invalid JSON"),
    "NaN": (b'{"type": "event"}\n{"a": NaN}', 400, "Invalid JSON"),
    "an event over the limit": (b'{"type": "event"}\n"' + b" " * MIB, 413, "Payload too large"),
    "a length over the limit": (b'{"type": "event", "length": 1048577}\n', 413, "Payload too large"),
    "too many items": (b"{}\n\n" * 1000, 413, "Payload too large"),
}


@pytest.mark.parametrize("name", LIES)
def test_of_an_envelope_that_is_refused_nothing_is_stored(client: Client, database: Database, name: str) -> None:
    rest, status, error = LIES[name]
    before = database.counts()
    response = send(client, database, pack({}, of(EVENT)) + rest)
    assert (response.status_int, response.json) == (status, {"error": error})
    assert database.counts() == before


def padded(size: int) -> bytes:
    """Return an event of a number of bytes."""
    return b'{"message": "' + b"x" * (size - 15) + b'"}'


@pytest.mark.parametrize(("size", "status"), [(MIB, 200), (MIB + 1, 413)])
def test_the_limit_of_an_event(client: Client, database: Database, size: int, status: int) -> None:
    for path, body in (
        ("envelope", pack({}, ({"type": "event", "length": size}, padded(size)))),
        ("envelope", pack({}, ({"type": "event"}, padded(size)))),
        ("store", padded(size)),
    ):
        response = client.post(f"/api/1/{path}/?sentry_key={database.key}", body, expect_errors=True)
        assert response.status_int == status


def test_the_events_of_an_envelope_have_a_limit_together(client: Client, database: Database) -> None:
    item = ({"type": "event"}, padded(MIB))
    assert send(client, database, pack({}, *[item] * 6)).status_int == 200
    assert send(client, database, pack({}, *[item] * 6, of(EVENT))).status_int == 413


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 413)])
def test_the_limits_of_an_envelope_as_sent_and_unpacked(
    client: Client, database: Database, more: int, status: int
) -> None:
    for limit, encode in ((sentry.SENT_LIMIT_BYTES, bytes), (sentry.UNPACKED_LIMIT_BYTES, gzip.compress)):
        start = pack({}, of(EVENT)) + b'{"type": "attachment"}\n'
        body = encode(start + bytes(limit - len(start) + more))
        encoding = {"Content_Encoding": "gzip"} if encode is gzip.compress else {}
        assert send(client, database, body, **encoding).status_int == status


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


ENCODINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("GZIP", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("br", brotli.compress),
    ("zstd", streams.zstd.compress),
    ("zstd", lambda data: streams.zstd.compress(data[:9]) + streams.zstd.compress(data[9:])),
    ("identity", bytes),
]


@pytest.mark.parametrize("number", range(len(ENCODINGS)))
@pytest.mark.parametrize("size", [0, 200_000])
def test_each_encoding_is_unpacked(client: Client, database: Database, number: int, size: int) -> None:
    encoding, encode = ENCODINGS[number]
    event_id = new_id()
    body = pack({"event_id": event_id}, ({"type": "attachment", "length": size}, bytes(size)), of(EVENT))
    assert send(client, database, encode(body), Content_Encoding=encoding).json == {"id": event_id}
    assert len(database.rows("events", event_id)) == 1


@pytest.mark.parametrize("number", range(len(ENCODINGS) - 1))
def test_a_compressed_body_that_is_broken_is_refused(client: Client, database: Database, number: int) -> None:
    encoding, encode = ENCODINGS[number]
    packed = encode(pack({}, of(EVENT)))
    before = database.counts()
    for body in (packed[:-1], packed[:10], packed + b"more", b"", b"\xff" * 100):
        response = send(client, database, body, Content_Encoding=encoding)
        assert (response.status_int, response.json) == (400, {"error": "Invalid JSON"})
    assert database.counts() == before


def test_an_encoding_of_an_extra_that_is_not_installed_is_named_as_unsupported(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported() -> str:
        response = send(client, database, b"", Content_Encoding="br, gzip")
        assert (response.status_int, response.json) == (415, {"error": "Unsupported content encoding"})
        return str(response.headers["Accept-Encoding"])

    assert supported() == "gzip, deflate, br, zstd"
    monkeypatch.setattr(streams, "brotli", None)
    monkeypatch.setattr(streams, "zstd", None)
    assert supported() == "gzip, deflate"
    assert send(client, database, brotli.compress(b"{}"), Content_Encoding="br").status_int == 415


@pytest.mark.parametrize("encode", [gzip.compress, zlib.compress, raw_deflate, brotli.compress, streams.zstd.compress])
def test_a_bomb_is_unpacked_in_small_pieces(encode: Callable[[bytes], bytes]) -> None:
    encoding = next(name for name, each in ENCODINGS if each is encode)
    body = encode(bytes(20 * MIB))
    environ = {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)), "HTTP_CONTENT_ENCODING": encoding}
    sizes = [len(piece) for piece in streams.unpacked(environ, MIB, 20 * MIB)]
    assert sum(sizes) == 20 * MIB
    assert max(sizes) <= 131_072


def test_many_empty_members_are_refused() -> None:
    body = gzip.compress(b"") * 1001
    environ = {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)), "HTTP_CONTENT_ENCODING": "gzip"}
    with pytest.raises(RequestError):
        list(streams.unpacked(environ, MIB, MIB))


def test_a_body_that_ends_early_is_refused(app: Application, database: Database) -> None:
    body = pack({}, of(EVENT))
    environ = {
        "PATH_INFO": "/api/1/envelope/",
        "QUERY_STRING": f"sentry_key={database.key}",
        "CONTENT_LENGTH": str(len(body) + 1),
        "wsgi.input": io.BytesIO(body),
    }
    with pytest.raises(RequestError):
        sentry.read(environ, "")


@pytest.mark.parametrize("path", ["/api/1/envelope/", "/api/1/envelope", "/api/any-thing/envelope/"])
def test_the_paths_of_envelopes(client: Client, database: Database, path: str) -> None:
    assert client.post(f"{path}?sentry_key={database.key}", pack({}, of(EVENT))).status_int == 200


@pytest.mark.parametrize("path", ["/api/1/store/", "/api/1/store"])
def test_a_single_event_is_stored(client: Client, database: Database, path: str) -> None:
    event_id = new_id()
    body = json.dumps({**EVENT, "event_id": event_id}).encode()
    headers = {"X-Sentry-Auth": f"Sentry sentry_version=7, sentry_key={database.key}"}
    for _ in range(2):
        assert client.post(path, body, headers=headers).json == {"id": event_id}
    assert len(database.rows("events", event_id)) == 1
    assert client.post(path, body, expect_errors=True).json == {"error": "Missing auth key"}


def test_a_single_event_in_base64_is_stored(client: Client, database: Database) -> None:
    path = f"/api/1/store/?sentry_key={database.key}"
    event_id = new_id()
    packed = zlib.compress(json.dumps({**EVENT, "event_id": event_id}).encode())
    for body in (base64.b64encode(packed), base64.encodebytes(packed)):
        assert client.post(path, body).json == {"id": event_id}
    assert len(database.rows("events", event_id)) == 1
    assert client.post(path, base64.b64encode(zlib.compress(padded(MIB)))).status_int == 200
    stored_before = database.counts()
    for body, status in [
        (zlib.compress(padded(MIB + 1)), 413),
        (zlib.compress(bytes(100 * MIB)), 413),
        (zlib.compress(b"[]"), 400),
        (packed[:-1], 400),
        (packed + b"x", 400),
        (b"\x78\x9c" + bytes(9), 400),
    ]:
        assert client.post(path, base64.b64encode(body), expect_errors=True).status_int == status
    assert client.post(path, b"e" + b"{}", expect_errors=True).json == {"error": "Invalid JSON"}
    assert database.counts() == stored_before


@pytest.mark.parametrize(
    "path",
    [
        "/api/envelope/",
        "/api/1/2/envelope/",
        "/api/1/minidump/",
        "/api/../envelope/",
        "/api/./store/",
        "/api//envelope/",
        "/api/1",
    ],
)
def test_other_paths_are_not_found(client: Client, path: str) -> None:
    assert client.post(path, b"{}", expect_errors=True).status_int == 404


def test_other_methods_are_not_allowed(client: Client) -> None:
    response = client.get("/api/1/envelope/", expect_errors=True)
    assert (response.status_int, response.headers["Allow"]) == (405, "POST, OPTIONS")


def test_the_preflight_allows_the_headers_of_the_sdks(client: Client) -> None:
    response = client.options("/api/1/envelope/", headers={"Origin": "https://app.example.com"})
    assert response.status_int == 204
    allowed = response.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"sentry-trace", "baggage", "x-sentry-auth", "content-type", "content-encoding"} <= set(allowed)


# The ways of giving a key, the first of which counts.
KEYS: list[Callable[[str], tuple[dict[str, str], str, str]]] = [
    lambda key: ({"X-Open-Sentry-Key": key}, "", ""),
    lambda key: ({}, f"key={key}", ""),
    lambda key: ({"X-Sentry-Auth": f"Sentry sentry_version=7,sentry_key={key},sentry_client=a/1"}, "", ""),
    lambda key: ({"Authorization": f"sentry sentry_key={key}, sentry_secret=x"}, "", ""),
    lambda key: ({}, f"sentry_version=7&sentry_key={key}", ""),
    lambda key: ({}, "", f"https://{key}:secret@ingest.example.com/1"),
]


@pytest.mark.parametrize("right", range(len(KEYS)))
def test_the_key_is_found_and_the_first_counts(client: Client, database: Database, right: int) -> None:
    headers: dict[str, str] = {}
    queries = []
    dsn = ""
    for number in range(right, len(KEYS)):
        more, query, dsn = KEYS[number](database.key if number == right else "wrong")
        headers.update(more)
        queries.append(query)
    path = "/api/1/envelope/?" + "&".join(filter(None, queries))
    body = pack({"dsn": dsn} if dsn else {}, of(EVENT))
    assert client.post(path, body, headers=headers).status_int == 200


@pytest.mark.parametrize("dsn", [None, 1, "", "https://host/1", "https://[", "nonsense"])
def test_without_a_key_it_is_missing(client: Client, database: Database, dsn: Any) -> None:
    before = database.counts()
    headers = {"X-Sentry-Auth": "Sentry sentry_version=7", "Authorization": "Bearer sentry_key=x"}
    response = client.post("/api/1/envelope/", pack({"dsn": dsn}, of(EVENT)), headers=headers, expect_errors=True)
    assert (response.status_int, response.json) == (401, {"error": "Missing auth key"})
    assert database.counts() == before


def test_an_event_that_is_sent_twice_is_stored_once(client: Client, database: Database) -> None:
    event_id = new_id()
    for _ in range(2):
        response = send(client, database, pack({"event_id": event_id}, of(EVENT)))
        assert response.json == {"id": event_id}
    assert len(database.rows("events", event_id)) == 1


@pytest.mark.parametrize("event_id", [None, 5, "", "x" * 32, "0" * 32, "a" * 31, {"a": 1}])
def test_an_event_without_a_good_id_gets_one(client: Client, database: Database, event_id: Any) -> None:
    seen = set()
    for _ in range(2):
        answer = send(client, database, pack({"event_id": event_id}, of({**EVENT, "event_id": event_id}))).json
        assert len(database.rows("events", answer["id"])) == 1
        seen.add(answer["id"])
    assert len(seen) == 2


def test_the_id_may_be_in_the_event_or_have_dashes(client: Client, database: Database) -> None:
    event_id = uuid.uuid4()
    body = pack({"event_id": str(event_id).upper()}, of(EVENT))
    assert send(client, database, body).json == {"id": event_id.hex}
    assert send(client, database, pack({}, of({"event_id": event_id.hex}))).json == {"id": event_id.hex}
    assert len(database.rows("events", event_id.hex)) == 1


def test_a_lost_database_is_503_and_the_event_can_be_sent_again(database: Database, proxy: Proxy) -> None:
    application = create_app(proxy.conninfo)
    client = Client(application)
    event_id = new_id()
    body = pack({"event_id": event_id}, of(EVENT))
    proxy.stop()
    response = send(client, database, body)
    assert (response.status_int, response.json) == (503, {"error": "Service unavailable"})
    assert int(response.headers["Retry-After"]) > 0
    proxy.start()
    assert send(client, database, body).json == {"id": event_id}
    assert len(database.rows("events", event_id)) == 1
    application.close()


# Hypothesis. Any JSON in any member, and any bytes between the lines of an envelope.

ANY: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["error", "ok", "gen_ai.chat", "2026-05-30T12:00:00Z", "0001-01-01T00:00:00+14:00", 1e15]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def mostly(shape: Any) -> Any:
    """Return a strategy that draws the right shape, and sometimes anything."""
    return shape | ANY


def objects(*names: str, **shapes: Any) -> Any:
    return mostly(st.fixed_dictionaries({}, optional={**dict.fromkeys(names, ANY), **shapes}))


FRAME = objects(
    *("filename", "function", "module", "abs_path", "lineno", "colno", "in_app", "context_line", "absPath", "inApp"),
    pre_context=mostly(st.lists(ANY, max_size=2)),
)
STACK = objects("registers", frames=mostly(st.lists(FRAME, max_size=3)))
EXCEPTION = objects("type", "value", "module", "mechanism", "unconverted", stacktrace=STACK)
THREADS = objects(values=st.lists(objects("id", "current", "crashed", stacktrace=STACK), max_size=2))
CONTEXTS = objects(
    trace=objects("trace_id", "span_id", "parent_span_id", "op", "status", data=objects("gen_ai.operation.name"))
)
SPAN = objects(
    *("span_id", "parent_span_id", "trace_id", "op", "description", "status", "start_timestamp", "timestamp", "spanId"),
    data=objects(
        *("gen_ai.operation.name", "gen_ai.system", "gen_ai.request.model", "gen_ai.usage.input_tokens", "error.type"),
        *("gen_ai.response.time_to_first_chunk", "gen_ai.usage.total_cost", "gen_ai.conversation.id"),
    ),
)
SENTRY_EVENT = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ["type", "event_id", "timestamp", "start_timestamp", "level", "message", "logentry", "tags", "user"], ANY
        ),
        **dict.fromkeys(["environment", "release", "fingerprint", "transaction", "traceId", "causes", "extra"], ANY),
        "exception": mostly(st.lists(EXCEPTION, max_size=3)) | objects(values=mostly(st.lists(EXCEPTION, max_size=3))),
        "breadcrumbs": mostly(st.lists(objects("category", "timestamp", "level", "data"), max_size=2)),
        "threads": THREADS,
        "stacktrace": STACK,
        "contexts": CONTEXTS,
        "spans": mostly(st.lists(SPAN, max_size=3)),
    },
)
# In CI the same inputs every time.
many = settings(
    max_examples=150,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def plain(app: Application) -> Client:
    return Client(app)


@many
@given(event=SENTRY_EVENT, kind=st.sampled_from(["event", "transaction"]))
@example(event={"spans": [{"span_id": "a", "op": "gen_ai.chat", "parent_span_id": []}]}, kind="transaction")
@example(event={"contexts": {"trace": {"span_id": [], "op": "gen_ai.chat"}}}, kind="transaction")
def test_any_event_is_stored(plain: Client, database: Database, event: Any, kind: str) -> None:
    event_id = new_id()
    response = send(plain, database, pack({"event_id": event_id}, of(event, kind)))
    assert (response.status_int, response.json) == (200, {"id": event_id})
    rows = {table: len(database.rows(table, event_id)) for table in TABLES}
    transaction = kind == "transaction" or event.get("type") == "transaction"
    assert (rows["events"], rows["transactions"]) == ((0, 1) if transaction else (1, 0))


@many
@given(event=SENTRY_EVENT, kind=st.sampled_from(["event", "transaction"]))
def test_no_text_of_an_event_is_lost(event: Any, kind: str) -> None:
    received = sentry._Received("", None, [(kind, json.dumps(event).encode())], Counter(), 0)
    # With prompts, because a text where a number belongs may quote one, and is dropped without them.
    _, items, text = sentry._items(received, str(uuid.uuid4()), True)
    payload.validate(items)
    assert json.loads(text) == items
    # These may be written in another way, or say what the item says by its type.
    assert texts(event) - {"error", "ok", "2026-05-30T12:00:00Z", "0001-01-01T00:00:00+14:00"} <= texts(
        items, names=True
    )


def texts(value: Any, names: bool = False) -> set[str]:
    """Return the strings of a JSON value, also the names of members if asked: some tags come as pairs."""
    if isinstance(value, str):
        return {value.replace("\0", "\ufffd")}
    inner: list[Any] = [*value, *value.values()] if isinstance(value, dict) and names else []
    inner = inner or (list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [])
    return set().union(*(texts(each, names) for each in inner))


PIECES = st.sampled_from(
    [
        b"\n",
        b"\r\n",
        b"{}",
        b'{"type": "event"}',
        b'{"type": "event", "length": 2}',
        HELLO,
        LENGTH,
        b'{"type": "x"}',
        b"{",
    ]
)


@many
@given(parts=st.lists(PIECES | st.binary(max_size=10), max_size=8), size=st.integers(1, 40))
def test_any_envelope_is_stored_whole_or_not_at_all(
    plain: Client, database: Database, parts: list[bytes], size: int
) -> None:
    event_id = new_id()
    body = b'{"event_id": "%s"}\n' % event_id.encode() + b"".join(parts)
    response = send(plain, database, body)
    rows = len(database.rows("events", event_id))
    assert response.status_int == 200 or (response.status_int == 400 and rows == 0)
    assert bool(rows) == (response.json == {"id": event_id})

    # However it arrives, it is read in the same way.
    def items_of(step: int) -> Any:
        try:
            pieces = (body[start : start + step] for start in range(0, len(body), step))
            return list(envelope.Envelope(pieces).items(sentry.STORED))
        except RequestError as error:
            return str(error)

    assert items_of(size) == items_of(len(body))
