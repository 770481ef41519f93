"""The viewer: what it shows, to whom, and what it lets nobody do."""

import base64
import html
import json
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import webtest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import admin, create_app, embedded, migrations
from opensentry_ingest.viewer import Viewer, app, pages
from opensentry_ingest.viewer.access import LOOPBACK
from tests import support
from tests.support import AI_GENERATION, ERROR, TRANSACTION, Database
from tests.viewer import hostile

OURS = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def conninfo(database: Database) -> str:
    """The connection string of the viewer's role."""
    return make_conninfo(database.owner, user=embedded.VIEWER_ROLE)


@pytest.fixture(scope="module")
def viewer(conninfo: str, viewer_of: Callable[..., Viewer]) -> Viewer:
    return viewer_of(conninfo)


@pytest.fixture
def client(viewer: Viewer) -> webtest.TestApp:
    return webtest.TestApp(viewer, lint=True)


@pytest.fixture(scope="module")
def ingest(database: Database) -> Iterator[webtest.TestApp]:
    application = create_app(database.service)
    yield webtest.TestApp(application)
    application.close()


def store(ingest: webtest.TestApp, database: Database, *items: dict[str, Any]) -> str:
    """Store items; return the id of their batch."""
    batch_id: str = support.post(ingest, database.key, [*items]).json["id"]
    return batch_id


def new_issue(ingest: webtest.TestApp, database: Database, **members: Any) -> str:
    """Store an error that is an issue of its own; return the path of its page."""
    kind = "Error" + secrets.token_hex(8)
    batch_id = store(ingest, database, {**ERROR, "exception": {**ERROR["exception"], "type": kind}, **members})
    return f"/issues/{database.rows('events', batch_id)[0]['fingerprint']}"


def status_of(database: Database, path: str) -> str:
    status: str = database.fetch("SELECT status FROM opensentry.issues WHERE fingerprint = %s", path[8:44])[0]["status"]
    return status


# What is shown.


def test_a_stored_error_is_on_the_page_of_issues_and_has_one_of_its_own(
    client: webtest.TestApp, ingest: webtest.TestApp, database: Database
) -> None:
    path = new_issue(ingest, database)
    page = client.get("/issues")
    page.mustcontain("Cannot read property &#39;x&#39; of undefined", "loadData in app/page.tsx", f'href="{path}"')
    page = client.get(path)
    page.mustcontain("app/page.tsx:42:12", "User opened settings", "us-east", "user_123", "web@2.4.1", "production")
    page.mustcontain("1.0 s")  # From the breadcrumb to the error.


def test_an_error_links_to_its_trace_which_shows_everything_in_it(
    client: webtest.TestApp, ingest: webtest.TestApp, database: Database
) -> None:
    trace_id = "trace/1?a=b&c " + secrets.token_hex(4)
    path = new_issue(ingest, database, traceId=trace_id)
    store(ingest, database, {**TRANSACTION, "traceId": trace_id}, {**AI_GENERATION, "traceId": trace_id})
    (link,) = re.findall(r'href="(/trace\?[^"]+)"', client.get(path).text)
    page = client.get(html.unescape(link))
    page.mustcontain(
        "GET /api/checkout", "SELECT * FROM orders", "anthropic/claude-sonnet-4", "$0.0048", "245 ms", path
    )


def test_steps_lead_from_event_to_event(client: webtest.TestApp, ingest: webtest.TestApp, database: Database) -> None:
    path = new_issue(ingest, database)
    kind = client.get(path + ".json").json["event"]["exceptions"][0]["type"]
    for message in ("second", "third"):
        store(ingest, database, {**ERROR, "exception": {**ERROR["exception"], "type": kind, "value": message}})
    page = client.get(path)
    page.mustcontain("third")
    seen = []
    for _ in range(2):
        page = page.click("← Previous")
        seen.append(page.click("This page as JSON").json["event"]["exceptions"][0]["value"])
    assert seen == ["second", ERROR["exception"]["value"]]
    assert "third" in page.click("Next →").click("Next →").text


def test_the_chain_of_causes_is_shown(client: webtest.TestApp, ingest: webtest.TestApp, database: Database) -> None:
    frames = [{"filename": "gateway.py", "function": "send", "lineno": 7}]
    cause = {"type": "Refused", "value": "by the bank", "stacktrace": {"frames": frames}}
    page = client.get(new_issue(ingest, database, causes=[cause]))
    page.mustcontain("Caused by", "Refused", "by the bank", "gateway.py:7")


