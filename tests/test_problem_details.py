"""Problem details (RFC 9457), for clients that ask for them: their content, what they quote, and their cost."""

import json
from typing import Any

import jsonschema
import pytest
import webtest

from opensentry_ingest import problems
from tests.support import AI_GENERATION, ERROR, MINIMAL, TRANSACTION, Database

ASK = {"Accept": "application/problem+json"}


def post(client: webtest.TestApp, database: Database, data: Any, **headers: str) -> webtest.TestResponse:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return client.post(f"/v1/ingest?key={database.key}", body, headers={**ASK, **headers}, expect_errors=True)


@pytest.mark.parametrize(
    ("data", "errors"),
    [
        ([{"type": "error"}], [("/0/exception", "is required")]),
        ({"type": "error"}, [("/exception", "is required")]),
        ({}, [("/type", "is required")]),
        ({"type": "x"}, [("/type", "must be one of error, transaction, ai_generation")]),
        ({"type": ["error"]}, [("/type", "must be one of error, transaction, ai_generation")]),
        (5, [("", "must be an object or an array of objects")]),
        (None, [("", "must be an object or an array of objects")]),
        ([], [("", "must have at least 1 items")]),
        ([MINIMAL] * 21, [("", "must have at most 20 items")]),
        ([MINIMAL, [MINIMAL]], [("/1", "must be an object")]),
        ({**ERROR, "level": "loud"}, [("/level", "must be one of fatal, error, warning, info, debug")]),
        ({**ERROR, "tags": {"a/b~c": None}}, [("/tags/a~1b~0c", "must be of type string")]),
        ({**TRANSACTION, "durationMs": -1}, [("/durationMs", "must be at least 0")]),
        ({**TRANSACTION, "spans": [{"spanId": "1", "op": "x"}]}, [("/spans/0/durationMs", "is required")]),
        ([MINIMAL, {**AI_GENERATION, "model": ""}], [("/1/model", "must have at least 1 characters")]),
        ({**AI_GENERATION, "inputTokens": 2**53}, [("/inputTokens", "must be at most 9007199254740991")]),
    ],
)
def test_a_rejection_points_to_each_error(
    client: webtest.TestApp, database: Database, data: Any, errors: list[tuple[str, str]]
) -> None:
    response = post(client, database, data)
    assert (response.status_int, response.content_type) == (400, "application/problem+json")
    assert response.json == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "Invalid payload",
        "errors": [{"pointer": pointer, "detail": detail} for pointer, detail in errors],
    }


def test_a_bad_timestamp_is_described_by_the_schema(client: webtest.TestApp, database: Database) -> None:
    (error,) = post(client, database, {**MINIMAL, "timestamp": "yesterday"}).json["errors"]
    assert error["pointer"] == "/timestamp"
    assert "ISO 8601" in error["detail"]
    (error,) = post(client, database, {**MINIMAL, "timestamp": "2026-02-30"}).json["errors"]
    assert "day that does not exist" in error["detail"]


@pytest.mark.parametrize(
    ("path", "data", "headers", "status", "detail"),
    [
        ("/x", b"", {}, 404, "Not found"),
        ("/health", b"", {}, 405, "Method not allowed"),
        ("/v1/ingest", b"", {}, 401, "Missing auth key"),
        ("/v1/ingest?key=no", json.dumps(MINIMAL).encode(), {}, 403, "Invalid DSN key"),
        ("/v1/ingest?key=no", b" " * 262_145, {}, 413, "Payload too large"),
        ("/v1/ingest?key=no", b"x", {"Content-Encoding": "br"}, 415, "Unsupported content encoding"),
        ("/v1/ingest?key=no", b"x", {"Idempotency-Key": ""}, 400, "Invalid idempotency key"),
    ],
)
def test_every_error_has_problem_details_for_a_client_that_asks(
    client: webtest.TestApp, path: str, data: bytes, headers: dict[str, str], status: int, detail: str
) -> None:
    response = client.post(path, data, headers={**ASK, **headers}, expect_errors=True)
    assert (response.status_int, response.content_type) == (status, "application/problem+json")
    assert {"type", "title", "status", "detail"} == set(response.json)
    assert (response.json["status"], response.json["detail"]) == (status, detail)
    # And the contract's own body for a client that does not.
    response = client.post(path, data, headers=headers, expect_errors=True)
    assert (response.status_int, response.json) == (status, {"error": detail})


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b'{"a": }', "not JSON at line 1, column 7"),
        (b"{\n\n x}", "not JSON at line 3, column 2"),
        (b'["\xff"]', "not UTF-8 at byte 2"),
        (b"[" * 100_000, "nested too deep"),
        (b"[1e9999]", "a number that is not JSON, or too long"),
    ],
)
def test_invalid_json_is_reported_with_its_position(
    client: webtest.TestApp, database: Database, data: bytes, detail: str
) -> None:
    assert post(client, database, data).json["errors"] == [{"pointer": "", "detail": detail}]


def test_only_shortened_member_names_of_a_payload_are_quoted(client: webtest.TestApp, database: Database) -> None:
    secret, name = "<script>alert(1)</script>", "n" * 5000
    data = {**ERROR, "level": secret, "timestamp": secret, "tags": {name: 5, "é\r\n": 5}, "message": [secret]}
    response = post(client, database, data)
    assert len(response.json["errors"]) == 5
    assert b"script" not in response.body
    assert "/tags/" + "n" * problems.MAX_NAME_CHARACTERS + "…" in {
        error["pointer"] for error in response.json["errors"]
    }
    # JSON escapes all other characters.
    assert response.body.isascii()
    assert b"\r" not in response.body
    assert response.headers["X-Content-Type-Options"] == "nosniff"


HOSTILE = {
    "tags": {**MINIMAL, "tags": {str(number): 1 for number in range(20_000)}},
    "breadcrumbs": {**MINIMAL, "breadcrumbs": [1] * 120_000},
    "an error after many valid values": {**MINIMAL, "breadcrumbs": [*[{}] * 80_000, 1]},
    "names that are equal when shortened": {**MINIMAL, "tags": {"n" * 200 + str(n): 1 for n in range(1200)}},
    "spans": {**TRANSACTION, "spans": [{}] * 80_000},
    "a batch": [{**MINIMAL, "breadcrumbs": [1] * 6_000}] * 20,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_the_search_for_errors_is_bounded(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0
    type_keyword = jsonschema.Draft202012Validator.VALIDATORS["type"]

    def counted(*arguments: Any) -> Any:
        nonlocal looked_at
        looked_at += 1
        return type_keyword(*arguments)

    monkeypatch.setitem(jsonschema.Draft202012Validator.VALIDATORS, "type", counted)
    assert len(problems.find(data, 20)) <= 20
    assert 0 < looked_at <= problems.MAX_VALUES


def test_without_a_bound_every_error_is_found() -> None:
    assert len(problems.find(HOSTILE["a batch"])) == 120_000
