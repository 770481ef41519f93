"""The viewer's pages of projects, transactions and AI generations."""

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import pytest
import webtest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import admin, create_app, embedded
from opensentry_ingest.formats import UNKNOWN
from opensentry_ingest.reading.percentiles import part, percentiles
from opensentry_ingest.viewer import Viewer
from tests import support
from tests.support import AI_GENERATION, TRANSACTION, Database

PATHS = ["/projects", "/performance", "/performance/transaction", "/llm"]


@pytest.fixture(scope="module")
def conninfo(database: Database) -> str:
    return make_conninfo(database.owner, user=embedded.VIEWER_ROLE)


@pytest.fixture(scope="module")
def client(conninfo: str, viewer_of: Callable[..., Viewer]) -> webtest.TestApp:
    return webtest.TestApp(viewer_of(conninfo, public_url="https://ingest.example.com"), lint=True)


@pytest.fixture(scope="module")
def ingest(database: Database) -> Iterator[webtest.TestApp]:
    application = create_app(database.service)
    yield webtest.TestApp(application)
    application.close()


@pytest.fixture
def project(database: Database, request: pytest.FixtureRequest) -> dict[str, str]:
    """A project of the test's own."""
    with psycopg.connect(database.owner, autocommit=True) as connection:
        return admin.create_project(connection, request.node.name)


def of(project: dict[str, str], **query: str) -> str:
    return urlencode({"project": project["id"], **query})


# Projects.


def test_a_project_has_its_dsn_and_what_came_in(
    client: webtest.TestApp, ingest: webtest.TestApp, project: dict[str, str]
) -> None:
    key = project["public_key"]
    support.post(ingest, key, [TRANSACTION, TRANSACTION, AI_GENERATION])
    page = client.get(f"/projects?{of(project)}")
    page.mustcontain(f"https://{key}@ingest.example.com/v1/ingest", "@zapdev-labs/sentry-clone", " s ago")
    page.mustcontain("OTEL_EXPORTER_OTLP_ENDPOINT=https://ingest.example.com\n", f"x-open-sentry-key={key}\n")
    (row,) = client.get(f"/projects.json?{of(project)}").json["projects"]
    assert (row["errors"], row["transactions"], row["ai_generations"]) == (0, 2, 1)
    assert row["last_received_at"]


def test_the_snippet_in_python_sends_an_error(
    conninfo: str,
    database: Database,
    server: support.Server,
    project: dict[str, str],
    tmp_path: Path,
    viewer_of: Callable[..., Viewer],
) -> None:
    viewer = webtest.TestApp(viewer_of(conninfo, public_url=f"http://127.0.0.1:{server.port}"))
    page = viewer.get(f"/projects?{of(project)}")
    (tmp_path / "send.py").write_text(page.html.find("pre", string=re.compile("urllib")).text)
    subprocess.run([sys.executable, "send.py"], cwd=tmp_path, check=True, timeout=60)
    (row,) = database.fetch("SELECT * FROM opensentry.events WHERE project_id = %s", project["id"])
    assert (row["exception_type"], row["frames"][0]["filename"]) == ("TypeError", str(tmp_path / "send.py"))


# Transactions.


def test_transactions_are_listed_by_name_those_that_take_most_time_first(
    client: webtest.TestApp, ingest: webtest.TestApp, project: dict[str, str]
) -> None:
    for name, durations, status in (("often", [100] * 12, "ok"), ("slow", [3000], "error"), ("rare", [10], "ok")):
        items = [{**TRANSACTION, "name": name, "durationMs": each, "status": status} for each in durations]
        support.post(ingest, project["public_key"], items)

    def names(**query: str) -> list[str]:
        rows = client.get(f"/performance.json?{of(project, **query)}").json["transactions"]
        return [row["name"] for row in rows]

    assert names() == ["slow", "often", "rare"]
    assert names(sort="count")[0] == "often"
    assert names(sort="failure_rate")[0] == "slow"
    assert names(sort="p95_ms") == ["slow", "often", "rare"]
    often = client.get(f"/performance.json?{of(project)}").json["transactions"][1]
    assert (often["count"], often["failed"], often["total_ms"]) == (12, 0, 1200)
    assert (often["p50_ms"], often["p95_ms"], often["p99_ms"]) == (100, 100, 100)
    assert often["per_minute"] == pytest.approx(12 / (24 * 60))
    client.get(f"/performance?{of(project)}").mustcontain("within 5%", "3.0 s", "100%")


def test_a_list_of_transactions_goes_on_where_it_ended(
    client: webtest.TestApp, ingest: webtest.TestApp, project: dict[str, str]
) -> None:
    for first in range(0, 120, 20):
        items = [{**TRANSACTION, "name": f"~{number}", "durationMs": 5} for number in range(first, first + 20)]
        support.post(ingest, project["public_key"], items)
    for sort in ("total_ms", "count", "failure_rate", "p95_ms"):
        seen: list[str] = []
        after = ""
        while after is not None:
            data = client.get(f"/performance.json?{of(project, sort=sort, after=after)}").json
            seen += [row["name"] for row in data["transactions"]]
            after = data["after"]
        assert sorted(seen) == sorted(f"~{number}" for number in range(120))
    assert client.get("/performance?after=1~2~3", status=400)
    assert client.get("/performance?after=x~y", status=400)