def test_frames_of_the_application_are_open_and_those_of_libraries_are_not(
    client: webtest.TestApp, ingest: webtest.TestApp, database: Database
) -> None:
    frames = [
        {"filename": name, "lineno": 2, "inApp": mine, "preContext": ["one"], "contextLine": "two", "postContext": []}
        for name, mine in (("library.py", False), ("mine.py", True))
    ]
    text = client.get(new_issue(ingest, database, exception={"type": "E", "stacktrace": {"frames": frames}})).text
    assert re.findall(r"<details( open)?>\s*<summary>.*?(library|mine)\.py:2", text) == [
        ("", "library"),
        (" open", "mine"),
    ]
    assert "<mark><span>2</span>two</mark>" in text
    assert "<span>1</span>one" in text


@pytest.mark.parametrize("path", ["/issues", "ISSUE", "TRACE"])
def test_every_page_has_its_data_beside_it_as_json(
    client: webtest.TestApp, ingest: webtest.TestApp, database: Database, path: str
) -> None:
    issue = new_issue(ingest, database, traceId="t1")
    path = {"ISSUE": issue, "TRACE": "/trace?id=t1"}.get(path, path)
    page = client.get(path, {} if "?" in path else {"since": "7d"})
    beside = page.click("This page as JSON")
    assert beside.content_type == "application/json"
    assert beside.json


@pytest.mark.parametrize("sort", ["last_seen", "events", "users", "first_seen"])
def test_cursors_lead_through_all_issues_once(
    client: webtest.TestApp, ingest: webtest.TestApp, database: Database, sort: str
) -> None:
    release = secrets.token_hex(4)
    paths = {new_issue(ingest, database, release=release) for _ in range(60)}
    page = client.get("/issues", {"release": release, "sort": sort, "since": "1h"})
    found = re.findall(r'href="(/issues/[0-9a-f-]{36})\?', page.text)
    assert len(found) == 50
    page = page.click("More issues")
    found += re.findall(r'href="(/issues/[0-9a-f-]{36})\?', page.text)
    assert (len(found), set(found)) == (60, paths)
    assert "More issues" not in page.text
    # Another order begins at its first page.
    assert "after=" not in page.click("Users").request.query_string


def test_filters_find_what_they_name(client: webtest.TestApp, ingest: webtest.TestApp, database: Database) -> None:
    mark = secrets.token_hex(4)
    path = new_issue(ingest, database, level="fatal", environment=f"e{mark}", release=f"r{mark}")
    title = client.get(path + ".json").json["issue"]["title"]
    found = {
        "status": "open",
        "level": "fatal",
        "environment": f"e{mark}",
        "release": f"r{mark}",
        "search": title[3:20],
    }
    for query in (found, {**found, "project": "test"}, {**found, "project": database.project_id, "since": "90m"}):
        assert path in client.get("/issues", query).text
    for name, other in (
        ("status", "ignored"),
        ("level", "debug"),
        ("environment", "x"),
        ("release", "x"),
        ("search", "x%"),
    ):
        assert path not in client.get("/issues", {**found, name: other}).text
    assert path not in client.get("/issues", {"from": "2001-01-01", "to": "2001-01-02T00:00Z"}).text


# What is refused.


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/issues/x", 404),
        ("/issues/00000000-0000-0000-0000-000000000000", 404),
        ("/issues/00000000-0000-0000-0000-000000000000/status", 405),
        ("/trace?id=nothing", 404),
        ("/trace", 400),
        ("/static/none.css", 404),
        ("/static/../app.py", 404),
        ("/issues?project=nothing", 404),
        ("/issues?since=x", 400),
        ("/issues?since=9999d", 400),
        ("/issues?from=x", 400),
        ("/issues?to=2026-01-01", 400),
        ("/issues?from=2026-01-02&to=2026-01-01", 400),
        ("/issues?from=0001-01-01T00:00%2B14:00", 400),
        ("/issues?sort=x", 400),
        ("/issues?status=x", 400),
        ("/issues?level=x", 400),
        ("/issues?after=x", 400),
        ("/issues?after=x~y", 400),
        ("/issues?search=%00", 400),
        ("/issues?" + "a=b&" * 60, 400),
    ],
)
def test_what_is_not_valid_gets_a_page_that_says_so(client: webtest.TestApp, path: str, status: int) -> None:
    page = client.get(path, status=status)
    assert page.content_type == "text/html"
    page.mustcontain("<h1>", 'href="/issues"')
    path, _, query = path.partition("?")
    beside = client.get(f"{path}.json?{query}", status=status)
    assert set(beside.json) == {"error", "detail"}


