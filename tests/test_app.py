"""The application: routes, methods, the order of checks, the precedence of keys, CORS, and failures."""

import base64
import json
import logging
import os
from typing import Any

import psycopg
import pytest
import webtest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import admin, create_app, embedded, migrations
from tests.support import ERROR, MINIMAL, Database

VALID = json.dumps(MINIMAL).encode()
LARGE = b" " * 262_145


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(user.encode()).decode()


def request(client: webtest.TestApp, method: str, path: str, body: bytes = b"", **headers: str) -> webtest.TestResponse:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.request(path, method=method, body=body, headers=names, expect_errors=True)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/ingest/", "/v1/ingest/x", "/health/", "//v1/ingest", "/V1/INGEST"])
def test_another_path_is_not_found(client: webtest.TestApp, path: str) -> None:
    response = request(client, "POST", path, VALID)
    assert (response.status_int, response.body) == (404, b'{"error": "Not found"}')


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/ingest", "POST, OPTIONS"),
        ("PUT", "/v1/ingest", "POST, OPTIONS"),
        ("HEAD", "/v1/ingest", "POST, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("DELETE", "/health", "GET, HEAD, OPTIONS"),
        ("POST", "/ready", "GET, HEAD, OPTIONS"),
    ],
)
def test_another_method_is_not_allowed(client: webtest.TestApp, method: str, path: str, allow: str) -> None:
    response = request(client, method, path)
    assert (response.status_int, response.headers["Allow"]) == (405, allow)
    assert response.body == (b"" if method == "HEAD" else b'{"error": "Method not allowed"}')


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_head_is_get_without_the_body(client: webtest.TestApp, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (get.status, get.body) == ("200 OK", b'{"status": "ok"}')
    assert (head.status, head.body) == ("200 OK", b"")
    # Each request has an id of its own.
    assert head.headers.pop("X-Request-Id") != get.headers.pop("X-Request-Id")
    assert sorted(head.headers.items()) == sorted(get.headers.items())


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/ingest", "/elsewhere"])
def test_options_is_answered_everywhere(client: webtest.TestApp, path: str) -> None:
    response = request(client, "OPTIONS", path)
    assert (response.status, response.body) == ("204 No Content", b"")
    assert "OPTIONS" in response.headers["Allow"]


# Each request breaks one rule and all that follow it; the first one decides.
BROKEN_FROM = {
    404: ("PUT", "/elsewhere", {"Idempotency-Key": "", "Content-Encoding": "br"}, LARGE),
    405: ("PUT", "/v1/ingest", {"Idempotency-Key": "", "Content-Encoding": "br"}, LARGE),
    401: ("POST", "/v1/ingest", {"Idempotency-Key": "", "Content-Encoding": "br"}, LARGE),
    400: ("POST", "/v1/ingest?key=no", {"Idempotency-Key": "", "Content-Encoding": "br"}, LARGE),
    413: ("POST", "/v1/ingest?key=no", {"Content-Encoding": "br"}, LARGE),
    415: ("POST", "/v1/ingest?key=no", {"Content-Encoding": "br"}, b"{"),
}


@pytest.mark.parametrize("status", BROKEN_FROM)
def test_the_first_broken_rule_decides(client: webtest.TestApp, status: int) -> None:
    method, path, headers, body = BROKEN_FROM[status]
    response = client.request(path, method=method, headers=headers, body=body, expect_errors=True)
    assert response.status_int == status


@pytest.mark.parametrize(
    ("body", "error"),
    [(b"{", "Invalid JSON"), (b"{}", "Invalid payload"), (VALID, "Invalid DSN key")],
)
def test_the_body_is_checked_before_the_key_is_known(client: webtest.TestApp, body: bytes, error: str) -> None:
    assert request(client, "POST", "/v1/ingest?key=no", body).json == {"error": error}


def test_an_unsupported_encoding_names_those_supported(client: webtest.TestApp) -> None:
    response = request(client, "POST", "/v1/ingest?key=no", VALID, Content_Encoding="br")
    assert response.json == {"error": "Unsupported content encoding"}
    assert response.headers["Accept-Encoding"] == "gzip, deflate"


@pytest.mark.parametrize("value", ["", "x" * 256, "caf\u00e9", "tab\there"])
def test_an_invalid_idempotency_key_is_refused(client: webtest.TestApp, value: str) -> None:
    response = request(client, "POST", "/v1/ingest?key=no", VALID, Idempotency_Key=value)
    assert (response.status_int, response.json) == (400, {"error": "Invalid idempotency key"})


# The right key in one place, and wrong ones in every place of lower precedence.
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("X-Open-Sentry-Key", ["X-Sentry-Clone-Key", "Authorization", "query"]),
        ("X-Sentry-Clone-Key", ["Authorization", "query"]),
        ("Authorization", ["query"]),
    ],
)
@pytest.mark.parametrize("empty", [False, True])
def test_the_first_key_that_is_not_empty_is_used(
    client: webtest.TestApp, database: Database, right: str, wrong: list[str], empty: bool
) -> None:
    def value(place: str, key: str) -> str:
        return basic(key + ":password") if place == "Authorization" else key

    headers = {right: value(right, database.key)}
    headers |= {place: value(place, "wrong") for place in wrong if place != "query"}
    if empty:
        before = ["X-Open-Sentry-Key", "X-Sentry-Clone-Key", "Authorization"]
        headers |= {place: value(place, "") for place in before[: before.index(right)]}
    response = client.post("/v1/ingest?key=wrong", VALID, headers=headers)
    assert response.status_int == 202


