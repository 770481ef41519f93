"""Hypothesis: whatever comes in, the answer is a documented one; what is valid is stored, and read back equal."""

import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from opensentry_ingest import Application, errors, payload, validators
from tests.support import AI_GENERATION, ERROR, MINIMAL, TRANSACTION, Database

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "400"))
"""Inputs that each property is tried with: `HYPOTHESIS_EXAMPLES=20000 make test-hostile` tries more."""

# In CI the same inputs every time: what fails there fails at home. The first example of a slow machine is no fault.
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)

# Every character there is, halves of pairs and NUL among them, and those that have caused trouble more often.
TEXTS = st.text(st.characters(exclude_categories=()) | st.sampled_from("\0\ud83d\ude00\ufffd\\\"'\n%{}"), max_size=12)
NUMBERS = (
    st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, -0.0, 2**53 - 1, 2**53, 2**63, 2**64, 1e308, 5e-324, -1, 10**4000])
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=15,
)
MAPS = st.dictionaries(TEXTS, TEXTS, max_size=4)
COUNTS = st.integers(0, 2**53 - 1) | st.integers(0, 2**53 - 1).map(float)
COSTS = st.integers(0, 2**53 - 1) | st.floats(0, 2**53 - 1)
NAMES = TEXTS.filter(bool)
OFFSETS: Any = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@st.composite
def timestamps(draw: Callable[[Any], Any]) -> str:
    """Draw a moment in one of the ways in which the contract lets it be written."""
    moment = draw(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.none() | OFFSETS))
    form = draw(st.sampled_from(["auto", "seconds", "minutes", "milliseconds", "date", "Z", "basic offset"]))
    if form == "date":
        return str(moment.date())
    if form == "Z":
        return str(moment.replace(tzinfo=None).isoformat()) + "Z"
    if form == "basic offset":
        return re.sub(r"([+-]\d\d):(\d\d)$", r"\1\2", moment.isoformat())
    return str(moment.isoformat(timespec=form))


def items(required: dict[str, Any], optional: dict[str, Any]) -> Any:
    """Draw an item with some of its optional members, and some that the schema does not know."""
    known = required.keys() | optional.keys()
    unknown = st.dictionaries(TEXTS.filter(lambda name: name not in known), VALUES, max_size=2)
    return st.builds(lambda item, more: {**more, **item}, st.fixed_dictionaries(required, optional=optional), unknown)


COMMON = {"environment": TEXTS, "release": TEXTS, "timestamp": timestamps()}
FRAMES = items(
    {},
    {
        **dict.fromkeys(["filename", "function", "module", "absPath", "contextLine"], TEXTS),
        **dict.fromkeys(["lineno", "colno"], st.integers(-(2**53) + 1, 2**53 - 1)),
        **dict.fromkeys(["preContext", "postContext"], st.lists(TEXTS, max_size=3)),
        "inApp": st.booleans(),
    },
)
BREADCRUMBS = items(
    {},
    {
        **dict.fromkeys(["category", "message", "level", "timestamp", "type"], TEXTS),
        "data": st.dictionaries(TEXTS, VALUES, max_size=3),
    },
)
STATUSES = ["ok", "error", "cancelled"]
STACKTRACES = items({}, {"frames": st.lists(FRAMES, max_size=3)})
ERRORS = items(
    {
        "type": st.just("error"),
        "exception": items({}, {"type": TEXTS, "value": TEXTS, "stacktrace": STACKTRACES}),
    },
    {
        "message": TEXTS,
        "level": st.sampled_from(["fatal", "error", "warning", "info", "debug"]),
        "breadcrumbs": st.lists(BREADCRUMBS, max_size=3),
        "tags": MAPS,
        "user": MAPS,
        "traceId": TEXTS,
        "spanId": TEXTS,
        "fingerprint": st.lists(st.just("{{ default }}") | TEXTS, min_size=1, max_size=20),
        **COMMON,
    },
)
SPANS = items(
    {"spanId": TEXTS, "op": TEXTS, "durationMs": COUNTS},
    {"description": TEXTS, "parentSpanId": TEXTS, "startMs": COUNTS, "status": st.sampled_from(STATUSES)},
)
TRANSACTIONS = items(
    {"type": st.just("transaction"), "name": TEXTS, "traceId": TEXTS, "durationMs": COUNTS},
    {
        **dict.fromkeys(["spanId", "parentSpanId", "op"], TEXTS),
        "status": st.sampled_from(STATUSES),
        "spans": st.lists(SPANS, max_size=4),
        "tags": MAPS,
        "user": MAPS,
        **COMMON,
    },
)
TOKENS = ["outputTokens", "totalTokens", "cachedInputTokens", "cacheWriteTokens", "latencyMs", "timeToFirstTokenMs"]
AI_GENERATIONS = items(
    {"type": st.just("ai_generation"), "provider": NAMES, "model": NAMES, "inputTokens": COUNTS},
    {
        **dict.fromkeys(TOKENS, COUNTS),
        **dict.fromkeys(["inputCostUsd", "outputCostUsd", "totalCostUsd"], COSTS),
        "status": st.sampled_from(["ok", "error"]),
        "traceId": TEXTS,
        "spanId": TEXTS,
        "tags": MAPS,
        "user": MAPS,
        "metadata": st.dictionaries(TEXTS, VALUES, max_size=3),
        **COMMON,
    },
)
ITEMS = ERRORS | TRANSACTIONS | AI_GENERATIONS
PAYLOADS = ITEMS | st.lists(ITEMS, min_size=1, max_size=20)