def test_parameters_with_the_names_of_ours_do_no_harm(client: webtest.TestApp) -> None:
    client.get("/issues?self=1&path=2&query=3&name=4&%FF=%FF", status=200)


def test_other_methods_are_refused(client: webtest.TestApp) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert client.request("/issues", method=method, status=405).headers["Allow"] == "GET, HEAD"
    assert client.head("/issues").body == b""


# What is changed.


def test_an_issue_is_resolved_ignored_and_reopened_from_its_page(
    client: webtest.TestApp, ingest: webtest.TestApp, database: Database
) -> None:
    path = new_issue(ingest, database)
    for button, status in (("resolved", "resolved"), ("open", "open"), ("ignored", "ignored"), ("open", "open")):
        form = client.get(path, {"since": "7d"}).forms[0]
        answer = form.submit("status", value=button, headers=OURS, status=303)
        assert answer.headers["Location"] == f"{path}?since=7d"
        assert status_of(database, path) == status


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:80"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Origin": "http://localhost"}, True),
        ({"Origin": "http://localhost:80"}, True),
        ({"Origin": "https://localhost:80"}, True),
        ({"Origin": "http://localhost:81"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://localhost.evil.example"}, False),
        ({"Origin": "http://[evil"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Host": "", "Origin": "http://"}, False),
    ],
)
def test_only_our_own_forms_change_anything(
    client: webtest.TestApp, ingest: webtest.TestApp, database: Database, headers: dict[str, str], allowed: bool
) -> None:
    path = new_issue(ingest, database)
    form = {"status": "resolved", "back": "/issues"}
    client.post(path + "/status", form, headers=headers, status=303 if allowed else 403)
    assert status_of(database, path) == ("resolved" if allowed else "open")


@pytest.mark.parametrize(
    "back",
    [
        "",
        "//evil.example/issues",
        "https://evil.example/issues",
        "/\\evil.example",
        "/static/viewer.css",
        "issues",
        "http://[x",
    ],
)
def test_a_form_leads_back_to_our_own_pages_only(
    client: webtest.TestApp, ingest: webtest.TestApp, database: Database, back: str
) -> None:
    path = new_issue(ingest, database)
    answer = client.post(path + "/status", {"status": "resolved", "back": back}, headers=OURS, status="*")
    if back in ("//evil.example/issues", "https://evil.example/issues"):
        assert answer.headers["Location"] == "/issues"
    else:
        assert answer.status_int == 400
        assert status_of(database, path) == "open"


def test_forms_that_are_not_ours_are_refused(
    client: webtest.TestApp, ingest: webtest.TestApp, database: Database
) -> None:
    path = new_issue(ingest, database)
    for form, status in (({"status": "x"}, 400), ({}, 400), ({"status": "open", "a": "b" * 10_000}, 400)):
        client.post(path + "/status", {"back": "/issues", **form}, headers=OURS, status=status)
    missing = "/issues/00000000-0000-0000-0000-000000000000/status"
    client.post(missing, {"back": "/issues", "status": "open"}, headers=OURS, status=404)
    client.post("/issues", {"back": "/issues"}, headers=OURS, status=405)


# Text of strangers.


@pytest.mark.parametrize("text", hostile.HOSTILE)
def test_what_a_client_sent_is_text(
    client: webtest.TestApp, ingest: webtest.TestApp, database: Database, text: str
) -> None:
    batch_id = store(ingest, database, hostile.error(text), hostile.transaction(text), hostile.ai_generation(text))
    issue = f"/issues/{database.rows('events', batch_id)[0]['fingerprint']}"
    filters = {"search": text, "environment": text, "release": text}
    with_text: list[tuple[str, dict[str, str]]] = [
        ("/issues", {}),
        ("/issues", {**filters, text: text}),
        (issue, {}),
        ("/trace", {"id": text}),
        ("/performance", {}),
        ("/performance/transaction", {"name": text}),
        ("/llm", {"tag": text}),
    ]
    refused = [("/issues", {**filters, "after": text}), ("/issues", {"project": text}), ("/trace", {"id": text + "x"})]
    for path, query in with_text + refused:
        page = client.get(path, query, status="*")
        assert page.status_int < 500
        if (path, query) in with_text:
            assert hostile.seen(text) in page.html.find("main").text
        for tag, attributes in hostile.elements(page.text):
            assert tag in hostile.TAGS.split()
            assert attributes.keys() <= {*hostile.ATTRIBUTES.split()}
            for name in ("href", "src", "action"):
                assert re.match("/(?!/)|#main$", attributes.get(name) or "/issues"), attributes


def test_what_cannot_be_seen_is_shown(client: webtest.TestApp, ingest: webtest.TestApp, database: Database) -> None:
    text = "a\x1b[31mb\u202ec\u2066d\u200be\x85f\x7fg"
    page = client.get(new_issue(ingest, database, exception={"type": "E", "value": text}))
    page.mustcontain("a␛[31mb⟨U+202E⟩c⟨U+2066⟩d⟨U+200B⟩e⟨U+0085⟩f␡g")
    raw = set(page.text) - {"\n"}
    assert not raw & set("\x1b\u202e\u2066\u200b\x85\x7f")


# Headers and access.


@pytest.mark.parametrize("path", ["/issues", "/issues.json", "/nothing", "/static/viewer.css", "/"])
def test_every_answer_has_the_headers_that_protect_it(client: webtest.TestApp, path: str) -> None:
    headers = client.get(path, status="*").headers
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == ("private, max-age=604800" if "static" in path else "no-store")
    assert "Set-Cookie" not in headers


@pytest.mark.parametrize("path", ["/issues", "/issues.json", "/static/viewer.css", "/nothing"])
def test_a_password_is_asked_for_everywhere(conninfo: str, path: str, viewer_of: Callable[..., Viewer]) -> None:
    client = webtest.TestApp(viewer_of(conninfo, password="pässwörd: secret"))

    def status(user: str, password: str, scheme: str = "Basic") -> int:
        credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        answer = client.get(path, headers={"Authorization": f"{scheme} {credentials}"}, status="*")
        return int(answer.status_int)

    answer = client.get(path, status=401)
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    client.post("/issues/x/status", headers=OURS, status=401)
    for wrong in ("", "pässwörd", "pässwörd: secret ", "secret"):
        assert status("a", wrong) == 401
    for value in ("Basic", "Basic !", "Basic gICA", "Bearer x"):
        client.get(path, headers={"Authorization": value}, status=401)
    assert {status("anyone", "pässwörd: secret"), status("", "pässwörd: secret", "basic")} == {
        404 if path == "/nothing" else 200
    }


def test_the_password_is_read_from_the_environment(
    conninfo: str, monkeypatch: pytest.MonkeyPatch, viewer_of: Callable[..., Viewer]
) -> None:
    monkeypatch.setenv("OPENSENTRY_VIEWER_PASSWORD", "secret")
    webtest.TestApp(viewer_of(conninfo)).get("/issues", status=401)
    webtest.TestApp(viewer_of(conninfo, password="")).get("/issues", status=200)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:3002", 200),
        ("127.0.0.1:9", 200),
        ("[::1]:3002", 200),
        ("evil.example", 403),
        ("localhost.evil.example:3002", 403),
        ("localhost@evil.example", 403),
        ("[", 403),
        ("", 403),
    ],
)
def test_without_a_password_it_has_the_names_of_this_machine_only(
    conninfo: str, host: str, status: int, viewer_of: Callable[..., Viewer]
) -> None:
    client = webtest.TestApp(viewer_of(conninfo, hosts=LOOPBACK))
    client.get("/issues", headers={"Host": host}, status=status)