def test_a_transaction_has_its_durations_its_slowest_traces_and_its_spans(
    client: webtest.TestApp, ingest: webtest.TestApp, project: dict[str, str]
) -> None:
    name = "GET /a/b?c=d&e"
    items = [
        {**TRANSACTION, "name": name, "durationMs": each, "traceId": f"t {each}"} for each in (0, 7, 40, 40, 200, 4000)
    ]
    support.post(ingest, project["public_key"], items)
    query = of(project, name=name)
    data = client.get(f"/performance/transaction.json?{query}").json
    assert (data["totals"]["count"], data["totals"]["total_ms"]) == (6, 4287)
    assert [row["duration_ms"] for row in data["slowest"]] == [4000, 200, 40, 40, 7, 0]
    bars = {(bar["from_ms"], bar["below_ms"]): bar["count"] for bar in data["histogram"] if bar["count"]}
    assert bars == {(0, 1): 1, (5, 10): 1, (20, 50): 2, (200, 500): 1, (2000, 5000): 1}
    (span,) = data["spans"]
    assert (span["op"], span["description"], span["count"], span["total_ms"], span["transactions"]) == (
        "db.query",
        "SELECT * FROM orders",
        6,
        240,
        6,
    )
    assert sum(data["counts"]["series"][0]["values"]) == 6
    page = client.get(f"/performance/transaction?{query}")
    page.mustcontain("/trace?project=", "id=t+4000", "2.0 s to 5.0 s")
    assert client.get(f"/performance?{of(project)}").click("GET /a/b").request.params["name"] == name
    client.get("/performance/transaction", status=400)
    client.get("/performance/transaction?name=nothing").mustcontain("No such transactions")


def test_a_percentile_is_within_five_percent_of_the_exact_one(database: Database) -> None:
    exact = "percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY ms)"
    for distribution in ("g", "g * g", "exp(g / 1000.0)::bigint", "CASE WHEN mod(g, 10) = 0 THEN g * 1000 ELSE 12 END"):
        rows = f"(SELECT {distribution} AS ms FROM generate_series(2, 20000) AS g) AS s"
        parts = database.fetch(
            f"SELECT {part('ms')} AS part, count(*) AS count, sum(ms)::float8 AS sum FROM {rows} GROUP BY 1"
        )
        found = percentiles([(row["part"], row["count"], row["sum"]) for row in parts], (0.5, 0.95, 0.99))
        (right,) = database.fetch(f"SELECT {exact} AS percentiles FROM {rows}")
        for approximate, each in zip(found, right["percentiles"], strict=True):
            assert approximate is not None
            assert math.isclose(approximate, each, rel_tol=0.0501)
    assert percentiles([], (0.5,)) == [None]


# AI generations.


def test_costs_are_exact_and_unknown_ones_are_counted_and_not_zero(
    client: webtest.TestApp, ingest: webtest.TestApp, project: dict[str, str]
) -> None:
    unknown = {name: value for name, value in AI_GENERATION.items() if name != "totalCostUsd"}
    parts = {**unknown, "inputCostUsd": 0.1, "outputCostUsd": 0.2, "user": {"id": "ann"}}
    items = [
        {**AI_GENERATION, "totalCostUsd": 0.0048, "inputTokens": 1000, "cachedInputTokens": 250, "status": "error"},
        {**parts, "model": "dear"},
        {**unknown, "model": "silent", "latencyMs": 80},
    ]
    support.post(ingest, project["public_key"], items)
    data = client.get(f"/llm.json?{of(project, tag='feature')}").json
    assert Decimal(data["totals"]["cost_usd"]) == Decimal("0.3048")
    assert Decimal(data["totals"]["calls_without_cost"]) == 1
    models = {row["model"]: row for row in data["models"]}
    assert [*models] == ["dear", "anthropic/claude-sonnet-4", "silent"]
    assert models["silent"]["cost_usd"] is None
    assert (models["silent"]["p50_ms"], models["silent"]["p95_first_token_ms"]) == (80, 420)
    assert [(row["user"], row["cost_usd"]) for row in data["users"]] == [("ann", "0.3"), (None, "0.0048")]
    assert [(row["value"], row["calls"]) for row in data["tag_values"]] == [("chat", 3)]
    assert [row["cost_usd"] for row in data["dearest"]] == ["0.3", "0.0048"]
    assert [series["name"] for series in data["chart"]["series"]] == ["dear", "anthropic/claude-sonnet-4"]
    page = client.get(f"/llm?{of(project)}")
    page.mustcontain("$0.0048", "$0.30", "1 of the 3 calls", "id=trace-abc-123", "25%")
    silent = page.html.find("b", string="silent").find_parent("tr")
    assert silent.find("td").text == UNKNOWN