def test_the_first_of_two_keys_in_the_query_is_used(client: webtest.TestApp, database: Database) -> None:
    assert request(client, "POST", f"/v1/ingest?key={database.key}&key=wrong", VALID).status_int == 202
    assert request(client, "POST", f"/v1/ingest?key=wrong&key={database.key}", VALID).status_int == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer abc"},
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:").decode()},
        {"Authorization": basic(":password")},
        {"X-Open-Sentry-Key": " "},
    ],
)
def test_an_unusable_key_counts_as_missing(client: webtest.TestApp, headers: dict[str, str]) -> None:
    response = client.post("/v1/ingest?key=", VALID, headers=headers, expect_errors=True)
    assert (response.status_int, response.json) == (401, {"error": "Missing auth key"})


@pytest.mark.parametrize("key", ["%00", "%FF", "x" * 2000, "%F0%9F%92%A5", "'%20OR%20true--"])
def test_a_strange_key_is_unknown(client: webtest.TestApp, key: str) -> None:
    response = request(client, "POST", f"/v1/ingest?key={key}", VALID)
    assert (response.status_int, response.json) == (403, {"error": "Invalid DSN key"})


def test_a_revoked_key_stops_at_once(client: webtest.TestApp, database: Database) -> None:
    database.fetch(
        "INSERT INTO opensentry.project_keys (public_key, project_id) VALUES ('old', %s) ON CONFLICT (public_key) "
        "DO UPDATE SET revoked_at = NULL",
        database.project_id,
    )
    assert request(client, "POST", "/v1/ingest?key=old", VALID).status_int == 202
    database.fetch("UPDATE opensentry.project_keys SET revoked_at = now() WHERE public_key = 'old'")
    assert request(client, "POST", "/v1/ingest?key=old", VALID).status_int == 403
    assert request(client, "POST", f"/v1/ingest?key={database.key}", VALID).status_int == 202


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/v1/ingest?key=no", 403), ("POST", "/v1/ingest", 401), ("GET", "/x", 404), ("GET", "/health", 200)],
)
def test_a_page_can_read_every_answer(client: webtest.TestApp, method: str, path: str, status: int) -> None:
    response = request(client, method, path, VALID if method == "POST" else b"", Origin="https://app.example.com")
    assert response.status_int == status
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert response.headers["Access-Control-Allow-Credentials"] == "true"
    assert response.headers["Vary"] == "Origin"
    assert "Set-Cookie" not in response.headers


def test_a_preflight_may_be_cached_for_a_day(client: webtest.TestApp) -> None:
    response = request(
        client,
        "OPTIONS",
        "/v1/ingest",
        Origin="https://app.example.com",
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="content-type,x-open-sentry-key",
    )
    assert response.status_int == 204
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    allowed = response.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"content-type", "x-open-sentry-key", "idempotency-key", "content-encoding"} <= set(allowed)
    assert response.headers["Access-Control-Max-Age"] == "86400"


def test_an_origin_that_is_not_listed_stores_nothing(database: Database) -> None:
    app = create_app(database.service, allowed_origins=["https://app.example.com"])
    client = webtest.TestApp(app)
    before = database.counts()
    path = f"/v1/ingest?key={database.key}"
    for method in ("POST", "OPTIONS"):
        response = request(client, method, path, VALID, Origin="https://evil.example.com")
        assert (response.status_int, response.json) == (403, {"error": "Origin not allowed"})
        assert "Access-Control-Allow-Origin" not in response.headers
    assert database.counts() == before
    assert request(client, "POST", path, VALID, Origin="https://app.example.com").status_int == 202
    # Clients other than browsers send no origin.
    assert request(client, "POST", path, VALID).status_int == 202
    app.close()


