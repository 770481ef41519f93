"""The published contract: every exact status and body, for each way to send the key."""

import base64
import json
from typing import Any

import pytest
import webtest

from tests.support import AI_GENERATION, ERROR, MINIMAL, TRANSACTION, Database

WAYS = {
    "header": lambda key: {"headers": {"X-Open-Sentry-Key": key}},
    "legacy header": lambda key: {"headers": {"X-Sentry-Clone-Key": key}},
    "basic": lambda key: {"headers": {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}},
    "query": lambda key: {"query": f"?key={key}"},
}


def send(
    client: webtest.TestApp, body: bytes, query: str = "", headers: dict[str, str] | None = None
) -> webtest.TestResponse:
    return client.post("/v1/ingest" + query, body, headers=headers or {}, expect_errors=True)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Any:
    return WAYS[request.param]


def test_health_is_ok(client: webtest.TestApp) -> None:
    response = client.get("/health")
    assert (response.status, response.body) == ("200 OK", b'{"status": "ok"}')


@pytest.mark.parametrize("item", [ERROR, TRANSACTION, AI_GENERATION, MINIMAL], ids=lambda item: item["type"])
def test_an_item_is_accepted(client: webtest.TestApp, database: Database, way: Any, item: Any) -> None:
    response = send(client, json.dumps(item).encode(), **way(database.key))
    assert response.status == "202 Accepted"
    assert list(response.json) == ["id"]
    assert response.body == b'{"id": "%s"}' % response.json["id"].encode()
    assert any(database.rows(table, response.json["id"]) for table in ("events", "transactions", "ai_generations"))


@pytest.mark.parametrize(
    ("status", "body", "sent"),
    [
        ("400 Bad Request", b'{"error": "Invalid JSON"}', b"{"),
        ("400 Bad Request", b'{"error": "Invalid JSON"}', b""),
        ("400 Bad Request", b'{"error": "Invalid payload"}', b"{}"),
        ("400 Bad Request", b'{"error": "Invalid payload"}', b"null"),
        ("413 Request Entity Too Large", b'{"error": "Payload too large"}', b"x" * 262_145),
    ],
)
def test_a_refused_body_gets_the_exact_answer(
    client: webtest.TestApp, database: Database, way: Any, status: str, body: bytes, sent: bytes
) -> None:
    before = database.counts()
    response = send(client, sent, **way(database.key))
    assert (response.status_int, response.body) == (int(status[:3]), body)
    assert response.content_type == "application/json"
    assert database.counts() == before


def test_an_unknown_key_is_refused(client: webtest.TestApp, database: Database, way: Any) -> None:
    before = database.counts()
    response = send(client, json.dumps(ERROR).encode(), **way("abc123"))
    assert (response.status, response.body) == ("403 Forbidden", b'{"error": "Invalid DSN key"}')
    assert database.counts() == before


def test_a_request_without_a_key_is_refused(client: webtest.TestApp, database: Database) -> None:
    before = database.counts()
    response = send(client, json.dumps(ERROR).encode())
    assert (response.status, response.body) == ("401 Unauthorized", b'{"error": "Missing auth key"}')
    assert database.counts() == before
