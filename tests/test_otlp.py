"""OTLP: what an exporter sends is stored once and whole, what cannot be stored is counted, and no prompt is stored."""

import base64
import gzip
import json
import re
import secrets
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from webtest import TestApp as Client
from webtest import TestResponse

from opensentry_ingest import Application, create_app, errors
from opensentry_ingest.protocols import gen_ai, otlp, otlp_formats, otlp_spans, traces
from tests import support
from tests.support import TABLES, Database, Proxy

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
CANARY = "canary-4711"
FORMATS = ["json", "protobuf"]


def value(plain: Any) -> dict[str, Any]:
    """Return an AnyValue in JSON."""
    if isinstance(plain, bool):
        return {"boolValue": plain}
    if isinstance(plain, int):
        return {"intValue": str(plain)}
    if isinstance(plain, float):
        return {"doubleValue": plain}
    if isinstance(plain, list):
        return {"arrayValue": {"values": [value(each) for each in plain]}}
    if isinstance(plain, dict):
        return {"kvlistValue": {"values": attributes(plain)}}
    return {"stringValue": plain}


def attributes(plain: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": value(each)} for name, each in plain.items()]


def new_trace() -> str:
    return secrets.token_hex(16)


def span(trace: str, number: int, parent: int = 0, **members: Any) -> dict[str, Any]:
    """Return a span of a second in JSON; `attributes` are given as a map."""
    whole: dict[str, Any] = {
        "traceId": trace,
        "spanId": f"{number:016x}",
        "name": f"span {number}",
        "kind": 1,
        "startTimeUnixNano": str(START + number * SECOND),
        "endTimeUnixNano": str(START + (number + 1) * SECOND),
        **members,
    }
    if parent:
        whole["parentSpanId"] = f"{parent:016x}"
    whole["attributes"] = attributes(whole.get("attributes", {}))
    return whole


def event(name: str, number: int = 0, **plain: Any) -> dict[str, Any]:
    named = {key.replace("_", "."): each for key, each in plain.items()}
    return {"name": name, "timeUnixNano": str(START + number), "attributes": attributes(named)}


RESOURCE = {"service.name": "shop", "service.version": "1.2", "deployment.environment.name": "production"}


def request(*spans: Any, resource: dict[str, Any] | None = None) -> dict[str, Any]:
    group = {
        "resource": {"attributes": attributes(RESOURCE if resource is None else resource)},
        "scopeSpans": [{"scope": {"name": "my.library", "version": "3"}, "spans": list(spans)}],
    }
    return {"resourceSpans": [group]}


def packed(message: Any, how: str) -> tuple[bytes, str]:
    """Return a request in a format, and its media type."""
    if how == "json":
        return json.dumps(message).encode(), "application/json"

    def base64_ids(part: Any) -> Any:
        # In the general JSON of protobuf, which the parser here reads, ids are in base64.
        if isinstance(part, dict):
            ids = {name: part[name] for name in ("traceId", "spanId", "parentSpanId") if name in part}
            encoded = {name: base64.b64encode(bytes.fromhex(text)).decode() for name, text in ids.items()}
            return {**{name: base64_ids(each) for name, each in part.items()}, **encoded}
        return [base64_ids(each) for each in part] if isinstance(part, list) else part

    whole = ParseDict(base64_ids(message), ExportTraceServiceRequest())
    return whole.SerializeToString(), "application/x-protobuf"


def send(client: Client, database: Database, body: bytes, content_type: str, **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): each for name, each in headers.items()}
    return client.post(
        "/v1/traces",
        body,
        headers={"X-Open-Sentry-Key": database.key, "Content-Type": content_type, **named},
        expect_errors=True,
    )


def partial(response: TestResponse) -> tuple[int, str]:
    """Return the partial success of an answer, in either format."""
    assert response.status_int == 200
    if response.content_type == "application/json":
        found = response.json.get("partialSuccess", {})
        assert response.json == ({"partialSuccess": found} if found else {})
        return int(found.get("rejectedSpans", 0)), found.get("errorMessage", "")
    answer = ExportTraceServiceResponse.FromString(response.body)
    return answer.partial_success.rejected_spans, answer.partial_success.error_message


def of_trace(database: Database, table: str, trace: str) -> list[dict[str, Any]]:
    """Return the rows of a trace in one table, in their order."""
    if table == "spans":
        return database.fetch(
            "SELECT s.* FROM opensentry.spans AS s JOIN opensentry.transactions AS t "
            "USING (project_id, batch_id, position, received_at) "
            "WHERE t.trace_id = %s ORDER BY s.batch_id, position, span_index",
            trace,
        )
    return database.fetch(f"SELECT * FROM opensentry.{table} WHERE trace_id = %s ORDER BY batch_id, position", trace)


def store(client: Client, database: Database, *spans: Any, how: str = "json", **keywords: Any) -> None:
    assert partial(send(client, database, *packed(request(*spans, **keywords), how))) == (0, "")


@pytest.fixture(scope="module")
def plain(app: Application) -> Client:
    """The app with the validator that is installed, where the verdict of each is not the point."""
    return Client(app)


