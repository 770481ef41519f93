"""What a page can send and read across origins, and what an operator's list of origins keeps out."""

import json
import secrets
from typing import Any

import pytest
from playwright.sync_api import Page

from tests import support
from tests.support import MINIMAL, Database, Server

VALID = json.dumps(MINIMAL)

FETCH = """async ([url, options]) => {
    try {
        const response = await fetch(url, options);
        const retryAfter = response.headers.get("Retry-After");
        return {status: response.status, json: JSON.parse(await response.text()), retryAfter};
    } catch (error) {
        return {error: error.name};
    }
}"""

CLIENT = "dsn => sentry.init({dsn, environment: 'browser', release: 'r1', tracesSampleRate: 1})"


def fetch(page: Page, url: str, **options: Any) -> dict[str, Any]:
    """Have the page fetch; return what its script could see of the answer."""
    result: dict[str, Any] = page.evaluate(FETCH, [url, {"method": "POST", **options}])
    return result


def dsn(server: Server, database: Database) -> str:
    return f"http://{database.key}@127.0.0.1:{server.port}/v1/ingest"


def ingest(server: Server, database: Database) -> str:
    return f"{server.url}/v1/ingest?key={database.key}"


def arrived(database: Database, message: str) -> list[dict[str, Any]]:
    return database.fetch("SELECT * FROM opensentry.events WHERE exception_value = %s", message)


def check_beacon(page: Page, server: Server, database: Database, seconds: float = 20) -> None:
    """Check that what the published client sends by a beacon arrives."""
    message = "beacon " + secrets.token_hex(8)
    kinds: list[str] = []
    page.on("request", lambda request: kinds.append(request.resource_type))
    page.evaluate(CLIENT, dsn(server, database))
    page.evaluate("message => { sentry.captureException(new RangeError(message)); sentry.flush(); }", message)
    support.wait_until(lambda: arrived(database, message), seconds)
    (event,) = arrived(database, message)
    assert (event["exception_type"], event["environment"], event["release"]) == ("RangeError", "browser", "r1")
    assert {"ping", "beacon"} & set(kinds), kinds
    assert "fetch" not in kinds


def check_pagehide(page: Page, server: Server, database: Database, seconds: float = 20) -> None:
    """Check that what the published client sends while its page goes away arrives."""
    message = "pagehide " + secrets.token_hex(8)
    page.evaluate(CLIENT, dsn(server, database))
    # The client sends its queue on beforeunload as well; what comes into it after that can only leave on pagehide.
    page.evaluate(
        "message => addEventListener('beforeunload', () => sentry.captureException(new Error(message)))", message
    )
    page.goto("about:blank")
    support.wait_until(lambda: arrived(database, message), seconds)


def check_fetch_with_credentials(page: Page, server: Server, database: Database, seconds: float = 20) -> None:
    """Check that a page that sends its cookies wherever it fetches, as some do, can post and read the answer."""
    headers = {"Content-Type": "application/json", "X-Open-Sentry-Key": database.key}
    result = fetch(page, f"{server.url}/v1/ingest", headers=headers, body=VALID, credentials="include")
    assert result.get("status") == 202, result


CHECKS = [check_beacon, check_pagehide, check_fetch_with_credentials]


@pytest.mark.parametrize("check", CHECKS)
def test_what_a_page_sends_arrives(check: Any, page: Page, server: Server, database: Database) -> None:
    check(page, server, database)


@pytest.mark.parametrize("check", CHECKS)
def test_a_wildcard_for_an_origin_would_be_noticed(
    check: Any, page: Page, wildcard_server: Server, database: Database
) -> None:
    # Nothing else is wrong with this service: without credentials, the wildcard is one.
    result = fetch(page, ingest(wildcard_server, database), body=VALID, headers={"Content-Type": "application/json"})
    assert result["status"] == 202
    with pytest.raises(AssertionError):
        check(page, wildcard_server, database, seconds=4)