@st.composite
def spoilt(draw: Callable[[Any], Any]) -> Any:
    """Draw a payload that is nearly valid: one of its values is another, or one of its members is gone."""
    whole: Any = json.loads(json.dumps(draw(st.sampled_from([ERROR, TRANSACTION, AI_GENERATION, MINIMAL]) | ITEMS)))
    parts = [whole]
    for part in parts:
        parts += [
            inner for inner in (part.values() if isinstance(part, dict) else part) if isinstance(inner, dict | list)
        ]
    part = draw(st.sampled_from([part for part in parts if part]))
    place = draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part))))
    if draw(st.booleans()):
        del part[place]
    else:
        part[place] = draw(VALUES | st.sampled_from(["", " ", "2026-02-30", "0000-01-01", "error", 0.5, -1, [], {}]))
    return whole if draw(st.booleans()) else [whole]


class Service:
    """The real application and the real database, called as a server calls it."""

    def __init__(self, app: Application, database: Database, connection: "psycopg.Connection[Any]") -> None:
        self.app, self.database, self.connection = app, database, connection

    def post(self, body: bytes, **environ: str) -> tuple[int, dict[str, Any]]:
        """Post a body; hold the answer to what every answer must be."""
        answer: list[Any] = []
        base = {"REQUEST_METHOD": "POST", "PATH_INFO": "/v1/ingest", "QUERY_STRING": f"key={self.database.key}"}
        whole = {**base, "CONTENT_LENGTH": str(len(body)), "wsgi.input": BytesIO(body), **environ}
        content = b"".join(self.app(whole, lambda status, headers: answer.extend([int(status[:3]), dict(headers)])))
        status, headers = answer
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        result: dict[str, Any] = json.loads(content)
        return status, result

    def rows(self, table: str, batch_id: str, order: str = "position") -> list[dict[str, Any]]:
        """Return rows with every number exact."""
        statement = f"SELECT to_jsonb(t)::text FROM opensentry.{table} AS t WHERE batch_id = %s ORDER BY {order}"
        return [exact(row[0]) for row in self.connection.execute(statement, (batch_id,))]