@pytest.mark.parametrize("how", FORMATS)
def test_spans_are_stored_as_a_transaction_with_its_spans(client: Client, database: Database, how: str) -> None:
    trace = new_trace()
    link = {"traceId": new_trace(), "spanId": "c" * 16, "attributes": attributes({"why": "retry"})}
    top = span(trace, 1, 9, name="GET /cart", kind=2, attributes={"http.response.status_code": 200}, links=[link])
    below = span(
        trace,
        2,
        1,
        kind=3,
        status={"code": 2, "message": "refused"},
        attributes={"a": 1.5, "b": [True, "x"], "c": {"d": -(2**63)}},
        events=[event("cache miss", 5, key="k")],
        traceState="a=b",
    )
    lowest = span(trace, 3, 2, status={"code": 1})
    store(client, database, lowest, below, top, how=how)
    (row,) = of_trace(database, "transactions", trace)
    assert (row["name"], row["span_id"], row["parent_span_id"]) == ("GET /cart", f"{1:016x}", f"{9:016x}")
    assert (row["op"], row["status"], row["duration_ms"]) == ("server", "ok", 1000)
    assert (row["environment"], row["release"], row["tags"]) == ("production", "1.2", {"service.name": "shop"})
    assert row["timestamp"].timestamp() == START / SECOND + 2
    assert row["extra"] == {
        "attributes": {"http.response.status_code": 200},
        "links": [{"traceId": link["traceId"], "spanId": "c" * 16, "attributes": {"why": "retry"}}],
        "resource": RESOURCE,
        "scope": "my.library",
    }
    third, second = of_trace(database, "spans", trace)
    assert (second["span_id"], second["parent_span_id"]) == (f"{2:016x}", f"{1:016x}")
    assert (second["op"], second["description"], second["status"]) == ("client", "span 2", "error")
    assert (second["start_ms"], second["duration_ms"]) == (1000, 1000)
    assert second["extra"] == {
        "attributes": {"a": 1.5, "b": [True, "x"], "c": {"d": -(2**63)}},
        "events": [{"name": "cache miss", "timestamp": "2023-11-14T22:13:20+00:00", "attributes": {"key": "k"}}],
        "statusMessage": "refused",
        "traceState": "a=b",
        "scope": "my.library",
    }
    assert (third["parent_span_id"], third["start_ms"], third["status"]) == (f"{2:016x}", 2000, "ok")


def test_each_span_whose_parent_is_elsewhere_is_a_transaction(client: Client, database: Database) -> None:
    trace, other = new_trace(), new_trace()
    store(client, database, span(trace, 1), span(trace, 2, 1), span(trace, 3, 7), span(other, 4, 1), span(trace, 5, 3))
    assert [row["span_id"][-1] for row in of_trace(database, "transactions", trace)] == ["1", "3"]
    assert [row["span_id"][-1] for row in of_trace(database, "spans", trace)] == ["2", "5"]
    assert [row["span_id"][-1] for row in of_trace(database, "transactions", other)] == ["4"]
    # What comes later has the same trace.
    store(client, database, span(trace, 6, 2))
    assert [row["span_id"][-1] for row in of_trace(database, "transactions", trace)] == ["1", "3", "6"]


# Spans by number and parent, and those that become transactions.
TREES: dict[str, tuple[list[tuple[int, int]], list[int]]] = {
    "its own parent": ([(1, 1)], [1]),
    "two that are each other's parents": ([(1, 2), (2, 1)], [1]),
    "a cycle with a tail": ([(4, 3), (1, 3), (2, 1), (3, 2)], [3]),
    "one id twice": ([(1, 0), (1, 0), (2, 1)], [1, 1]),
    "one id twice, below itself": ([(1, 0), (1, 1)], [1]),
    "a long chain, from below": ([(number, number - 1) for number in range(3000, 0, -1)], [1]),
}


@pytest.mark.parametrize("name", TREES)
def test_no_span_is_lost_whatever_its_parent_is(plain: Client, database: Database, name: str) -> None:
    tree, expected = TREES[name]
    trace = new_trace()
    store(plain, database, *(span(trace, number, parent) for number, parent in tree))
    transactions = of_trace(database, "transactions", trace)
    assert [int(row["span_id"], 16) for row in transactions] == expected
    assert len(transactions) + len(of_trace(database, "spans", trace)) == len(tree)


INVALID_IDS = [
    {"traceId": "0" * 32},
    {"spanId": "0" * 16},
    {"traceId": "ab"},
    {"spanId": "ab" * 9},
    {"traceId": ""},
    {"spanId": ""},
]


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("ids", INVALID_IDS)
def test_a_span_without_valid_ids_is_counted_and_the_others_are_stored(
    plain: Client, database: Database, ids: dict[str, str], how: str
) -> None:
    trace = new_trace()
    body = packed(request({**span(trace, 1), **ids}, span(trace, 2)), how)
    for _ in range(2):  # The same for a retry.
        response = send(plain, database, *body)
        assert partial(response) == (1, "spans without a valid traceId and spanId: 1")
    assert [row["span_id"] for row in of_trace(database, "transactions", trace)] == [f"{2:016x}"]