def test_costs_that_are_computed_are_marked_and_models_without_a_price_are_listed(
    client: webtest.TestApp, ingest: webtest.TestApp, project: dict[str, str], database: Database
) -> None:
    database.fetch(
        "INSERT INTO opensentry.model_prices (provider, model, input_usd, output_usd) "
        "VALUES ('openrouter', 'own', 3, 15)"
    )
    unknown = {name: value for name, value in AI_GENERATION.items() if name != "totalCostUsd"}
    items = [AI_GENERATION, {**unknown, "model": "own"}, {**unknown, "model": "odd"}]
    support.post(ingest, project["public_key"], items)
    data = client.get(f"/llm.json?{of(project, tag='feature')}").json
    # 1200 * 3 + 340 * 15 millionths.
    assert data["totals"]["computed_cost_usd"] == "0.0087"
    assert Decimal(data["totals"]["cost_usd"]) == Decimal("0.01352")
    for rows in (data["users"], data["tag_values"]):
        assert [(row["cost_usd"], row["computed_cost_usd"]) for row in rows] == [("0.01352", "0.0087")]
    assert [(row["model"], row["cost_source"]) for row in data["dearest"]] == [
        ("own", "computed"), ("anthropic/claude-sonnet-4", "sent")
    ]  # fmt: skip
    assert [row["model"] for row in data["without_price"]] == ["odd"]
    page = client.get(f"/llm?{of(project)}")
    page.mustcontain("\u2248</span>$0.0087", "Models without a price", "1 of the 3 calls", "the clients sent the rest")
    client.get(f"/trace?{of(project, id='trace-abc-123')}").mustcontain("\u2248$0.0087", "$0.0048")


def test_where_all_of_the_cost_is_computed_the_page_says_so(
    client: webtest.TestApp, ingest: webtest.TestApp, project: dict[str, str], database: Database
) -> None:
    database.fetch(
        "INSERT INTO opensentry.model_prices (provider, model, input_usd, output_usd) VALUES ('*', 'all', 3, 15)"
    )
    unknown = {name: value for name, value in AI_GENERATION.items() if name != "totalCostUsd"}
    support.post(ingest, project["public_key"], [{**unknown, "model": "all"}])
    client.get(f"/llm?{of(project)}").mustcontain("All of the cost is computed", no="the rest")


def test_costs_that_no_client_sent_are_a_dash(
    client: webtest.TestApp, ingest: webtest.TestApp, project: dict[str, str]
) -> None:
    items = {name: value for name, value in AI_GENERATION.items() if name not in ("totalCostUsd", "latencyMs", "tags")}
    support.post(ingest, project["public_key"], [items])
    page = client.get(f"/llm?{of(project)}")
    page.mustcontain(
        f"<dt>Cost</dt><dd>{UNKNOWN}</dd>", "No call in this time range has a cost", "These calls have no tags"
    )
    assert "$0.00" not in page


def test_models_beyond_those_that_are_named_are_one_row(
    client: webtest.TestApp, ingest: webtest.TestApp, project: dict[str, str]
) -> None:
    for first in range(0, 60, 20):
        items = [
            {**AI_GENERATION, "model": f"m{number}", "totalCostUsd": 1 + number} for number in range(first, first + 20)
        ]
        support.post(ingest, project["public_key"], items)
    data = client.get(f"/llm.json?{of(project)}").json
    assert len(data["models"]) == 51
    assert [row["model"] for row in data["models"]][:2] == ["m59", "m58"]
    assert (data["models"][-1]["model"], data["models"][-1]["calls"]) == (None, "10")
    assert Decimal(data["totals"]["cost_usd"]) == sum(range(1, 61))
    series = {each["name"]: each["values"] for each in data["chart"]["series"]}
    assert [*series] == ["m59", "m58", "m57", "m56", "m55", None]
    assert sum(Decimal(value) for values in series.values() for value in values) == sum(range(1, 61))


# All of them.


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("since", ["1h", "24h", "7d", "30d", "2000d"])
def test_a_page_without_data_says_how_to_send_some(
    client: webtest.TestApp, project: dict[str, str], path: str, since: str
) -> None:
    page = client.get(f"{path}?{of(project, since=since, name='nothing')}")
    assert re.search(rf"curl -i https://{project['public_key']}@ingest\.example\.com/v1/ingest -d", page.text)
    client.get(f"{path}.json?{of(project, since=since, name='nothing')}")


def test_the_line_of_an_empty_page_is_valid(
    client: webtest.TestApp, ingest: webtest.TestApp, project: dict[str, str]
) -> None:
    for path in PATHS:
        line = client.get(f"{path}?{of(project, name='other')}").html.find("pre", string=re.compile("^curl"))
        ingest.post(
            "/v1/ingest",
            line.text.partition(" -d '")[2].removesuffix("'"),
            {"X-Open-Sentry-Key": project["public_key"]},
            status=202,
        )