def test_everything_that_the_published_client_captures_in_a_page_arrives(
    page: Page, server: Server, database: Database
) -> None:
    page.evaluate(CLIENT, dsn(server, database))
    page.evaluate(
        """() => {
            console.log("a breadcrumb");
            history.pushState({}, "", "/page.html?settings");
            sentry.setUser({id: "42", email: "user@example.com"});
            sentry.setTag("feature", "checkout");
            setTimeout(() => { throw new TypeError("uncaught \\u0000 \\ud83d"); });
            Promise.reject(new Error("unhandled"));
            const transaction = sentry.startTransaction("page load");
            transaction.startChild("paint", "first").finish();
            transaction.finish();
            sentry.captureGeneration({provider: "p", model: "browser model", inputTokens: 3, latencyMs: 7});
        }"""
    )
    # The client empties its queue every two seconds.
    support.wait_until(lambda: arrived(database, "unhandled") and arrived(database, "uncaught \ufffd \ufffd"))
    (uncaught,) = arrived(database, "uncaught \ufffd \ufffd")
    assert uncaught["exception_type"] == "TypeError"
    assert (uncaught["user"], uncaught["tags"]) == ({"id": "42", "email": "user@example.com"}, {"feature": "checkout"})
    assert {crumb["category"] for crumb in uncaught["breadcrumbs"]} == {"console", "navigation"}
    (transaction,) = database.fetch("SELECT * FROM opensentry.transactions WHERE name = 'page load'")
    (span,) = database.rows("spans", transaction["batch_id"])
    assert (span["op"], span["description"]) == ("paint", "first")
    (generation,) = database.fetch("SELECT * FROM opensentry.ai_generations WHERE model = 'browser model'")
    assert (generation["input_tokens"], generation["latency_ms"]) == (3, 7)


@pytest.mark.parametrize("media_type", ["application/json", "text/plain", ""])
def test_a_beacon_of_any_type_arrives(media_type: str, page: Page, server: Server, database: Database) -> None:
    message = "typed " + secrets.token_hex(8)
    body = json.dumps({**MINIMAL, "message": message})
    sent = page.evaluate(
        "([url, body, type]) => navigator.sendBeacon(url, type ? new Blob([body], {type}) : body)",
        [ingest(server, database), body, media_type],
    )
    assert sent
    support.wait_until(lambda: arrived(database, message))


@pytest.mark.parametrize("header", ["X-Open-Sentry-Key", "X-Sentry-Clone-Key", "Authorization"])
def test_a_page_can_post_with_a_key_in_a_header(header: str, page: Page, server: Server, database: Database) -> None:
    value = (
        "Basic " + page.evaluate("key => btoa(key + ':')", database.key) if header == "Authorization" else database.key
    )
    result = fetch(page, f"{server.url}/v1/ingest", headers={header: value}, body=VALID)
    assert result["status"] == 202
    assert len(database.rows("events", result["json"]["id"])) == 1


@pytest.mark.parametrize(
    ("path", "options", "status", "answer"),
    [
        ("/v1/ingest?key=KEY", {"body": "{"}, 400, {"error": "Invalid JSON"}),
        ("/v1/ingest?key=KEY", {"body": "{}"}, 400, {"error": "Invalid payload"}),
        ("/v1/ingest", {"body": VALID}, 401, {"error": "Missing auth key"}),
        ("/v1/ingest?key=abc123", {"body": VALID}, 403, {"error": "Invalid DSN key"}),
        ("/v1/ingest", {"body": VALID, "headers": {"X-Open-Sentry-Key": "abc123"}}, 403, {"error": "Invalid DSN key"}),
        ("/v1/ingest?key=KEY", {"body": "x" * 262_145}, 413, {"error": "Payload too large"}),
        ("/v1/ingest?key=KEY", {"body": "x" * 1_000_000}, 413, {"error": "Payload too large"}),
        (
            "/v1/ingest?key=KEY",
            {"body": VALID, "headers": {"Content-Encoding": "br"}},
            415,
            {"error": "Unsupported content encoding"},
        ),
        ("/v1/ingest", {"method": "PUT", "body": VALID}, None, None),
        ("/v1/ingest", {"method": "GET"}, 405, {"error": "Method not allowed"}),
        ("/elsewhere", {"body": VALID}, 404, {"error": "Not found"}),
        ("/health", {"method": "GET"}, 200, {"status": "ok"}),
    ],
)
@pytest.mark.parametrize("credentials", ["include", "omit"])
def test_a_page_can_read_every_answer(
    path: str,
    options: dict[str, Any],
    status: int | None,
    answer: dict[str, str] | None,
    credentials: str,
    page: Page,
    server: Server,
    database: Database,
) -> None:
    result = fetch(page, server.url + path.replace("KEY", database.key), credentials=credentials, **options)
    # What the preflight does not allow, as PUT, never leaves the browser.
    expected = {"status": status, "json": answer, "retryAfter": None} if status else {"error": "TypeError"}
    assert result == expected