# The members of a span, and columns of the transaction that it becomes.
SPANS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "upper-case ids": (
        {"spanId": "AB" * 8, "parentSpanId": "CD" * 8},
        {"span_id": "ab" * 8, "parent_span_id": "cd" * 8},
    ),
    "a parent that is none": ({"parentSpanId": "xyz"}, {"parent_span_id": None}),
    "a parent of zeros": ({"parentSpanId": "0" * 16}, {"parent_span_id": None}),
    "numbers for times": ({"startTimeUnixNano": START, "endTimeUnixNano": START + SECOND}, {"duration_ms": 1000}),
    "times in reverse": (
        {"startTimeUnixNano": str(START + 2 * SECOND), "endTimeUnixNano": str(START)},
        {"duration_ms": 0},
    ),
    "no times": ({"startTimeUnixNano": "0", "endTimeUnixNano": 0}, {"duration_ms": 0}),
    "the last moment": ({"endTimeUnixNano": str(2**64 - 1)}, {"duration_ms": (2**64 - START) // 10**6 - 999}),
    "more than 64 bits": ({"endTimeUnixNano": str(2**64)}, {"duration_ms": 0}),
    "many digits": ({"endTimeUnixNano": "9" * 5000}, {"duration_ms": 0}),
    "a negative time": ({"startTimeUnixNano": "-1"}, {"duration_ms": 0}),
    "an unknown kind": ({"kind": 77}, {"op": "unspecified"}),
    "a negative kind": ({"kind": -1}, {"op": "unspecified"}),
    "a name for a kind": ({"kind": "SPAN_KIND_SERVER"}, {"op": "unspecified"}),
    "null everywhere": (
        dict.fromkeys(["name", "kind", "events", "links", "status", "parentSpanId", "traceState"]),
        {"name": "", "status": "ok", "extra": {"scope": "my.library", "resource": RESOURCE}},
    ),
    "wrong types": (
        {"name": 5, "kind": [], "events": {"a": 1}, "links": [1], "status": "ok", "unknown": {"a": []}},
        {"name": "", "extra": {"scope": "my.library", "resource": RESOURCE}},
    ),
    "characters that PostgreSQL cannot hold": ({"name": "a\0b\ud800"}, {"name": "a\ufffdb\ufffd"}),
}


@pytest.mark.parametrize("name", SPANS)
def test_a_span_keeps_what_it_has(client: Client, database: Database, name: str) -> None:
    members, expected = SPANS[name]
    trace = new_trace()
    store(client, database, {**span(trace, 1), **members})
    (row,) = of_trace(database, "transactions", trace)
    assert {column: row[column] for column in expected} == expected


# The value of an attribute in JSON, and what is kept; None stands for nothing.
VALUES: list[tuple[Any, Any]] = [
    ({"intValue": 5}, 5),
    ({"intValue": str(2**63)}, None),
    ({"intValue": "9" * 5000}, None),
    ({"intValue": "one"}, None),
    ({"intValue": 1.5}, None),
    ({"doubleValue": "NaN"}, "NaN"),
    ({"doubleValue": "-Infinity"}, "-Infinity"),
    ({"doubleValue": 1e20}, 10**20),
    ({"bytesValue": "AP8="}, "AP8="),
    ({"boolValue": "true"}, None),
    ({"stringValue": None}, None),
    ({"stringValue": "\0"}, "\ufffd"),
    ({"arrayValue": {}}, []),
    ({"arrayValue": {"values": [{}, 1, {"stringValue": "x"}]}}, [None, "x"]),
    ({"kvlistValue": {"values": [{"key": "a"}, {"key": "b", "value": {"intValue": "1"}}]}}, {"b": 1}),
    ({"novelValue": 1}, None),
    ({}, None),
    ("text", None),
    (None, None),
]


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_each_kind_of_value_is_kept(plain: Client, database: Database, number: int) -> None:
    sent, kept = VALUES[number]
    trace = new_trace()
    store(plain, database, {**span(trace, 1), "attributes": [{"key": "x", "value": sent}]})
    (row,) = of_trace(database, "transactions", trace)
    assert row["extra"].get("attributes") == (None if kept is None else {"x": kept})


def test_values_in_protobuf_are_kept_too(plain: Client, database: Database) -> None:
    trace = new_trace()
    message = ExportTraceServiceRequest()
    sent = message.resource_spans.add().scope_spans.add().spans.add()
    sent.trace_id, sent.span_id, sent.kind = bytes.fromhex(trace), b"\x01" * 8, -1
    for number, each in enumerate((float("nan"), float("inf"), -0.5)):
        sent.attributes.add(key=f"d{number}").value.double_value = each
    sent.attributes.add(key="bytes").value.bytes_value = b"\0\xff"
    sent.attributes.add(key="nul").value.string_value = "\0"
    sent.attributes.add(key="none")
    deep = sent.attributes.add(key="deep").value
    for _ in range(30):
        deep = deep.kvlist_value.values.add(key="k").value
    assert partial(send(plain, database, message.SerializeToString(), "application/x-protobuf")) == (0, "")
    (row,) = of_trace(database, "transactions", trace)
    kept = row["extra"]["attributes"]
    assert kept.pop("deep")
    assert kept == {"d0": "NaN", "d1": "Infinity", "d2": -0.5, "bytes": "AP8=", "nul": "\ufffd"}
    assert (row["timestamp"], row["op"]) == (row["received_at"], "unspecified")


def test_values_nested_deep_are_cut_or_refused_but_never_an_error_of_ours(plain: Client, database: Database) -> None:
    for depth, statuses in ((100, [200]), (100_000, [400])):
        nested = '{"arrayValue":{"values":[' * depth + "{}" + "]}}" * depth
        body = json.dumps(request(span(new_trace(), 1, attributes={"x": "HERE"})))
        body = body.replace('{"stringValue": "HERE"}', nested)
        assert send(plain, database, body.encode(), "application/json").status_int in statuses


def test_thousands_of_attributes_events_and_links(plain: Client, database: Database) -> None:
    trace = new_trace()
    many = {f"a{number}": number for number in range(5000)}
    store(plain, database, span(trace, 1, attributes=many, events=[event("e")] * 200, links=[{}] * 200))
    (row,) = of_trace(database, "transactions", trace)
    assert row["extra"]["attributes"] == many
    assert len(row["extra"]["events"]) == otlp_formats.MAX_LISTED


def test_the_spans_and_the_errors_of_a_request_have_a_limit(
    plain: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "MAX_SPANS", 3)
    monkeypatch.setattr(otlp_spans, "MAX_ERRORS", 2)
    trace = new_trace()
    spans = [span(trace, number, events=[event("exception", exception_type="E")]) for number in range(1, 6)]
    rejected, message = partial(send(plain, database, *packed(request(*spans), "protobuf")))
    assert rejected == 2
    assert "spans after the first" in message
    assert "exceptions after the first" in message
    rows = of_trace(database, "transactions", trace)
    assert [("events" in row["extra"]) for row in rows] == [False, False, True]
    assert len(of_trace(database, "events", trace)) == 2


def test_a_resource_is_repeated_only_as_far_as_it_is_short(plain: Client, database: Database) -> None:
    trace = new_trace()
    resource = {"host.name": "h", "long": "y" * 100_000, "after": 1, "rest": "z" * 1_900, "service.name": "x" * 300}
    store(plain, database, span(trace, 1), span(trace, 2, 1), resource=resource)
    (row,) = of_trace(database, "transactions", trace)
    assert row["extra"]["resource"] == {"service.name": "x" * 300, "host.name": "h", "after": 1}
    assert row["tags"] is None


@pytest.mark.parametrize("how", FORMATS)
def test_an_exception_event_is_stored_as_an_error(client: Client, database: Database, how: str) -> None:
    trace = new_trace()
    raised = event(
        "exception", 7_000, exception_type="ValueError", exception_message="bad", exception_stacktrace="Trace\nback"
    )
    store(client, database, span(trace, 1, events=[raised, event("other"), event("exception")]), how=how)
    first, second = of_trace(database, "events", trace)
    assert (first["exception_type"], first["exception_value"], first["level"]) == ("ValueError", "bad", "error")
    assert first["extra"] == {"exception": {"stacktrace": {"text": "Trace\nback"}}}
    assert (first["trace_id"], first["span_id"]) == (trace, f"{1:016x}")
    assert (first["environment"], first["release"], first["tags"]) == ("production", "1.2", {"service.name": "shop"})
    assert first["timestamp"].microsecond == 7
    assert (second["exception_type"], second["exception_value"], second["extra"]) == (None, None, None)
    (row,) = of_trace(database, "transactions", trace)
    assert [each["name"] for each in row["extra"]["events"]] == ["other"]


def test_an_exception_that_leaves_several_spans_is_one_error(plain: Client, database: Database) -> None:
    trace = new_trace()
    same = [event("exception", exception_type="E", exception_message="bad")]
    another = [event("exception", exception_type="E", exception_message="worse")]
    store(
        plain,
        database,
        span(trace, 1, events=another),
        span(trace, 2, 1, events=same),
        span(trace, 3, 2, events=same),
        span(trace, 4, 1, events=same),
    )
    assert [row["span_id"][-1] for row in of_trace(database, "events", trace)] == ["1", "3", "4"]


CHAT: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-5",
    "gen_ai.response.model": "gpt-5-2026",
    "gen_ai.usage.input_tokens": 120,
    "gen_ai.usage.output_tokens": 30,
    "gen_ai.usage.cache_read.input_tokens": 100,
    "gen_ai.usage.cache_creation.input_tokens": 7,
    "gen_ai.response.time_to_first_chunk": 0.25,
    "gen_ai.request.temperature": 0.5,
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.response.id": "r1",
    "gen_ai.conversation.id": "c1",
}


