"""OTLP in both formats: no input is an error of ours, none is stored in part, and no span is lost uncounted."""

import gzip
import io
import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from opensentry_ingest import Application, payload
from opensentry_ingest.protocols import otlp, otlp_formats, otlp_spans, traces
from tests.hostile.test_properties import TEXTS, VALUES, many
from tests.hostile.test_sentry import MIB, peak
from tests.hostile.wire import exchange, statuses
from tests.support import TABLES, Database, Server

NAMES = TEXTS | st.sampled_from(
    [
        *("gen_ai.operation.name", "gen_ai.request.model", "gen_ai.usage.input_tokens", "error.type", "service.name"),
        *("openinference.span.kind", "llm.request.type", "traceloop.span.kind", "gen_ai.prompt", "service.version"),
        *("exception.type", "exception.message", "exception.stacktrace", "gen_ai.response.time_to_first_chunk"),
    ]
)
WORDS = TEXTS | st.sampled_from(["chat", "embeddings", "LLM", "invoke_agent", "gpt", "workflow"])
WHOLE = st.integers(-(2**65), 2**65) | st.integers(-(2**65), 2**65).map(str) | st.sampled_from([0, "0", 1.0, 1e300])


def mostly(strategy: Any) -> Any:
    """Draw what belongs there, or now and then anything."""
    return st.one_of(strategy, strategy, strategy, VALUES)


def objects(**members: Any) -> Any:
    return st.fixed_dictionaries({}, optional={name: mostly(each) for name, each in members.items()})


ANY_VALUE = st.recursive(
    objects(stringValue=WORDS)
    | objects(intValue=WHOLE)
    | objects(boolValue=st.booleans())
    | objects(doubleValue=st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["NaN", "Infinity"]))
    | objects(bytesValue=TEXTS),
    lambda inner: (
        objects(arrayValue=objects(values=st.lists(inner, max_size=3)))
        | objects(kvlistValue=objects(values=st.lists(objects(key=NAMES, value=inner), max_size=3)))
    ),
    max_leaves=6,
)
ATTRIBUTES = st.lists(objects(key=NAMES, value=ANY_VALUE), max_size=5)
TRACE_IDS = st.sampled_from(["a" * 32, "B" * 32, "0" * 32, "", "ab"])
# Few, so that many spans have one id, or are each other's parents.
SPAN_IDS = st.sampled_from(["1" * 16, "2" * 16, "3" * 16, "A" * 16, "0" * 16, "1"])
EVENTS = st.lists(
    objects(name=TEXTS | st.just("exception"), timeUnixNano=WHOLE, attributes=ATTRIBUTES, unknown=VALUES), max_size=3
)
SPANS = objects(
    traceId=TRACE_IDS,
    spanId=SPAN_IDS,
    parentSpanId=SPAN_IDS,
    name=TEXTS,
    kind=WHOLE,
    startTimeUnixNano=WHOLE,
    endTimeUnixNano=WHOLE,
    attributes=ATTRIBUTES,
    events=EVENTS,
    links=st.lists(objects(traceId=TRACE_IDS, spanId=SPAN_IDS, attributes=ATTRIBUTES), max_size=2),
    status=objects(code=WHOLE, message=TEXTS),
    traceState=TEXTS,
)
GROUPS = objects(
    resource=objects(attributes=ATTRIBUTES),
    scopeSpans=st.lists(objects(scope=objects(name=TEXTS), spans=st.lists(mostly(SPANS), max_size=6)), max_size=2),
)
REQUESTS = mostly(objects(resourceSpans=st.lists(GROUPS, max_size=2)))


@st.composite
def messages(draw: Callable[[Any], Any]) -> bytes:
    """Draw a request in protobuf."""
    request = ExportTraceServiceRequest()
    texts = st.text(st.characters(codec="utf-8") | st.just("\0"), max_size=8)
    names = NAMES.map(lambda name: name.encode(errors="replace").decode())
    numbers = st.integers(0, 2**64 - 1)
    trace_ids = st.sampled_from([b"a" * 16, b"b" * 16, bytes(16), b"a", b""])
    span_ids = st.sampled_from([b"1" * 8, b"2" * 8, b"3" * 8, bytes(8), b"1" * 9])

    def add_attributes(attributes: Any, depth: int = 0) -> None:
        for _ in range(draw(st.integers(0, 3))):
            pair = attributes.add(key=draw(names))
            kind = draw(st.sampled_from(["string", "int", "double", "bool", "bytes", "array", "kvlist", "none"]))
            if kind == "string":
                pair.value.string_value = draw(texts | st.sampled_from(["chat", "LLM"]))
            elif kind == "int":
                pair.value.int_value = draw(st.integers(-(2**63), 2**63 - 1))
            elif kind == "double":
                pair.value.double_value = draw(st.floats())
            elif kind == "bool":
                pair.value.bool_value = draw(st.booleans())
            elif kind == "bytes":
                pair.value.bytes_value = draw(st.binary(max_size=4))
            elif kind == "array":
                pair.value.array_value.values.add().double_value = draw(st.floats())
            elif kind == "kvlist" and depth < 3:
                add_attributes(pair.value.kvlist_value.values, depth + 1)

    for _ in range(draw(st.integers(0, 2))):
        group = request.resource_spans.add()
        add_attributes(group.resource.attributes)
        for _ in range(draw(st.integers(0, 6))):
            span = group.scope_spans.add().spans.add(
                trace_id=draw(trace_ids),
                span_id=draw(span_ids),
                parent_span_id=draw(span_ids),
                name=draw(texts),
                kind=draw(st.integers(-(2**31), 2**31 - 1)),
                start_time_unix_nano=draw(numbers),
                end_time_unix_nano=draw(numbers),
            )
            span.status.code = draw(st.integers(-1, 4))
            add_attributes(span.attributes)
            if draw(st.booleans()):
                event = span.events.add(name=draw(st.sampled_from(["exception", "e"])), time_unix_nano=draw(numbers))
                add_attributes(event.attributes)
    whole: bytes = request.SerializeToString()
    return whole