def test_an_empty_list_of_origins_allows_none(database: Database) -> None:
    app = create_app(database.service, allowed_origins=[])
    client = webtest.TestApp(app)
    path = f"/v1/ingest?key={database.key}"
    for method in ("POST", "OPTIONS"):
        response = request(client, method, path, VALID, Origin="https://app.example.com")
        assert (response.status_int, response.json) == (403, {"error": "Origin not allowed"})
        assert "Access-Control-Allow-Origin" not in response.headers
    assert request(client, "POST", path, VALID).status_int == 202
    app.close()


def test_an_origin_may_be_listed_with_its_default_port(database: Database) -> None:
    app = create_app(database.service, allowed_origins=["https://a.example:443"])
    path = f"/v1/ingest?key={database.key}"
    response = request(webtest.TestApp(app), "POST", path, VALID, Origin="https://a.example")
    assert response.status_int == 202
    assert response.headers["Access-Control-Allow-Origin"] == "https://a.example"
    app.close()


def test_a_mounted_app_routes_on_path_info_alone(client: webtest.TestApp, database: Database) -> None:
    response = client.post(
        f"/v1/ingest?key={database.key}", VALID, extra_environ={"SCRIPT_NAME": "/sentry", "REQUEST_METHOD": "POST"}
    )
    assert response.status_int == 202


def test_a_bug_is_logged_with_its_traceback_and_never_shown(
    client: webtest.TestApp, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # A constraint that every valid payload satisfies, and that fails nevertheless.
    database.fetch(
        "CREATE FUNCTION bug() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE 'a secret' USING ERRCODE = 'not_null_violation'; END$$"
    )
    database.fetch("CREATE TRIGGER bug BEFORE INSERT ON opensentry.events FOR EACH ROW EXECUTE FUNCTION bug()")
    try:
        with caplog.at_level(logging.ERROR, "opensentry_ingest"):
            response = client.post_json(f"/v1/ingest?key={database.key}", ERROR, expect_errors=True)
    finally:
        database.fetch("DROP FUNCTION bug CASCADE")
    assert (response.status_int, response.body) == (500, b'{"error": "Internal server error"}')
    assert caplog.records[0].exc_info
    assert caplog.records[0].exc_info[0] is psycopg.errors.NotNullViolation


def test_two_apps_in_one_process_store_in_two_databases(database: Database, bare_database: str) -> None:
    other = Database(bare_database, make_conninfo(bare_database, user=embedded.SERVICE_ROLE), "", "")
    one, two = create_app(database.service), create_app(other.service)
    path = f"/v1/ingest?key={database.key}"
    # Nothing can be stored before the migration.
    assert webtest.TestApp(two).post(path, VALID, status=503).headers["Retry-After"]
    with psycopg.connect(other.owner, autocommit=True) as connection:
        migrations.migrate(connection)
        key = admin.create_project(connection, "other")["public_key"]
    for app, home, away, path in (
        (one, database, other, f"/v1/ingest?key={database.key}"),
        (two, other, database, f"/v1/ingest?key={key}"),
        (one, database, other, f"/v1/ingest?key={database.key}"),
    ):
        batch_id = webtest.TestApp(app).post(path, VALID, status=202).json["id"]
        assert home.rows("events", batch_id)
        assert not away.rows("events", batch_id)
    one.close()
    two.close()


def test_a_fork_does_not_share_connections(database: Database) -> None:
    app = create_app(database.service)
    client = webtest.TestApp(app)
    path = f"/v1/ingest?key={database.key}"
    ids = {client.post(path, VALID).json["id"]}
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, client.post(path, VALID).json["id"].encode())
        finally:
            os._exit(0)
    ids |= {client.post(path, VALID).json["id"] for _ in range(20)}
    os.waitpid(child, 0)
    ids.add(os.read(reading, 100).decode())
    assert len(ids) == 22
    stored: list[Any] = database.fetch(
        "SELECT count(*) FROM opensentry.events WHERE batch_id = ANY(%s::uuid[])", list(ids)
    )
    assert stored == [{"count": 22}]
    app.close()