@pytest.mark.parametrize("how", FORMATS)
def test_a_call_of_a_model_is_an_ai_generation_and_a_span(client: Client, database: Database, how: str) -> None:
    trace = new_trace()
    store(client, database, span(trace, 1), span(trace, 2, 1, attributes=CHAT), how=how)
    (row,) = of_trace(database, "ai_generations", trace)
    assert (row["provider"], row["model"], row["status"]) == ("openai", "gpt-5-2026", "ok")
    tokens = ("input_tokens", "output_tokens", "total_tokens", "cached_input_tokens", "cache_write_tokens")
    assert [row[name] for name in tokens] == [120, 30, 150, 100, 7]
    assert (row["latency_ms"], row["time_to_first_token_ms"]) == (1000, 250)
    assert (row["span_id"], row["environment"], row["release"]) == (f"{2:016x}", "production", "1.2")
    assert row["timestamp"].timestamp() == START / SECOND + 3
    assert row["tags"] == {"service.name": "shop", "gen_ai.conversation.id": "c1", "gen_ai.operation.name": "chat"}
    assert row["metadata"] == {
        "gen_ai.request.model": "gpt-5",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.id": "r1",
    }
    assert [each["span_id"] for each in of_trace(database, "spans", trace)] == [f"{2:016x}"]


# The contract, where the order counts: a member, its column, and the attributes that say it.
SAYS: dict[str, list[str]] = {
    "provider": ["gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"],
    "model": ["gen_ai.response.model", "gen_ai.request.model", "llm.model_name"],
    "input_tokens": ["gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"],
    "output_tokens": [
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
    ],
    "cached_input_tokens": [
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read",
    ],
    "cache_write_tokens": [
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ],
}