def test_a_page_can_read_that_the_service_is_away_and_for_how_long(
    page: Page, server_without_database: Server, database: Database
) -> None:
    result = fetch(page, ingest(server_without_database, database), body=VALID)
    assert result == {"status": 503, "json": {"error": "Service unavailable"}, "retryAfter": "5"}


def test_a_page_can_ask_for_problem_details(page: Page, server: Server, database: Database) -> None:
    result = fetch(page, ingest(server, database), headers={"Accept": "application/problem+json"}, body="[{}]")
    assert result["json"]["errors"] == [{"pointer": "/0/type", "detail": "is required"}]


def test_a_page_can_post_packed(page: Page, server: Server, database: Database) -> None:
    result = page.evaluate(
        """async ([url, body]) => {
            const packed = new Blob([body]).stream().pipeThrough(new CompressionStream("gzip"));
            const options = {method: "POST", headers: {"Content-Encoding": "gzip"}};
            const response = await fetch(url, {...options, body: await new Response(packed).blob()});
            return [response.status, await response.json()];
        }""",
        [ingest(server, database), VALID],
    )
    assert result[0] == 202
    assert len(database.rows("events", result[1]["id"])) == 1


def test_a_page_can_repeat_a_post_by_its_idempotency_key(page: Page, server: Server, database: Database) -> None:
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    results = [fetch(page, ingest(server, database), headers=headers, body=VALID) for _ in range(2)]
    assert results[0]["status"] == 202
    assert results[0] == results[1]


def test_one_preflight_serves_many_posts(page: Page, database: Database, tmp_path: Any) -> None:
    options = ("--workers", "1", "--threads", "4", "--access-logfile", "-")
    with support.gunicorn(database.service, tmp_path / "log", *options) as server:
        for _ in range(5):
            assert (
                fetch(page, f"{server.url}/v1/ingest", headers={"X-Open-Sentry-Key": "no"}, body="[]")["status"] == 400
            )
        support.wait_until(lambda: server.log.read_text().count('"POST /v1/ingest') == 5)
        assert server.log.read_text().count('"OPTIONS /v1/ingest') == 1


@pytest.mark.parametrize("check", CHECKS)
def test_an_origin_on_the_operator_s_list_may_post(
    check: Any, page: Page, closed_server: Server, database: Database
) -> None:
    check(page, closed_server, database)


def test_an_origin_that_is_not_on_the_list_is_refused_and_stores_nothing(
    page: Page, other_page: Page, closed_server: Server, database: Database
) -> None:
    before = database.counts()
    headers = {"Content-Type": "application/json", "X-Open-Sentry-Key": database.key}
    url = ingest(closed_server, database)
    # One that a preflight stops, and one that needs none, so that the service has to.
    assert fetch(other_page, url, headers=headers, body=VALID) == {"error": "TypeError"}
    assert fetch(other_page, url, body=VALID) == {"error": "TypeError"}
    other_page.evaluate(CLIENT, dsn(closed_server, database))
    other_page.evaluate("() => { sentry.captureException(new Error('a beacon')); sentry.flush(); }")
    for body in (VALID, "{}"):
        other_page.evaluate("([url, body]) => navigator.sendBeacon(url, body)", [url, body])
    # By the time that a later request of the same page was answered, the beacons were, too.
    assert fetch(other_page, url, body=VALID) == {"error": "TypeError"}
    other_page.goto("about:blank")
    assert fetch(page, url, body=VALID)["status"] == 202
    assert database.counts() == {**before, "events": before["events"] + 1}