@pytest.fixture
def service(app: Application, database: Database) -> Iterator[Service]:
    with psycopg.connect(database.owner, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        yield Service(app, database, connection)


DOCUMENTED = [
    (400, {"error": "Invalid JSON"}),
    (400, {"error": "Invalid payload"}),
    (400, {"error": "Invalid idempotency key"}),
    (401, {"error": "Missing auth key"}),
    (403, {"error": "Invalid DSN key"}),
    (413, {"error": "Payload too large"}),
    (415, {"error": "Unsupported content encoding"}),
]


def is_documented(status: int, answer: dict[str, Any]) -> bool:
    return (status == 202 and set(answer) == {"id"}) or (status, answer) in DOCUMENTED


def both_validators(body: bytes) -> bool | None:
    """Return the verdict of both on a body, which must be one; None where it is no JSON."""
    try:
        value = payload.parse(body)[1]
    except errors.InvalidJSON:
        return None
    verdicts = [validators.reference().is_valid(value), validators.fast()(value)]
    assert verdicts[0] == verdicts[1], value
    return verdicts[0]


def held_to_its_verdict(service: Service, body: bytes) -> None:
    verdict = both_validators(body)
    status, answer = service.post(body)
    assert is_documented(status, answer)
    if verdict is None:
        assert (status, answer) == (400, {"error": "Invalid JSON"})
    elif verdict is False:
        assert (status, answer) == (400, {"error": "Invalid payload"})
    else:
        assert status in (202, 400)


@many
@given(value=VALUES | st.lists(VALUES | ITEMS, max_size=22))
def test_whatever_json_comes_in_the_answer_is_a_documented_one(service: Service, value: Any) -> None:
    held_to_its_verdict(service, json.dumps(value).encode())


@many
@given(value=spoilt())
def test_what_is_nearly_valid_gets_one_verdict_from_both_validators(service: Service, value: Any) -> None:
    held_to_its_verdict(service, json.dumps(value).encode())


TOKENS_OF_JSON = st.sampled_from(
    [
        *("[", "]", "{", "}", ":", ",", '"', "null", "true", "NaN", "-", "0", "1", "e", "E+", ".", "9" * 400),
        *("1e400", "-1e-400", '"type"', '"error"', '"exception"', '{"type":"error","exception":{},"x":'),
        *("\\u0000", "\\ud800", "\\", "\n", "\ufeff"),
    ]
)


@many
@given(data=st.binary(max_size=200) | st.lists(TOKENS_OF_JSON, max_size=25).map(lambda parts: "".join(parts).encode()))
def test_whatever_bytes_come_in_the_answer_is_a_documented_one(service: Service, data: bytes) -> None:
    held_to_its_verdict(service, data)


VALID = json.dumps([ERROR, TRANSACTION, AI_GENERATION]).encode()
HEADERS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=20)


@many
@given(
    data=st.sampled_from([VALID, gzip.compress(VALID, mtime=0), zlib.compress(VALID), b""]),
    cut=st.integers(0, 1000),
    noise=st.binary(max_size=4),
    environ=st.dictionaries(
        st.sampled_from(
            [
                *("HTTP_X_OPEN_SENTRY_KEY", "HTTP_X_SENTRY_CLONE_KEY", "HTTP_AUTHORIZATION", "HTTP_CONTENT_ENCODING"),
                *("HTTP_IDEMPOTENCY_KEY", "HTTP_ORIGIN", "HTTP_ACCEPT", "CONTENT_LENGTH", "CONTENT_TYPE"),
                "QUERY_STRING",
            ]
        ),
        HEADERS | st.sampled_from(["gzip", "deflate", "Basic YTpi", "Basic !", "key=", "key=%00&key=%ff", "0", "5"]),
        max_size=4,
    ),
)
def test_whatever_headers_come_in_the_answer_is_a_documented_one(
    service: Service, data: bytes, cut: int, noise: bytes, environ: dict[str, str]
) -> None:
    body = data[:cut] + noise + data[cut:] if noise else data
    status, answer = service.post(body, **environ)
    assert is_documented(status, answer)


def exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def clean(value: Any) -> Any:
    """Replace what PostgreSQL cannot hold, as the contract says."""
    if isinstance(value, str):
        return re.sub("[\0\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [clean(inner) for inner in value]
    if isinstance(value, dict):
        return {clean(name): clean(inner) for name, inner in value.items()}
    return value


def moment(text: str) -> datetime:
    """Return the moment of a timestamp; without an offset it is UTC."""
    text = re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", text.replace("Z", "+00:00"))
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


def snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name)


def without(value: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if name not in known}