@pytest.mark.parametrize("column", SAYS)
def test_of_the_attributes_that_say_one_thing_the_first_that_is_there_counts(
    plain: Client, database: Database, column: str
) -> None:
    names = SAYS[column]
    values: list[Any] = [number if column.endswith("tokens") else f"v{number}" for number in range(1, len(names) + 1)]
    trace = new_trace()
    spans = []
    for place in range(len(names)):
        # In reverse, because it is not the order in the request that counts.
        said = dict(reversed([*zip(names, values, strict=True)][place:]))
        spans.append(span(trace, place + 1, attributes={"gen_ai.operation.name": "chat", **said}))
    store(plain, database, *spans)
    found = {row["span_id"]: row[column] for row in of_trace(database, "ai_generations", trace)}
    assert [found[f"{place:016x}"] for place in range(1, len(names) + 1)] == values


def test_the_documentation_has_the_table_of_the_code() -> None:
    page = (support.ROOT / "docs/opentelemetry.md").read_text("utf-8")
    table = {
        member: re.findall("`([a-z_]+[.][a-z_.]+)`", rest)
        for member, rest in re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.M)
    }
    tables = {**gen_ai._TEXTS, **gen_ai._COUNTS, **gen_ai._COSTS, "tags": gen_ai._TAGS}
    assert {member: table[member] for member in tables} == {member: [*names] for member, names in tables.items()}
    assert table["metadata"] == [*gen_ai._METADATA]


OPENINFERENCE = {
    "openinference.span.kind": "LLM",
    "llm.provider": "anthropic",
    "llm.model_name": "claude",
    "llm.token_count.prompt": 5,
    "llm.token_count.completion": 2,
    "llm.token_count.prompt_details.cache_read": 3,
    "llm.token_count.prompt_details.cache_write": 1,
}
OPENLLMETRY = {
    "llm.request.type": "chat",
    "gen_ai.system": "openai",
    "gen_ai.request.model": "gpt-4",
    "gen_ai.usage.prompt_tokens": 5,
    "gen_ai.usage.completion_tokens": 2,
    "gen_ai.usage.cache_read_input_tokens": 3,
    "gen_ai.usage.cache_creation_input_tokens": 1,
}


@pytest.mark.parametrize(
    ("sent", "provider", "model"), [(OPENINFERENCE, "anthropic", "claude"), (OPENLLMETRY, "openai", "gpt-4")]
)
def test_older_conventions_are_understood(
    plain: Client, database: Database, sent: dict[str, Any], provider: str, model: str
) -> None:
    trace = new_trace()
    store(plain, database, span(trace, 1, attributes=sent), resource={"deployment.environment": "test"})
    (row,) = of_trace(database, "ai_generations", trace)
    assert (row["provider"], row["model"], row["environment"]) == (provider, model, "test")
    tokens = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens")
    assert [row[name] for name in tokens] == [5, 2, 3, 1]


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({"status": {"code": 2}}, "error"),
        ({"status": {"code": 1}}, "ok"),
        ({"attributes": {**CHAT, "error.type": "timeout"}}, "error"),
    ],
)
def test_the_status_of_a_call(plain: Client, database: Database, members: dict[str, Any], status: str) -> None:
    trace = new_trace()
    store(plain, database, span(trace, 1, **{"attributes": CHAT, **members}))
    assert [row["status"] for row in of_trace(database, "ai_generations", trace)] == [status]


AGENT = {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 500}
TOOL = {"gen_ai.operation.name": "execute_tool"}
CHAIN = {"openinference.span.kind": "CHAIN", "llm.token_count.prompt": 9}
WORKFLOW = {"traceloop.span.kind": "workflow"}
NO_TOKENS = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5"}

