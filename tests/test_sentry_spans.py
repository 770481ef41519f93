"""Spans that Sentry's SDKs send by themselves: none is lost or counted twice, and a bad one costs nothing else."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from webtest import TestApp as Client

from opensentry_ingest import Application, create_app
from opensentry_ingest.protocols import sentry, sentry_spans, traces
from tests.support import TABLES, Database
from tests.test_sentry import ANY, EVENT, TRANSACTION, chat, many, mostly, new_id, objects, of, pack, send

TRACE = "a" * 32
V2 = {"type": "span", "content_type": "application/vnd.sentry.items.span.v2+json"}


def attributes(**values: Any) -> dict[str, Any]:
    """Return attributes as span v2 has them. Two underscores stand for a dot."""
    return {name.replace("__", "."): {"type": "string", "value": value} for name, value in values.items()}


def span(span_id: str, parent: str | None = None, **members: Any) -> dict[str, Any]:
    parents = {"parent_span_id": parent} if parent else {}
    times = {"start_timestamp": 1_700_000_000.1, "end_timestamp": 1_700_000_000.35}
    return {"span_id": span_id, "trace_id": TRACE, "name": f"name of {span_id}", **times, **parents, **members}


def call(span_id: str, parent: str | None = None, **values: Any) -> dict[str, Any]:
    return span(
        span_id,
        parent,
        status="ok",
        attributes=attributes(
            sentry__op="gen_ai.chat",
            gen_ai__operation__name="chat",
            gen_ai__system="openai",
            gen_ai__response__model="gpt-4o",
            gen_ai__usage__input_tokens=120,
            gen_ai__usage__output_tokens=30,
            gen_ai__request__messages="secret",
            gen_ai__response__text="secret",
            sentry__release="1.0",
            sentry__environment="production",
            **values,
        ),
    )


def batch(*spans: Any) -> tuple[Any, bytes]:
    """Return the item of streamed spans."""
    content = json.dumps({"version": 2, "items": spans}).encode()
    return {**V2, "item_count": len(spans), "length": len(content)}, content


def stored(client: Client, database: Database, *items: tuple[Any, bytes], **header: Any) -> dict[str, list[Any]]:
    """Send an envelope, and return the rows that it made, by table."""
    response = send(client, database, pack(header, *items))
    assert response.status_int == 200
    return {table: database.rows(table, response.json["id"]) for table in TABLES} if response.json else {}


COMMON = {
    "sentry__release": "1.0",
    "sentry__environment": "production",
    "sentry__segment__name": "GET /orders/{id}",
    "user__id": 42,
    "user__email": "dev@example.com",
    "user__name": "dev",
}


def test_a_streamed_trace_is_stored_as_a_transaction_with_its_spans(client: Client, database: Database) -> None:
    # Children end first.
    spans = (
        span("in", "out", status="error", attributes=attributes(sentry__op="db", db__system="pg", **COMMON)),
        span("out", "root", start_timestamp=1_700_000_000.05, attributes=attributes(**{**COMMON, "user__id": 43})),
        span(
            "root",
            "caller",
            name="GET /orders/7",
            start_timestamp=1_700_000_000,
            end_timestamp="2023-11-14T22:13:21.500Z",
            is_segment=True,
            status="ok",
            attributes=attributes(sentry__op="http.server", http__request__method="GET", **COMMON),
            links=[{"trace_id": "b" * 32, "span_id": "s", "attributes": attributes(why="retry")}],
        ),
    )
    rows = stored(client, database, batch(*spans))
    (row,) = rows["transactions"]
    assert (row["name"], row["trace_id"], row["op"], row["status"]) == ("GET /orders/{id}", TRACE, "http.server", "ok")
    assert (row["span_id"], row["parent_span_id"], row["duration_ms"]) == ("root", "caller", 1500)
    assert row["timestamp"].timestamp() == 1_700_000_001.5
    assert (row["release"], row["environment"]) == ("1.0", "production")
    assert row["user"] == {"id": "42", "email": "dev@example.com", "username": "dev"}
    trace = row["extra"]["contexts"]["trace"]
    assert trace["data"]["http.request.method"] == "GET"
    assert (trace["is_segment"], trace["description"]) == (True, "GET /orders/7")
    assert trace["links"] == [{"trace_id": "b" * 32, "span_id": "s", "attributes": {"why": "retry"}}]
    inner, outer = rows["spans"]
    names = ("span_id", "parent_span_id", "op", "description", "start_ms", "duration_ms", "status")
    assert [inner[name] for name in names] == ["in", "out", "db", "name of in", 100, 250, "error"]
    assert [outer[name] for name in names] == ["out", "root", "default", "name of out", 50, 300, None]
    # What each span repeats is stored once.
    assert inner["extra"]["data"] == {"db.system": "pg"}
    assert outer["extra"]["data"] == {"user.id": 43}
    assert rows["events"] == rows["ai_generations"] == []


def test_a_single_span_of_an_older_sdk_is_stored(client: Client, database: Database) -> None:
    interaction = {
        "span_id": "inp",
        "parent_span_id": "page",
        "trace_id": TRACE,
        "op": "ui.interaction.click",
        "description": "body > button",
        "origin": "auto.http.browser.inp",
        "start_timestamp": 1_700_000_000.1,
        "timestamp": 1_700_000_000.35,
        "exclusive_time": 250,
        "is_segment": True,
        "data": {"sentry.release": "1.0", "sentry.environment": "production", "user.id": "42"},
        "measurements": {"inp": {"value": 250, "unit": "millisecond"}},
    }
    rows = stored(client, database, of(interaction, "span"))
    (row,) = rows["transactions"]
    assert (row["name"], row["op"], row["duration_ms"]) == ("body > button", "ui.interaction.click", 250)
    assert (row["span_id"], row["parent_span_id"], row["trace_id"]) == ("inp", "page", TRACE)
    assert (row["release"], row["environment"], row["user"]) == ("1.0", "production", {"id": "42"})
    assert row["extra"]["contexts"]["trace"]["measurements"] == interaction["measurements"]


def test_a_call_of_a_model_is_an_ai_generation_of_a_span(client: Client, database: Database) -> None:
    rows = stored(client, database, batch(call("c", "root"), span("root", is_segment=True)))
    (row,) = rows["ai_generations"]
    assert (row["provider"], row["model"], row["status"]) == ("openai", "gpt-4o", "ok")
    assert (row["input_tokens"], row["output_tokens"], row["latency_ms"]) == (120, 30, 250)
    assert (row["trace_id"], row["span_id"]) == (TRACE, "c")
    assert len(rows["transactions"]) == len(rows["spans"]) == 1
    assert "secret" not in str(rows)
    # By itself it is a transaction, which says where it ran.
    rows = stored(client, database, batch(call("c2", "root")))
    assert (rows["ai_generations"][0]["release"], rows["ai_generations"][0]["environment"]) == ("1.0", "production")
    assert [row["name"] for row in rows["transactions"]] == ["name of c2"]


def test_prompts_are_kept_if_the_operator_wants_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENSENTRY_KEEP_PROMPTS", "yes")
    application = create_app(database.service)
    rows = stored(Client(application), database, batch(call("kept")))
    application.close()
    assert rows["transactions"][0]["extra"]["contexts"]["trace"]["data"]["gen_ai.response.text"] == "secret"


def test_prompts_are_dropped_however_they_are_written(client: Client, database: Database) -> None:
    links = [{"attributes": attributes(gen_ai__prompt="secret")}]
    odd = {"gen_ai.prompt": {"text": "secret"}, "gen_ai.input.messages": ["secret"], "gen_ai.completion": "secret"}
    spans = (
        span("one", "two", attributes=odd, links=links),
        span("two", attributes=odd, links=links),
        {"span_id": "three", "trace_id": "b" * 32, "data": odd},
    )
    assert "secret" not in str(stored(client, database, batch(*spans)))


def test_a_call_that_is_moved_out_of_its_transaction_is_put_back(client: Client, database: Database) -> None:
    transaction = {**TRANSACTION, "spans": [{"span_id": "http", "parent_span_id": "c", "trace_id": "t" * 32}]}
    streamed = {**call("c", "root"), "trace_id": "t" * 32}
    items = [of(transaction, "transaction"), batch(streamed)]
    for event_id, order in ((new_id(), items), (new_id(), items[::-1])):
        rows = stored(client, database, *order, event_id=event_id)
        # Sent again, it is stored once.
        assert stored(client, database, *order, event_id=event_id) == rows
        assert [row["batch_id"].hex for row in rows["transactions"]] == [event_id]
        assert [row["span_id"] for row in rows["spans"]] == ["http", "c"]
        (generation,) = rows["ai_generations"]
        assert (generation["span_id"], generation["environment"]) == ("c", "production")


@pytest.mark.parametrize(
    ("streamed", "in_transaction", "calls", "left_out"),
    [
        # The transaction has it too; or it comes twice.
        ([call("c", "root")], [chat(span_id="c")], 1, 1),
        ([call("c"), call("c")], [], 1, 1),
        # Two integrations describe it: the inner one counts, unless only the outer one has the tokens.
        ([call("in", "out", sentry__origin="a"), call("out", "root")], [], 1, 0),
        ([call("in", "out")], [chat(span_id="out", parent_span_id="root")], 1, 0),
        # An agent that calls twice, and a tool that calls in a call.
        (
            [span("a", attributes=attributes(sentry__op="gen_ai.invoke_agent")), call("c", "a"), call("d", "a")],
            [],
            2,
            0,
        ),
        (
            [call("c"), span("t", "c", attributes=attributes(sentry__op="gen_ai.execute_tool")), call("d", "t")],
            [],
            2,
            0,
        ),
    ],
)
def test_each_call_of_a_model_counts_once(
    client: Client, database: Database, streamed: Any, in_transaction: Any, calls: int, left_out: int
) -> None:
    spans = [{**each, "trace_id": "t" * 32} for each in streamed]
    items = [of({**TRANSACTION, "spans": in_transaction}, "transaction")] if in_transaction else []
    rows = stored(client, database, *items, batch(*spans), event_id=new_id())
    assert len(rows["ai_generations"]) == calls
    assert len(rows["transactions"]) + len(rows["spans"]) == len(streamed) + 2 * len(items) - left_out


def test_each_trace_and_each_span_without_its_parent_is_a_transaction(client: Client, database: Database) -> None:
    spans = (
        span("b", "elsewhere"),
        span("c", "b"),
        span("d"),
        {**span("e", "b"), "trace_id": "b" * 32},
        # Each is the parent of the other.
        span("f", "g"),
        span("g", "f"),
        span("h", "h"),
    )
    rows = stored(client, database, batch(*spans))
    assert [row["span_id"] for row in rows["transactions"]] == ["b", "d", "f", "h", "e"]
    assert [(row["span_id"], row["parent_span_id"]) for row in rows["spans"]] == [("c", "b"), ("g", "f")]


@pytest.mark.parametrize(
    "bad",
    [
        None,
        5,
        [],
        {},
        {"span_id": "s"},
        {"trace_id": TRACE},
        {**span("s"), "span_id": ""},
        {**span("s"), "span_id": 7},
        {**span("s"), "trace_id": None},
        {**span("s"), "trace_id": ["x"]},
    ],
)
def test_a_bad_span_is_left_out_and_the_others_are_stored(client: Client, database: Database, bad: Any) -> None:
    rows = stored(client, database, batch(bad, span("good")))
    assert [row["span_id"] for row in rows["transactions"]] == ["good"]
    # By itself it is nothing to store; an event beside it is stored.
    event_id = new_id()
    assert stored(client, database, of(bad, "span"), event_id=event_id) == {}
    rows = stored(client, database, of(EVENT), batch(bad), event_id=event_id)
    assert (len(rows["events"]), rows["transactions"]) == (1, [])


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"name": None}, {"name": "<unlabeled transaction>"}),
        ({"name": None, "attributes": attributes(sentry__segment__name="GET /")}, {"name": "GET /"}),
        # A part of a segment that is in another envelope has its own name.
        ({"attributes": attributes(sentry__segment__name="GET /")}, {"name": "name of s"}),
        ({"start_timestamp": "x", "end_timestamp": []}, {"duration_ms": 0}),
        ({"start_timestamp": 5, "end_timestamp": 4}, {"duration_ms": 0}),
        ({"start_timestamp": 1e300, "end_timestamp": 1e301}, {"duration_ms": 0}),
        ({"status": "cancelled"}, {"status": "cancelled"}),
        ({"status": "error"}, {"status": "error"}),
        ({"status": 3}, {"status": "ok"}),
        ({"parent_span_id": 7}, {"parent_span_id": None}),
        ({"attributes": [1]}, {"name": "name of s"}),
        ({"attributes": {"sentry.release": 7, "user.id": {"value": ["x"]}}}, {"release": "7", "user": {}}),
        ({"attributes": {"sentry.op": {"value": 7}}}, {"op": None}),
    ],
)
def test_a_span_keeps_what_it_has(
    client: Client, database: Database, members: dict[str, Any], expected: dict[str, Any]
) -> None:
    (row,) = stored(client, database, batch({**span("s"), **members}))["transactions"]
    assert {column: row[column] for column in expected} == expected


def test_spans_that_are_sent_twice_are_stored_once(client: Client, database: Database) -> None:
    item = batch(span("s" + new_id()))
    first = send(client, database, pack({"sent_at": "2026-05-30T12:00:00Z"}, item)).json
    # A retry may say another time, or be compressed; what counts is the items.
    again = send(client, database, pack({"sent_at": "2026-05-30T12:00:05Z"}, item)).json
    assert again == first
    assert len(database.rows("transactions", first["id"])) == 1
    other = send(client, database, pack({}, batch(span("s" + new_id())))).json
    assert other != first


def test_spans_do_not_use_up_the_id_of_an_event(client: Client, database: Database) -> None:
    event_id = new_id()
    assert stored(client, database, batch(span("s" + event_id)), event_id=event_id)["transactions"]
    rows = stored(client, database, of(EVENT), event_id=event_id)
    assert [row["batch_id"].hex for row in rows["events"]] == [event_id]


def test_the_limit_of_spans(client: Client, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    room = sentry.SPANS_LIMIT_BYTES - len(json.dumps(span("s", x="")))
    for more, status in ((0, 200), (1, 413)):
        body = pack({}, of(span("s", x="x" * (room + more)), "span"))
        assert send(client, database, body).status_int == status
    monkeypatch.setattr(traces, "MAX_SPANS", 3)
    rows = stored(client, database, batch(*(span(f"s{number}", "s0") for number in range(5))))
    assert (len(rows["transactions"]), len(rows["spans"])) == (1, 2)


# Hypothesis. Any JSON in any member.

IDS = st.sampled_from(["a", "b", "c", ""])
VALUE = mostly(st.fixed_dictionaries({"type": ANY, "value": ANY}))
STREAMED = objects(
    *("name", "description", "status", "is_segment", "op", "spanId", "unconverted", "traceId", "durationMs", "tags"),
    span_id=mostly(IDS),
    parent_span_id=mostly(IDS),
    trace_id=mostly(IDS),
    start_timestamp=mostly(st.just(1)),
    end_timestamp=mostly(st.just(2)),
    timestamp=ANY,
    data=objects("gen_ai.system"),
    links=mostly(st.lists(objects("trace_id", attributes=objects("a")), max_size=2)),
    attributes=mostly(
        st.dictionaries(
            st.sampled_from(
                [
                    *("sentry.op", "sentry.origin", "sentry.segment.name", "sentry.release", "sentry.environment"),
                    *("user.id", "gen_ai.operation.name", "gen_ai.system", "gen_ai.usage.input_tokens", "error.type"),
                ]
            ),
            VALUE | st.sampled_from([{"value": "chat"}, {"value": "gen_ai.chat"}]),
            max_size=4,
        )
    ),
)


@pytest.fixture(scope="module")
def plain(app: Application) -> Client:
    return Client(app)


@many
@given(spans=st.lists(STREAMED, max_size=4), transaction=st.none() | st.lists(STREAMED, max_size=3))
@example(spans=[{"span_id": "a", "trace_id": "a", "parent_span_id": "a"}], transaction=None)
@example(spans=[{"span_id": "a", "trace_id": "a", "name": 1, "description": 2, "timestamp": 3}], transaction=None)
def test_any_spans_are_stored_or_left_out(
    plain: Client, database: Database, spans: list[Any], transaction: list[Any] | None
) -> None:
    event = {"contexts": {"trace": {"trace_id": "a", "span_id": "c"}}, "spans": transaction}
    items = [] if transaction is None else [of(event, "transaction")]
    rows = stored(plain, database, *items, batch(*spans), event_id=new_id())
    before = stored(plain, database, *items, event_id=new_id()) if items else {}
    added = sum(len(rows.get(table, ())) - len(before.get(table, ())) for table in ("transactions", "spans"))
    good = {
        (each["trace_id"], each["span_id"])
        for each in spans
        if isinstance(each, dict)
        and all(isinstance(each.get(name), str) and each[name] for name in ("trace_id", "span_id"))
    }
    known = set(sentry_spans._places(event)) if items else set()
    assert added == len(good - known)
