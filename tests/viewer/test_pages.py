"""Every page in Chromium: accessible, without JavaScript, on a phone, and whatever was sent."""

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest

from opensentry_ingest import admin
from opensentry_ingest.uuids import uuid7
from tests.support import AI_GENERATION, TRANSACTION, Database
from tests.viewer.conftest import Opened, running
from tests.viewer.hostile import HOSTILE, seen

PERIOD = "since=30d"

PAGES = ["issues", "issue", "trace", "hostile issue", "hostile trace", "long issue", "nothing found"]
PAGES += ["performance", "transaction", "hostile transaction", "llm", "llm by tag", "projects"]


def data(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)


def issue_of(url: str, text: str) -> str:
    """Return the URL of the first issue whose title holds a text."""
    query = urlencode({"since": "30d", "search": text})
    return f"{url}/issues/{data(f'{url}/issues.json?{query}')['issues'][0]['fingerprint']}?{PERIOD}"


def page_url(url: str, name: str) -> str:
    if name.endswith("issue"):
        title = {"issue": "TypeError", "hostile issue": "<script>", "long issue": "ooo"}[name]
        return issue_of(url, title)
    return {
        "issues": f"{url}/issues?{PERIOD}",
        "trace": f"{url}/trace?id=trace-abc-123",
        "hostile trace": f"{url}/trace?{urlencode({'id': HOSTILE[0]})}",
        "performance": f"{url}/performance?{PERIOD}",
        "transaction": f"{url}/performance/transaction?{urlencode({'name': TRANSACTION['name']})}",
        "hostile transaction": f"{url}/performance/transaction?{urlencode({'name': HOSTILE[0]})}",
        "llm": f"{url}/llm",
        "llm by tag": f"{url}/llm?tag=feature",
        "projects": f"{url}/projects",
        "nothing found": f"{url}/issues?search=nothing+has+this+title",
    }[name]


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_violation_and_on_a_phone_nothing_scrolls_sideways(
    url: str, open_page: Opened, axe: str, name: str
) -> None:
    page = open_page(page_url(url, name), color_scheme="light")
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.evaluate(axe)
    for scheme, width in (("light", 1280), ("dark", 360)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 800})
        violations = page.evaluate("async () => (await axe.run()).violations")
        assert [(each["id"], [node["html"][:200] for node in each["nodes"][:3]]) for each in violations] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    # What is left of the page cannot be scrolled to.
    labels = page.evaluate("[...document.querySelectorAll('svg text')].map(each => each.getBoundingClientRect().left)")
    assert min(labels, default=0) >= 0


@pytest.mark.parametrize("text", HOSTILE)
def test_what_was_sent_is_text_and_executes_nothing(url: str, open_page: Opened, text: str) -> None:
    pages = [f"{url}/issues?{urlencode({'search': text, 'from': '2020-01-01'})}", issue_of(url, text)]
    pages.append(f"{url}/trace?{urlencode({'id': text})}")
    pages += [f"{url}/performance", f"{url}/performance/transaction?{urlencode({'name': text})}"]
    pages.append(f"{url}/llm?{urlencode({'tag': text})}")
    for each in pages:
        page = open_page(each)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        # Hover and click what could have a handler.
        page.mouse.move(640, 300)
        assert seen(text) in page.locator("main").inner_text()
        assert page.url == each
        assert page.locator("iframe, base, style, img, link[rel=stylesheet] + style, [onerror], [onload]").count() == 0
        assert page.locator("main form[action^='//'], a:not([href^='/']):not([href='#main'])").count() == 0


def test_it_works_without_javascript(url: str, open_page: Opened) -> None:
    page = open_page(f"{url}/issues", java_script_enabled=False)
    page.get_by_label("Search").fill("published client")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("link", name="RangeError").click()
    page.get_by_role("button", name="Resolve").click()
    assert "resolved" in page.locator("main").inner_text()
    page.get_by_role("button", name="Reopen").click()
    assert page.get_by_role("button", name="Resolve").count() == 1
    page.locator("summary", has_text="As it is stored").click()
    assert "sent by the published client" in page.locator("pre.code").inner_text()


def test_it_works_by_keyboard(url: str, open_page: Opened) -> None:
    page = open_page(f"{url}/issues?{PERIOD}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.name || document.activeElement.tagName"))
    assert {"project", "status", "search", "A"} <= seen


def test_a_choice_is_sent_at_once_and_the_url_has_it(url: str, open_page: Opened) -> None:
    page = open_page(f"{url}/issues")
    page.get_by_label("Time").select_option("7d")
    page.wait_for_url("**since=7d")
    page.get_by_label("Level").select_option("error")
    page.wait_for_url("**/issues?since=7d&level=error")
    page.go_back()
    assert page.get_by_label("Level").input_value() == ""


def test_the_labels_of_small_costs_are_within_the_page(url: str, filled: Database, open_page: Opened) -> None:
    # Only of a project of its own, so that the scale is as small.
    with psycopg.connect(filled.owner, autocommit=True) as connection:
        project = admin.create_project(connection, "cheap")
    item = {**AI_GENERATION, "totalCostUsd": 0.00077}
    filled.fetch("SELECT opensentry.ingest(%s, %s, %s)", project["public_key"], uuid7(), json.dumps([item]))
    page = open_page(f"{url}/llm?project={project['id']}")
    page.set_viewport_size({"width": 360, "height": 800})
    places = page.evaluate(
        "[...document.querySelectorAll('.chart svg text')].map(e => [e.textContent, e.getBoundingClientRect().left])"
    )
    assert "$0.00080" in dict(places)
    assert min(left for _, left in places) >= 0


@pytest.fixture(scope="module")
def empty_url(bare: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from running(bare.owner, tmp_path_factory.mktemp("empty") / "log")


@pytest.fixture(scope="module")
def bare(database: Database) -> Database:
    with psycopg.connect(database.owner, autocommit=True) as connection:
        admin.create_project(connection, "quiet")
    return database


@pytest.mark.parametrize("path", ["issues", "performance", "llm"])
def test_an_empty_page_gives_a_line_to_copy(empty_url: str, open_page: Opened, axe: str, path: str) -> None:
    page = open_page(f"{empty_url}/{path}?project=quiet", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    line = page.evaluate("navigator.clipboard.readText()")
    assert re.match(r"curl -i http://[0-9a-f]{32}@localhost:3001/v1/ingest -d '\{", line)
    page.evaluate(axe)
    assert page.evaluate("async () => (await axe.run()).violations.map(each => each.id)") == []


def test_a_form_of_another_site_changes_nothing(url: str, open_page: Opened, filled: Database) -> None:
    path = issue_of(url, "published client").partition("?")[0]
    page = open_page(f"{url}/issues")
    evil = page.context.new_page()
    evil.goto("about:blank")
    evil.set_content(f"<form method=post action='{path}/status'><input name=status value=ignored><button>go</button>")
    evil.get_by_role("button").click()
    evil.wait_for_load_state()
    assert "Not allowed" in evil.content()
    statuses = filled.fetch("SELECT status FROM opensentry.issues WHERE title LIKE 'RangeError%%'")
    assert [row["status"] for row in statuses] == ["open"]