def expected_columns(value: dict[str, Any], names: list[str], *elsewhere: str) -> dict[str, Any]:
    """Return what the columns must hold: the members in snake case, and `extra` those that are unknown."""
    columns = {snake(name): value.get(name) for name in names}
    return {**columns, "extra": without(value, dict.fromkeys([*names, *elsewhere])) or None}


ERROR_MEMBERS = ["message", "level", "breadcrumbs", "tags", "user", "traceId", "spanId", "environment", "release"]
TRANSACTION_MEMBERS = ["name", "traceId", "spanId", "parentSpanId", "op", "durationMs", "status", "tags", "user"]
TRANSACTION_MEMBERS += ["environment", "release"]
AI_MEMBERS = ["provider", "model", "inputTokens", *TOKENS, "inputCostUsd", "outputCostUsd", "totalCostUsd", "status"]
AI_MEMBERS += ["traceId", "spanId", "tags", "user", "metadata", "environment", "release"]
SPAN_MEMBERS = ["spanId", "op", "durationMs", "description", "parentSpanId", "startMs", "status"]


def expected_row(item: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the table and the columns that an item must be read back from."""
    if item["type"] == "error":
        exception = item["exception"]
        stacktrace = exception.get("stacktrace", {})
        columns = expected_columns(item, ERROR_MEMBERS, "type", "timestamp", "exception", "fingerprint")
        unknown = without(exception, dict.fromkeys(["type", "value", "stacktrace"]))
        if inner := without(stacktrace, {"frames": None}):
            unknown["stacktrace"] = inner
        if unknown:
            columns["extra"] = {**(columns["extra"] or {}), "exception": unknown}
        return "events", {
            **columns,
            "level": item.get("level", "error"),
            "exception_type": exception.get("type"),
            "exception_value": exception.get("value", item.get("message")),
            "frames": stacktrace.get("frames"),
            "client_fingerprint": item.get("fingerprint"),
        }
    if item["type"] == "transaction":
        columns = expected_columns(item, TRANSACTION_MEMBERS, "type", "timestamp", "spans")
        return "transactions", {**columns, "status": item.get("status", "ok")}
    total = item.get("totalTokens", item["inputTokens"] + item.get("outputTokens", 0))
    columns = expected_columns(item, AI_MEMBERS, "type", "timestamp")
    return "ai_generations", {**columns, "status": item.get("status", "ok"), "total_tokens": total}


@many
@given(value=PAYLOADS)
@example({**TRANSACTION, "spans": [{"spanId": "", "op": "", "durationMs": 0, "type": None, "spans": 1}]})
@example({**ERROR, "spans": [], "exception": {"exception": {}, "stacktrace": {"type": 1}}})
def test_what_is_valid_is_stored_and_read_back_equal(service: Service, value: Any) -> None:
    body = json.dumps(value).encode()
    assert both_validators(body) is True
    status, answer = service.post(body)
    assert status == 202, answer
    sent = clean(exact(body.decode()))
    tables: dict[str, list[dict[str, Any]]] = {"events": [], "transactions": [], "ai_generations": []}
    spans = []
    for position, item in enumerate(sent if isinstance(sent, list) else [sent]):
        table, columns = expected_row(item)
        tables[table].append({**columns, "position": position, "timestamp": item.get("timestamp")})
        for index, span in enumerate(item.get("spans", []) if table == "transactions" else []):
            spans.append({**expected_columns(span, SPAN_MEMBERS), "position": position, "span_index": index})
    for table, expected in tables.items():
        stored = service.rows(table, answer["id"])
        assert len(stored) == len(expected)
        for row, columns in zip(stored, expected, strict=True):
            assert row.pop("batch_id") == answer["id"]
            assert row.pop("project_id") == service.database.project_id
            sent_at, received_at, stored_at = columns.pop("timestamp"), row.pop("received_at"), row.pop("timestamp")
            assert moment(stored_at) == (moment(sent_at) if sent_at else moment(received_at))
            assert table != "events" or row.pop("fingerprint") is not None
            assert row == columns
    stored_spans = service.rows("spans", answer["id"], "position, span_index")
    for row in stored_spans:
        del row["batch_id"], row["project_id"], row["received_at"]
    assert stored_spans == spans