# The attributes of spans, each with the number of its parent, and the numbers of those that are AI generations.
CALLS: dict[str, tuple[list[tuple[int, dict[str, Any]]], list[int]]] = {
    "each operation": (
        [(0, {"gen_ai.operation.name": name}) for name in sorted(gen_ai.CALLS)],
        [1, 2, 3, 4],
    ),
    "steps alone": ([(0, AGENT), (0, TOOL), (0, CHAIN), (0, WORKFLOW), (0, {"gen_ai.operation.name": ""})], []),
    "an operation decides": ([(0, {**OPENINFERENCE, **AGENT}), (0, {**OPENLLMETRY, **TOOL})], []),
    "an agent with two calls": ([(0, AGENT), (1, CHAT), (1, CHAT)], [2, 3]),
    "a chain with a call": ([(0, WORKFLOW), (1, CHAIN), (2, OPENINFERENCE)], [3]),
    "a framework and a client": ([(0, OPENINFERENCE), (1, CHAT)], [2]),
    "with a request between": ([(0, CHAT), (1, {"http.request.method": "POST"}), (2, CHAT)], [3]),
    "three of them": ([(0, CHAT), (1, OPENLLMETRY), (2, CHAT)], [3]),
    "two attempts inside one": ([(0, OPENINFERENCE), (1, NO_TOKENS), (1, CHAT)], [2, 3]),
    "only the outer one knows": ([(0, OPENINFERENCE), (1, NO_TOKENS)], [1]),
    "only the outermost knows": ([(0, CHAT), (1, NO_TOKENS), (2, NO_TOKENS)], [1]),
    "nobody knows": ([(0, NO_TOKENS), (1, NO_TOKENS)], [2]),
    "a tool inside a call calls": ([(0, CHAT), (1, TOOL), (2, CHAT)], [1, 3]),
    "the outer one elsewhere": ([(77, CHAT)], [1]),
    "another call while the first streams": ([(0, CHAT), (1, {**CHAT, "gen_ai.response.id": "r2"})], [1, 2]),
    "two answers to one framework": (
        [(0, CHAT), (1, {**CHAT, "gen_ai.response.id": "r0"}), (1, CHAT)],
        [2, 3],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_call_of_a_model_counts_once(plain: Client, database: Database, name: str) -> None:
    tree, expected = CALLS[name]
    trace = new_trace()
    spans = [span(trace, number, parent, attributes=each) for number, (parent, each) in enumerate(tree, 1)]
    store(plain, database, *spans[::-1])
    assert sorted(int(row["span_id"], 16) for row in of_trace(database, "ai_generations", trace)) == expected


ANSWERED = {**CHAT, "gen_ai.response.id": "answer-1"}
OTHER = {**CHAT, "gen_ai.response.id": "answer-2"}
NO_ID = {name: each for name, each in CHAT.items() if name != "gen_ai.response.id"}
FAILED = {**NO_TOKENS, "error.type": "timeout"}
ELSEWHERE = {**NO_ID, "gen_ai.provider.name": "anthropic"}

# Calls with one parent: the library that describes each, its start and end, and its attributes; and the numbers of
# those that are AI generations.
BESIDE: dict[str, tuple[list[tuple[str, int, int, dict[str, Any]]], list[int]]] = {
    "two describe one": ([("outer", 0, 90, ANSWERED), ("inner", 1, 80, ANSWERED)], [2]),
    "one does not say the id": ([("outer", 0, 90, NO_ID), ("inner", 1, 80, ANSWERED)], [2]),
    "only one knows the tokens": ([("outer", 0, 90, ANSWERED), ("inner", 1, 80, NO_TOKENS)], [1, 2]),
    "nobody knows the tokens": ([("outer", 0, 90, NO_TOKENS), ("inner", 1, 80, NO_TOKENS)], [1, 2]),
    "both failed": ([("outer", 0, 90, FAILED), ("inner", 1, 80, FAILED)], [2]),
    "a failed attempt inside": ([("outer", 0, 90, NO_ID), ("inner", 1, 20, FAILED), ("inner", 30, 80, NO_ID)], [2, 3]),
    "other tokens": ([("outer", 0, 90, NO_ID), ("inner", 1, 80, {**NO_ID, "gen_ai.usage.output_tokens": 31})], [1, 2]),
    "another model": (
        [
            ("outer", 0, 90, NO_ID),
            ("inner", 1, 80, {**NO_ID, "gen_ai.request.model": "gpt-6", "gen_ai.response.model": "gpt-6-2026"}),
        ],
        [1, 2],
    ),
    "one says the tokens twice": (
        [("outer", 0, 90, {**NO_ID, "gen_ai.usage.prompt_tokens": 120}), ("inner", 1, 80, ANSWERED)],
        [2],
    ),
    "one describes two": ([("one", 0, 90, NO_ID), ("one", 1, 80, NO_ID)], [1, 2]),
    "different answers": ([("outer", 0, 90, ANSWERED), ("inner", 1, 80, OTHER)], [1, 2]),
    "different providers": ([("outer", 0, 90, ELSEWHERE), ("inner", 1, 80, ANSWERED)], [1, 2]),
    "one after the other": ([("one", 0, 40, NO_ID), ("other", 30, 90, NO_ID)], [1, 2]),
    "two at once": (
        [("outer", 0, 90, NO_ID), ("inner", 1, 89, NO_ID), ("outer", 10, 50, NO_ID), ("inner", 11, 49, NO_ID)],
        [2, 4],
    ),
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_call_that_two_describe_beside_each_other_counts_once(plain: Client, database: Database, name: str) -> None:
    described, expected = BESIDE[name]
    trace = new_trace()
    scopes = []
    for number, (scope, start, end, each) in enumerate(described, 1):
        times = {"startTimeUnixNano": str(START + start), "endTimeUnixNano": str(START + end)}
        scopes.append({"scope": {"name": scope}, "spans": [span(trace, number, 77, attributes=each, **times)]})
    message = {"resourceSpans": [{"scopeSpans": scopes}]}
    assert partial(send(plain, database, *packed(message, "json"))) == (0, "")
    assert sorted(int(row["span_id"], 16) for row in of_trace(database, "ai_generations", trace)) == expected


QUOTES: dict[str, Any] = {
    **CHAT,
    **dict.fromkeys(
        [
            *("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.prompt"),
            *("gen_ai.prompt.0.content", "gen_ai.completion.0.content", "gen_ai.completion.0.tool_calls.0.arguments"),
            *("gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "gen_ai.tool.definitions"),
            *("gen_ai.request.messages", "gen_ai.response.text", "gen_ai.embeddings.input"),
            *("input.value", "output.value", "llm.input_messages.0.message.content", "llm.prompts.0.content"),
            *("llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments", "llm.invocation_parameters"),
            *(
                "llm.prompt_template.variables",
                "llm.tools.0.tool.json_schema",
                "retrieval.documents.0.document.content",
            ),
            *("embedding.embeddings.0.embedding.text", "llm.request.functions.0.parameters"),
            *("traceloop.entity.input", "traceloop.entity.output", "ai.prompt.messages", "ai.response.text"),
            *("ai.toolCall.args", "mlflow.spanInputs", "langfuse.observation.output", "request_data"),
            *("gcp.vertex.agent.llm_request", "gcp.vertex.agent.llm_response", "gcp.vertex.agent.tool_call_args"),
            *("gcp.vertex.agent.tool_response", "gcp.vertex.agent.data", "genkit:input", "genkit:output", "input"),
            *("lk.chat_ctx", "lk.user_input", "lk.response.text", "lk.input_text", "lk.user_transcript", "output"),
            *("spring.ai.tool.call.arguments", "db.vector.query.content", "user_prompt"),
        ],
        f"say {CANARY}",
    ),
    "nested": {"gen_ai": {"prompt": CANARY}, "list": [{"input.value": CANARY}]},
    "gen_ai.completion": [CANARY],
}
QUOTING_EVENTS = [
    event("gen_ai.content.prompt", gen_ai_prompt=CANARY),
    event("gen_ai.content.completion", gen_ai_completion=CANARY),
    event("gen_ai.user.message", content=CANARY, role="user"),
    event("gen_ai.choice", message={"content": CANARY}, body=CANARY),
    event("gen_ai.client.inference.operation.details", gen_ai_input_messages=[{"parts": [CANARY]}]),
]


def dump(database: Database) -> str:
    """Return all that any table of the database holds."""
    tables = database.fetch("SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'opensentry'")
    assert {row["relname"] for row in tables} >= set(TABLES)
    rows = [database.fetch(f"SELECT t::text FROM opensentry.{row['relname']} AS t") for row in tables]
    return str(rows)


def quoting() -> dict[str, Any]:
    trace = new_trace()
    unknown = {"body": CANARY, "gen_ai.input.messages": CANARY}
    top = span(trace, 1, attributes=QUOTES, events=QUOTING_EVENTS, links=[{"attributes": attributes(QUOTES)}])
    below = span(trace, 2, 1, attributes=QUOTES, events=QUOTING_EVENTS)
    return request({**top, **unknown}, below, resource={**RESOURCE, "gen_ai.prompt": CANARY})


def without_unknown(message: dict[str, Any]) -> dict[str, Any]:
    """Return a request without the members that protobuf does not have."""
    for each in message["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        each.pop("body", None)
        each.pop("gen_ai.input.messages", None)
    return message


@pytest.mark.parametrize("how", FORMATS)
def test_what_was_said_to_and_by_a_model_is_nowhere_in_the_database(
    plain: Client, database: Database, how: str
) -> None:
    before = database.counts()
    message = quoting()
    body, media_type = packed(message if how == "json" else without_unknown(message), how)
    assert CANARY.encode() in body
    assert partial(send(plain, database, body, media_type)) == (0, "")
    added = {table: number - before[table] for table, number in database.counts().items()}
    assert added == {"events": 0, "transactions": 1, "spans": 1, "ai_generations": 1}
    assert CANARY not in dump(database)


@pytest.fixture
def keeping(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("OPENSENTRY_KEEP_PROMPTS", "yes")
    application = create_app(database.service)
    yield Client(application)
    application.close()


# After the test above, because they share the database.
def test_what_was_said_is_kept_if_the_operator_wants_it(keeping: Client, database: Database) -> None:
    message = quoting()
    assert partial(send(keeping, database, *packed(message, "json"))) == (0, "")
    trace = message["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"]
    (row,) = of_trace(database, "transactions", trace)
    assert row["extra"]["attributes"] == QUOTES
    assert [each["name"] for each in row["extra"]["events"]] == [each["name"] for each in QUOTING_EVENTS]
    assert CANARY in str(row["extra"]["events"])


@pytest.mark.parametrize("how", FORMATS)
def test_a_request_that_is_sent_again_is_stored_once(plain: Client, database: Database, how: str) -> None:
    trace = new_trace()
    body, media_type = packed(request(span(trace, 1), span(trace, 2, 1, attributes=CHAT)), how)
    for headers in ({}, {}, {"Content_Encoding": "gzip"}, {"Content_Encoding": "deflate"}):
        encoded = {"gzip": gzip.compress(body), "deflate": zlib.compress(body)}.get(headers.get("Content_Encoding", ""))
        assert partial(send(plain, database, encoded or body, media_type, **headers)) == (0, "")
    assert len(of_trace(database, "transactions", trace)) == 1
    assert len(of_trace(database, "ai_generations", trace)) == 1


@pytest.mark.parametrize(("body", "media_type"), [(b"{}", "application/json"), (b"", "application/x-protobuf")])
def test_a_request_without_spans_stores_nothing(
    client: Client, database: Database, body: bytes, media_type: str
) -> None:
    before = database.counts()
    keys = database.fetch("SELECT count(*) FROM opensentry.idempotency_keys")
    response = send(client, database, body, f"{media_type}; charset=utf-8")
    assert (response.status_int, response.content_type) == (200, media_type)
    assert response.body == (b"{}" if body else b"")
    assert (database.counts(), database.fetch("SELECT count(*) FROM opensentry.idempotency_keys")) == (before, keys)
    refused = client.post(
        "/v1/traces", body, headers={"X-Open-Sentry-Key": "wrong", "Content-Type": media_type}, expect_errors=True
    )
    assert refused.status_int == 403


def status_of(response: TestResponse) -> tuple[int, str]:
    """Return the code and the message of a google.rpc.Status in the format of the answer."""
    if response.content_type == "application/json":
        assert set(response.json) == {"code", "message"}
        return response.json["code"], response.json["message"]
    # Its fields are those of ExportTracePartialSuccess: a number and a text.
    assert response.content_type == "application/x-protobuf"
    parsed = type(ExportTraceServiceResponse().partial_success).FromString(response.body)
    return parsed.rejected_spans, parsed.error_message


TOO_LARGE = b" " * (otlp.LIMIT_BYTES + 1)


@pytest.mark.parametrize(
    ("body", "media_type", "headers", "status", "code", "message"),
    [
        (b"{", "application/json", {}, 400, 3, "Invalid JSON: not JSON at line 1, column 2"),
        (b"{}", "application/json", {"Content_Encoding": "gzip"}, 400, 3, "Invalid JSON: "),
        (b"[]", "application/json", {}, 400, 3, "Invalid payload: resourceSpans must be an array"),
        (b'{"resourceSpans": {}}', "application/json", {}, 400, 3, "Invalid payload: resourceSpans must be an array"),
        (b"\xff", "application/x-protobuf", {}, 400, 3, "Invalid protobuf: not an ExportTraceServiceRequest"),
        (b"{}", "application/x-protobuf", {}, 400, 3, "Invalid protobuf: not an ExportTraceServiceRequest"),
        (b"{}", "application/json", {"X_Open_Sentry_Key": ""}, 401, 16, "Missing auth key"),
        (b"", "application/x-protobuf", {"X_Open_Sentry_Key": "x" * 300}, 403, 7, "Invalid DSN key"),
        (TOO_LARGE, "application/json", {}, 413, 3, "Payload too large"),
        (TOO_LARGE, "application/x-protobuf", {}, 413, 3, "Payload too large"),
        (gzip.compress(TOO_LARGE), "application/json", {"Content_Encoding": "gzip"}, 413, 3, "Payload too large"),
        (b"{}", "application/json", {"Content_Encoding": "lzma"}, 415, 3, "Unsupported content encoding"),
        (b"{}", "text/csv", {}, 415, 3, "Unsupported media type: use application/json or application/x-protobuf"),
    ],
)
def test_a_refusal_is_a_status_in_the_format_of_the_request(
    plain: Client,
    database: Database,
    body: bytes,
    media_type: str,
    headers: dict[str, str],
    status: int,
    code: int,
    message: str,
) -> None:
    before = database.counts()
    response = send(plain, database, body, media_type, Origin="https://app.example.com", **headers)
    assert response.status_int == status
    assert response.content_type == (media_type if media_type == "application/x-protobuf" else "application/json")
    found = status_of(response)
    assert found[0] == code
    assert found[1].startswith(message) if message.endswith(" ") else found[1] == message
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert database.counts() == before


def test_the_largest_request_is_accepted(plain: Client, database: Database) -> None:
    body = b'{"resourceSpans": []}'.ljust(otlp.LIMIT_BYTES)
    assert send(plain, database, body, "application/json").status_int == 200


def test_problem_details_are_there_for_who_asks(plain: Client, database: Database) -> None:
    response = send(plain, database, b"{", "application/json", Accept="application/problem+json")
    assert response.content_type == "application/problem+json"
    assert response.json["errors"] == [{"pointer": "", "detail": "not JSON at line 1, column 2"}]


@pytest.mark.parametrize("media_type", ["application/json", "application/x-protobuf"])
def test_an_outage_is_what_an_exporter_retries(proxy: Proxy, database: Database, media_type: str) -> None:
    proxy.stop()
    application = create_app(proxy.conninfo, database_timeout=0.5)
    response = send(Client(application), database, b"{}" if "json" in media_type else b"", media_type)
    application.close()
    assert (response.status_int, response.headers["Retry-After"]) == (503, str(errors.RETRY_AFTER_SECONDS))
    assert status_of(response) == (14, "Service unavailable")


def test_without_the_extra_protobuf_is_refused_and_the_extra_named(
    plain: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp_formats, "has_protobuf", False)
    response = send(plain, database, b"", "application/x-protobuf")
    assert response.status_int == 415
    code, message = status_of(response)
    assert code == 3
    assert message.startswith("Unsupported media type: application/x-protobuf needs the extra `otlp`")
    assert send(plain, database, b"{}", "application/json").status_int == 200


def test_other_methods_are_not_allowed(client: Client) -> None:
    response = client.get("/v1/traces", expect_errors=True)
    assert (response.status_int, response.headers["Allow"]) == (405, "POST, OPTIONS")
    assert status_of(response) == (3, "Method not allowed")
    assert client.options("/v1/traces").status_int == 204


def test_it_is_counted(plain: Client, database: Database) -> None:
    def metric(line: str) -> float:
        found = [text for text in plain.get("/metrics").text.splitlines() if text.startswith(line + " ")]
        return float(found[0].rpartition(" ")[2]) if found else 0

    lines = [
        'opensentry_ingest_requests_total{path="/v1/traces",reason="",status="200"}',
        'opensentry_ingest_items_total{type="transaction"}',
        'opensentry_ingest_skipped_total{type="span_without_id"}',
    ]
    before = [metric(line) for line in lines]
    message = request(span(new_trace(), 1), span("", 1))
    assert partial(send(plain, database, *packed(message, "json")))[0] == 1
    assert [metric(line) - each for line, each in zip(lines, before, strict=True)] == [1, 1, 1]