# The database.


def test_an_empty_database_says_how_to_send_a_first_event(
    postgres: str, bare_database: str, viewer_of: Callable[..., Viewer]
) -> None:
    with psycopg.connect(bare_database, autocommit=True) as connection:
        migrations.migrate(connection)
        client = webtest.TestApp(viewer_of(make_conninfo(bare_database, user=embedded.VIEWER_ROLE)))
        client.get("/issues").mustcontain("opensentry-ingest project create shop")
        key = admin.create_project(connection, "quiet")["public_key"]
        client.get("/issues?project=quiet").mustcontain(f"curl -i http://{key}@localhost:3001/v1/ingest")
        admin.revoke_key(connection, key)
        client.get("/issues?project=quiet").mustcontain("opensentry-ingest key create quiet")


def test_where_the_database_is_away_a_page_says_so_and_later_works(
    database: Database, conninfo: str, viewer_of: Callable[..., Viewer]
) -> None:
    proxy = support.Proxy(conninfo)
    client = webtest.TestApp(viewer_of(proxy.conninfo))
    client.get("/issues", status=200)
    proxy.stop()
    page = client.get("/issues", status=503)
    page.mustcontain("The database is unavailable", "reload this page")
    assert "Traceback" not in page.text
    assert page.headers["Retry-After"]
    assert client.get("/issues.json", status=503).json["error"] == "The database is unavailable"
    client.get("/static/viewer.css", status=200)
    proxy.start()
    client.get("/issues", status=200)
    proxy.stop()