def post(app: Application, key: str, body: bytes, **environ: str) -> tuple[int, int, str]:
    """Post a request; return the status, the number of spans that were rejected, and the error."""
    answer: list[Any] = []
    base = {"REQUEST_METHOD": "POST", "PATH_INFO": otlp.ROUTE, "QUERY_STRING": f"key={key}"}
    whole = {**base, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body), **environ}
    content = b"".join(app(whole, lambda status, headers: answer.extend([int(status[:3]), dict(headers)])))
    status, headers = answer
    if headers["Content-Type"] == otlp.PROTOBUF:
        if status == 200:
            return 200, ExportTraceServiceResponse.FromString(content).partial_success.rejected_spans, ""
        # A google.rpc.Status has the same fields.
        return status, 0, ExportTracePartialSuccess.FromString(content).error_message
    found = json.loads(content)
    return status, int(found.get("partialSuccess", {}).get("rejectedSpans", 0)), found.get("message", "")


class Service(NamedTuple):
    """The real application and the real database."""

    app: Application
    key: str
    connection: "psycopg.Connection[Any]"

    def counts(self) -> dict[str, int]:
        columns = ", ".join(f"(SELECT count(*) FROM opensentry.{table})" for table in TABLES)
        return dict(zip(TABLES, self.connection.execute(f"SELECT {columns}").fetchall()[0], strict=True))


@pytest.fixture
def service(app: Application, database: Database) -> Iterator[Service]:
    with psycopg.connect(database.owner, autocommit=True) as connection:
        yield Service(app, database.key, connection)


def held_to_the_contract(service: Service, body: bytes, media_type: str) -> None:
    """Post a request, and hold what is stored to what it is converted to."""
    is_protobuf = media_type == otlp.PROTOBUF
    # Hypothesis repeats itself, and what was sent before is not stored again.
    service.connection.execute("DELETE FROM opensentry.idempotency_keys")
    before = service.counts()
    status, rejected, error = post(service.app, service.key, body, CONTENT_TYPE=media_type)
    added = {table: number - before[table] for table, number in service.counts().items()}
    if status != 200:
        assert status == 400, (status, error)
        assert error.partition(":")[0] in ("Invalid JSON", "Invalid payload", "Invalid protobuf")
        assert error != "Invalid payload: a value that the database cannot hold"
        assert not any(added.values())
        return
    spans = list((otlp_formats.from_protobuf if is_protobuf else otlp_formats.from_json)(body))
    items, _ = otlp_spans.convert(spans, False)
    payload.validate_each(items)
    assert added["transactions"] + added["spans"] + rejected == len(spans)
    kinds = {"events": "error", "transactions": "transaction", "ai_generations": "ai_generation"}
    for table, kind in kinds.items():
        assert added[table] == sum(item["type"] == kind for item in items)


@many
@given(message=REQUESTS)
def test_any_request_in_json_is_stored_whole_or_refused(service: Service, message: Any) -> None:
    held_to_the_contract(service, json.dumps(message).encode(), otlp.JSON)


@many
@given(body=messages())
def test_any_request_in_protobuf_is_stored_whole(service: Service, body: bytes) -> None:
    held_to_the_contract(service, body, otlp.PROTOBUF)


@many
@given(body=messages(), cut=st.integers(0, 200), noise=st.binary(max_size=6))
def test_any_bytes_for_protobuf_are_stored_whole_or_refused(
    service: Service, body: bytes, cut: int, noise: bytes
) -> None:
    held_to_the_contract(service, body[:cut] + noise + body[cut:], otlp.PROTOBUF)


def head(database: Database, *headers: str) -> bytes:
    lines = [f"POST /v1/traces?key={database.key} HTTP/1.1", "Host: localhost", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_bomb_is_refused_and_costs_no_memory(served: Server, database: Database) -> None:
    def answer(body: bytes) -> list[int]:
        length = f"Content-Length: {len(body)}"
        return statuses(exchange(served, head(database, "Content-Encoding: gzip", length), body))

    assert answer(gzip.compress(b"{}".ljust(4 * MIB))) == [200]
    before = peak(served)
    assert answer(gzip.compress(b"{}".ljust(100 * MIB))) == [413]
    assert peak(served) - before < 8192


def test_a_request_full_of_the_smallest_spans_is_answered(app: Application, database: Database) -> None:
    trace = secrets.token_bytes(16)
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    number = 120_000
    for index in range(1, number + 1):
        spans.add(trace_id=trace, span_id=index.to_bytes(8, "big"))
    body = request.SerializeToString()
    assert 3 * MIB < len(body) < 4 * MIB
    before = database.counts()
    status, rejected, _ = post(app, database.key, body, CONTENT_TYPE=otlp.PROTOBUF)
    assert (status, rejected) == (200, number - traces.MAX_SPANS)
    added = {table: database.counts()[table] - before[table] for table in TABLES}
    assert added == {"events": 0, "transactions": traces.MAX_SPANS, "spans": 0, "ai_generations": 0}