def test_a_role_without_the_rights_is_told_which_it_needs(database: Database, viewer_of: Callable[..., Viewer]) -> None:
    client = webtest.TestApp(viewer_of(database.service))
    client.get("/issues", status=503).mustcontain("IN ROLE opensentry_reader")


def test_a_database_that_is_not_migrated_is_told_what_to_run(
    bare_database: str, viewer_of: Callable[..., Viewer]
) -> None:
    client = webtest.TestApp(viewer_of(bare_database))
    client.get("/issues", status=503).mustcontain("opensentry-ingest migrate")


def test_a_query_that_takes_too_long_is_cancelled(
    database: Database, conninfo: str, viewer_of: Callable[..., Viewer]
) -> None:
    client = webtest.TestApp(viewer_of(conninfo, database_timeout=0.5))
    with psycopg.connect(database.owner) as connection:
        connection.execute("LOCK TABLE opensentry.issues IN ACCESS EXCLUSIVE MODE")
        client.get("/issues", status=503).mustcontain("longer than 0.5 seconds", "shorter time range")
    client.get("/issues", status=200)


def test_the_role_of_the_viewer_can_change_nothing_but_the_status_of_an_issue(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in (
            "INSERT INTO opensentry.projects (name) VALUES ('x')",
            "UPDATE opensentry.issues SET title = 'x'",
            "DELETE FROM opensentry.events",
            "SELECT opensentry.ingest('', NULL, '[]')",
            "CREATE TABLE opensentry.x ()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_a_page_is_one_transaction_that_only_reads(
    client: webtest.TestApp, ingest: webtest.TestApp, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = new_issue(ingest, database, traceId="t2")
    executed: list[str] = []
    original = psycopg.Cursor.execute

    def execute(self: Any, query: Any, *arguments: Any, **keywords: Any) -> Any:
        executed.append(str(self.connection.read_only))
        return original(self, query, *arguments, **keywords)

    monkeypatch.setattr(psycopg.Cursor, "execute", execute)
    for page in ("/issues?since=30d&sort=users&status=open", path, "/trace?id=t2"):
        executed.clear()
        client.get(page, status=200)
        assert 2 <= len(executed) <= 20
        assert set(executed) == {"True"}


# Files.


def test_the_stylesheet_and_the_script_are_small() -> None:
    assert len(app.STATIC["viewer.css"]) < 12_000
    assert len(app.STATIC["viewer.js"]) < 4_000


def test_no_template_has_a_style_a_script_or_a_handler_of_its_own() -> None:
    folder = support.ROOT / "opensentry_ingest/viewer/templates"
    for path in folder.iterdir():
        text = path.read_text("utf-8")
        assert not re.search(r"style=|<style|\son\w+=|\|\s*safe\b|autoescape", text), path
        assert re.findall(r"<script(?! src=)", text) == [], path


def test_it_can_be_mounted_below_a_path(viewer: Viewer, ingest: webtest.TestApp, database: Database) -> None:
    path = new_issue(ingest, database)
    client = webtest.TestApp(viewer, extra_environ={"SCRIPT_NAME": "/shop/errörs".encode().decode("latin-1")})
    root = "/shop/err%C3%B6rs"
    for page in (client.get("/issues"), client.get(path), client.get("/nothing", status=404)):
        links = re.findall(r'(?:href|src|action)="(/[^"]*)"', page.text)
        assert links
        assert all(link.startswith(root + "/") for link in links), links
    answer = client.post(path + "/status", {"status": "ignored", "back": path}, headers=OURS, status=303)
    assert answer.location.endswith(root + path)


def test_a_bug_gets_a_page_and_a_traceback_in_the_log(
    client: webtest.TestApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> dict[str, Any]:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(app, "PAGES", (pages.Page("/issues", broken, "issues.html"),))
    page = client.get("/issues", status=500)
    page.mustcontain("This page has a bug", no="secret")
    assert "ZeroDivisionError" in caplog.text


def test_json_is_valid_whatever_was_sent(client: webtest.TestApp, ingest: webtest.TestApp, database: Database) -> None:
    path = new_issue(ingest, database, extra_number=1e300, deep={"a": [None, True, 0.1]})
    event = client.get(path + ".json").json["event"]
    assert json.loads(event["raw"])["extra"]["deep"] == {"a": [None, True, 0.1]}
