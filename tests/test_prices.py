"""Prices of models, and what calls cost by them."""

import io
import json
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from opensentry_ingest import commands
from opensentry_ingest.prices import Price, Stored, parse
from opensentry_ingest.prices import store as store_prices
from opensentry_ingest.uuids import uuid7
from tests import support
from tests.support import Database

CALL: dict[str, Any] = {
    "type": "ai_generation",
    "provider": "openai",
    "model": "gpt-4o",
    "inputTokens": 1000,
    "outputTokens": 100,
    "cachedInputTokens": 300,
    "cacheWriteTokens": 200,
    "tags": {"feature": "chat"},
    "user": {"id": "ann"},
    "traceId": "t",
}

# In the form of LiteLLM's file.
LITELLM = """{
    "sample_spec": {"input_cost_per_token": 0.0, "litellm_provider": "one of ...", "mode": "one of ..."},
    "gpt-4o": {"input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05, "cache_read_input_token_cost":
        1.25e-06, "litellm_provider": "openai", "mode": "chat", "max_tokens": 16384, "supports_vision": true},
    "azure/gpt-4o": {"input_cost_per_token": 2.75e-06, "output_cost_per_token": 1.1e-05, "litellm_provider": "azure",
        "mode": "chat"},
    "azure_text/gpt-4o": {"input_cost_per_token": 9e-06, "output_cost_per_token": 9e-06,
        "litellm_provider": "azure_text", "mode": "completion"},
    "text-embedding-3-small": {"input_cost_per_token": 2e-08, "litellm_provider": "openai", "mode": "embedding"},
    "openrouter/anthropic/claude-sonnet-4": {"input_cost_per_token": 3e-06, "output_cost_per_token": 1.5e-05,
        "cache_creation_input_token_cost": 3.75e-06, "litellm_provider": "openrouter", "mode": "chat"},
    "gemini-2.5-pro": {"input_cost_per_token": 1.25e-06, "output_cost_per_token": 1e-05,
        "litellm_provider": "vertex_ai-language-models", "mode": "chat"},
    "dall-e-3": {"input_cost_per_pixel": 4e-08, "litellm_provider": "openai", "mode": "image_generation"},
    "rerank-v3.5": {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0, "input_cost_per_query": 0.002,
        "litellm_provider": "cohere", "mode": "rerank"},
    "no-output": {"input_cost_per_token": 4e-08, "litellm_provider": "openai", "mode": "chat"}
}"""


@pytest.fixture(autouse=True)
def nothing_stored(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DATABASE_URL", database.owner)
    yield
    database.fetch("TRUNCATE opensentry.model_prices, opensentry.ai_generations")


def run(*arguments: str) -> int:
    return commands.main(["prices", *arguments])


def store(database: Database, *items: dict[str, Any], ago: str = "0") -> None:
    batch = uuid7()
    database.fetch("SELECT opensentry.ingest(%s, %s, %s)", database.key, batch, json.dumps(items))
    database.fetch(
        "UPDATE opensentry.ai_generations SET received_at = received_at - %s::interval WHERE batch_id = %s", ago, batch
    )


def costs(database: Database) -> list[tuple[str, Decimal | None, str]]:
    """Return model, cost and source of each call, by the view and, which is the same, by the function."""
    found = []
    for name in ("ai_generation_costs", "ai_generation_costs('-infinity')"):
        statement = f"SELECT * FROM opensentry.{name} ORDER BY received_at, position"
        found.append([(row["model"], row["cost_usd"], row["cost_source"]) for row in database.fetch(statement)])
    assert found[0] == found[1]
    return found[0]


def file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "prices"
    path.write_text(text, "utf-8")
    return str(path)


def test_the_file_of_litellm_is_imported_exactly(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(tmp_path, LITELLM)
    assert run("import", path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "5 new, 0 changed, 0 unchanged", "2 skipped: not priced by the token", "1 skipped: no price of a token",
        "1 skipped: a second entry for the model",
    ]  # fmt: skip
    rows = database.fetch(
        "SELECT provider, model, input_usd, cached_input_usd, cache_write_usd, output_usd "
        "FROM opensentry.model_prices WHERE valid_from = '-infinity' ORDER BY 1, 2"
    )
    assert [tuple(row.values()) for row in rows] == [
        ("azure.ai.openai", "gpt-4o", Decimal("2.75"), None, None, Decimal("11")),
        ("gcp.vertex_ai", "gemini-2.5-pro", Decimal("1.25"), None, None, Decimal("10")),
        ("openai", "gpt-4o", Decimal("2.5"), Decimal("1.25"), None, Decimal("10")),
        ("openai", "text-embedding-3-small", Decimal("0.02"), None, None, Decimal("0")),
        ("openrouter", "anthropic/claude-sonnet-4", Decimal("3"), None, Decimal("3.75"), Decimal("15")),
    ]
    assert run("import", path) == 0
    assert run("import", file(tmp_path, LITELLM.replace("2.5e-06", "2.6e-06")), "--json") == 0
    out = capsys.readouterr().out
    assert out.startswith("0 new, 0 changed, 5 unchanged")
    assert json.loads(out[out.index("{") :])["changed"] == 1


def test_a_call_costs_what_was_sent_else_its_tokens_at_their_own_prices(database: Database) -> None:
    assert run("set", "openai", "gpt-4o", "--input", "2.5", "--cached-input", "1.25", "--cache-write", "3.1",
               "--output", "10") == 0  # fmt: skip
    without_cache = {name: value for name, value in CALL.items() if not name.startswith("cache")}
    beside = {**CALL, "inputTokens": 100}
    embedding = {name: value for name, value in without_cache.items() if name != "outputTokens"}
    store(
        database,
        {**CALL, "totalCostUsd": 0.5},
        {**CALL, "inputCostUsd": 0.1, "outputCostUsd": 0.2},
        {**CALL, "inputCostUsd": 0.1},
        CALL,
        without_cache,
        beside,
        embedding,
        {**embedding, "inputTokens": 0},
        {**CALL, "model": "other"},
    )
    # 500 * 2.5 + 300 * 1.25 + 200 * 3.1 + 100 * 10 millionths; without prices of the cache, 1000 * 2.5 + 100 * 10.
    own = Decimal("0.003245")
    assert [row[1:] for row in costs(database)] == [
        (Decimal("0.5"), "sent"), (Decimal("0.3"), "sent"), (own, "computed"), (own, "computed"),
        (Decimal("0.0035"), "computed"), (Decimal("0.001995"), "computed"), (Decimal("0.0025"), "computed"),
        (None, "unknown"), (None, "unknown"),
    ]  # fmt: skip
    [day] = database.fetch("SELECT * FROM opensentry.ai_generation_days WHERE model = 'gpt-4o'")
    computed = 2 * own + Decimal("0.0035") + Decimal("0.001995") + Decimal("0.0025")
    assert (day["cost_usd"], day["computed_cost_usd"]) == (computed + Decimal("0.8"), computed)
    assert (day["calls"], day["calls_without_cost"]) == (8, 1)
    run("set", "openai", "gpt-4o", "--input", "2.5", "--output", "10", "--valid-from", "always")
    assert costs(database)[3][1:] == (Decimal("0.0035"), "computed")


def test_a_change_of_a_price_changes_what_history_cost(database: Database) -> None:
    store(database, CALL, ago="40 days")
    assert [row[1:] for row in costs(database)] == [(None, "unknown")]
    for price, total in (("1", "0.0011"), ("2", "0.0022")):
        assert run("set", "openai", "gpt-4o", "--input", price, "--output", price, "--valid-from", "always") == 0
        assert [row[1:] for row in costs(database)] == [(Decimal(total), "computed")]
        for view in ("ai_generation_days", "spend_days", "spend_months", "spend_tags", "spend_users"):
            [row] = database.fetch(f"SELECT * FROM opensentry.{view}")
            assert (row["cost_usd"], row["computed_cost_usd"]) == (Decimal(total), Decimal(total))
    assert run("delete", "openai", "gpt-4o") == 0
    assert [row[1:] for row in costs(database)] == [(None, "unknown")]


def test_the_price_is_the_one_that_was_valid_when_the_call_was_received(database: Database) -> None:
    database.fetch(
        "INSERT INTO opensentry.model_prices (provider, model, valid_from, input_usd, output_usd) VALUES "
        "('openai', 'gpt-4o', now() - interval '90 minutes', 2, 2), "
        "('openai', 'gpt-4o', now() - interval '30 minutes', 4, 4), ('openai', 'gpt-4o', now() + interval '1 h', 9, 9)"
    )
    for ago in ("2 hours", "1 hour", "0"):
        store(database, CALL, ago=ago)
    assert [row[1] for row in costs(database)] == [None, Decimal("0.0022"), Decimal("0.0044")]
    # Of one day or two: the sums are right also where a price begins within a day.
    days = database.fetch("SELECT cost_usd, calls_without_cost FROM opensentry.spend_days('-infinity')")
    assert sum(day["cost_usd"] or 0 for day in days) == Decimal("0.0066")
    assert sum(day["calls_without_cost"] for day in days) == 1


@pytest.mark.parametrize(
    ("provider", "model", "price"),
    [
        ("openai", "gpt-4o", 1),
        ("openai", "gpt-4o-2024-08-06", 2),
        ("openai", "gpt-4o-2025-01-01", 1),
        ("openai", "gpt-4o-latest", 1),
        ("openai", "gpt-4o-mini", 3),
        ("openai", "gpt-5-20250929", 4),
        ("OpenAI", "gpt-4o", 1),
        ("azure", "gpt-4o", 5),
        ("az.ai.openai", "gpt-4o", 5),
        ("openai-chat", "gpt-4o", 1),
        ("azure-openai-chat", "gpt-4o", 5),
        ("anthropic-chat-vertexai", "claude-sonnet-4-5", 6),
        ("gcp.vertex_ai", "claude-sonnet-4-5@20250929", 6),
        ("elsewhere", "claude-sonnet-4-5-20250929", 7),
        ("elsewhere", "100%_sure\\", 8),
        ("elsewhere", "100%Xsure\\", None),
        ("elsewhere", "gpt-4o", None),
        ("openai", "gpt-5-own", 4),
        ("elsewhere", "gpt-5-own", 9),
    ],
)
def test_the_most_specific_price_counts(database: Database, provider: str, model: str, price: int | None) -> None:
    for number, (of, pattern) in enumerate(
        [
            ("openai", "gpt-4o"), ("openai", "gpt-4o-2024-08-06"), ("openai", "gpt-4o-*"), ("openai", "gpt-*"),
            ("azure", "gpt-4o"), ("vertex_ai", "claude-sonnet-4-5"), ("*", "claude-*"), ("*", "100%_*\\"),
            ("*", "gpt-5-own"),
        ],
        1,
    ):  # fmt: skip
        database.fetch(
            "INSERT INTO opensentry.model_prices (provider, model, input_usd, output_usd) "
            "VALUES (opensentry.model_provider(%s), %s, %s, 0)",
            of, pattern, number,
        )  # fmt: skip
    store(database, {**CALL, "provider": provider, "model": model, "inputTokens": 1_000_000, "cachedInputTokens": 0})
    assert costs(database) == [(model, price, "computed" if price else "unknown")]


def test_the_names_of_providers_in_the_documentation_are_those_of_the_function(database: Database) -> None:
    rows = re.findall(r"^\| `(\S+)` \| (`.+) \|$", (support.ROOT / "docs/costs.md").read_text("utf-8"), re.MULTILINE)
    documented = {name: provider for provider, names in rows for name in re.findall("`([^`]+)`", names)}
    [row] = database.fetch("SELECT prosrc FROM pg_proc WHERE proname = 'model_provider'")
    assert documented == json.loads("{" + row["prosrc"].partition("{")[2].partition("}")[0] + "}")


def test_a_less_specific_price_counts_until_a_more_specific_one_is_valid(database: Database) -> None:
    database.fetch(
        "INSERT INTO opensentry.model_prices (provider, model, valid_from, input_usd, output_usd) VALUES "
        "('openai', 'gpt-*', '-infinity', 1, 0), ('openai', 'gpt-4o', '2026-01-01Z', 2, 0), "
        "('openai', 'gpt-*', '2026-02-01Z', 3, 0), ('openai', 'gpt-4o', '2026-03-01Z', 4, 0)"
    )
    rows = database.fetch(
        "SELECT input_usd, valid_until = 'infinity' AS last FROM opensentry.price_history('openai', 'gpt-4o') "
        "ORDER BY valid_from"
    )
    assert [tuple(row.values()) for row in rows] == [(1, False), (2, False), (4, True)]


def test_models_without_a_price_are_listed(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    store(database, CALL, {**CALL, "model": "odd\x1b[31m\u202e"}, {**CALL, "model": "sent", "totalCostUsd": 1})
    run("set", "openai", "gpt-4o", "--input", "1", "--output", "1")
    rows = database.fetch("SELECT * FROM opensentry.models_without_price")
    assert [(row["project"], row["model"], row["calls"], row["total_tokens"]) for row in rows] == [
        ("test", "odd\x1b[31m\u202e", 1, 1100)
    ]
    capsys.readouterr()
    assert run("list", "--missing") == 0
    out = capsys.readouterr().out
    assert "odd\\x1b[31m\\u202e" in out
    assert out.isascii()
    assert "gpt-4o" not in out


def test_csv_also_from_the_standard_input(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "\ufeffmodel,provider,note,input_usd,cached_input_usd,cache_write_usd,output_usd,valid_from\r\n"
        '"a,b",mistral,x,0.1,,,0.30000000000000000001,\r\n'
        '"a,b",mistral,x,0.2,0,1,1e1,2026-05-30\r\n'
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert run("import", "-") == 0
    assert run("list", "--json") == 0
    out = capsys.readouterr().out
    assert out.startswith("1 new, 1 changed, 0 unchanged\n")
    rows = json.loads(out[out.index("[") :])
    assert [(row["provider"], row["model"], row["valid_from"], row["input_usd"]) for row in rows] == [
        ("mistral_ai", "a,b", None, 0.1), ("mistral_ai", "a,b", "2026-05-30T00:00:00+00:00", 0.2)
    ]  # fmt: skip
    rows = database.fetch("SELECT output_usd, cached_input_usd FROM opensentry.model_prices ORDER BY valid_from")
    assert [tuple(row.values()) for row in rows] == [(Decimal("0.30000000000000000001"), None), (10, 0)]


HEADER = "provider,model,input_usd,cached_input_usd,cache_write_usd,output_usd\n"


def litellm(value: str) -> str:
    entry = f'{{"input_cost_per_token": {value}, "output_cost_per_token": 0, "litellm_provider": "o", "mode": "chat"}}'
    return f'{{"good": {entry.replace(value, "1")}, "bad": {entry}}}'


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "[" * 100_000, "{", '{"a": 1}', '{"a": NaN}', "nothing,of,ours\n1,2,3\n",
        *(litellm(value) for value in ("-1", "1e999999999999999999", "1e-999999999", "1e9", '"1"', "true", "9" * 5000)),
        litellm("1").replace("bad", "a\\u0000b"), litellm("1").replace("bad", "a\\ud800b"),
        litellm("1").replace("bad", "b" * 201),
        *(HEADER + f"o,good,1,,,1\no,bad,{value},,,1\n"
          for value in ("NaN", "-1", "Infinity", "x", "1_000", "\u0661", "", "1e-21", "\x1b[31m")),
        HEADER + "o,a,1,,,1\no,a,2,,,1\n", HEADER + 'o,"a,1\n', HEADER + "o,a\0,1,,,1\n", HEADER + ",a,1,,,1\n",
        HEADER + "o,good,1,,,1\no,a,1,5,,,1\n", HEADER + "o,good,1,,,1\no,a,1,1\n",
        HEADER[:-1] + ",input_usd\no,a,1,,,1,2\n",
        litellm("1").replace('"output', '"input_cost_per_token": 2, "output'), litellm("1").replace("bad", "good"),
        HEADER[:-1] + ",valid_from\no,good,1,,,1,\no,a,1,,,1,never\n",
        HEADER[:-1] + ",valid_from\no,a,1,,,1,infinity\n", HEADER[:-1] + ",valid_from\no,a,1,,,1,20000-01-01\n",
    ],
    ids=lambda text: f"{len(text)} characters",
)  # fmt: skip
def test_a_hostile_file_is_one_clear_line_and_nothing_is_stored(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert run("import", file(tmp_path, text)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("opensentry-ingest: ")
    assert captured.err.count("\n") == 1
    assert captured.err[:-1].isprintable()
    assert len(captured.err) < 1000
    assert database.fetch("SELECT count(*) FROM opensentry.model_prices") == [{"count": 0}]


def test_what_a_file_calls_a_model_moves_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "m\\u001b[2J\\u202e\\u009b"
    assert run("import", file(tmp_path, litellm("1").replace("bad", name).replace('"o"', '"\\u001b]0;x"'))) == 0
    for options in ([], ["--json"]):
        assert run("list", *options) == 0
    assert run("set", "a\x1b[1m", "b\x1b[2J", "--input", "-1", "--output", "1") == 1
    captured = capsys.readouterr()
    assert "\\x1b[2J" in captured.out
    assert (captured.out + captured.err).isascii()
    assert "\x1b" not in captured.out + captured.err


def test_of_two_imports_at_once_each_is_whole(database: Database, tmp_path: Path) -> None:
    files = [
        [*parse((HEADER + "".join(f"o,m{number},{price},,,1\n" for number in range(50))).encode()).prices]
        for price in (1, 2)
    ]
    # Both wait for one lock, so that they run at once.
    with psycopg.connect(database.owner) as other, ThreadPoolExecutor() as threads:
        other.execute("LOCK TABLE opensentry.model_prices IN SHARE ROW EXCLUSIVE MODE")

        def import_(prices: list[Price]) -> Stored:
            with psycopg.connect(database.owner, autocommit=True) as connection:
                return store_prices(connection, prices)

        running = [threads.submit(import_, prices) for prices in files]
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%%'"
        support.wait_until(lambda: database.fetch(waiting) == [{"count": 2}])
        other.rollback()
        outcomes = sorted(each.result(60) for each in running)
    # The second found what the first had stored, and changed it.
    assert outcomes == [Stored(0, 50, 0, 0), Stored(50, 0, 0, 0)]
    rows = database.fetch(
        "SELECT array_agg(input_usd ORDER BY valid_from) AS prices, min(valid_from) = '-infinity' AS always "
        "FROM opensentry.model_prices GROUP BY model"
    )
    assert len(rows) == 50
    assert [row["always"] for row in rows] == [True] * 50
    assert {tuple(row["prices"]) for row in rows} in ({(1, 2)}, {(2, 1)})


def test_bytes_that_are_not_utf_8_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prices").write_bytes(b"\xff")
    assert run("import", str(tmp_path / "prices")) == 1
    assert run("import", str(tmp_path / "missing")) == 1
    assert "UTF-8" in capsys.readouterr().err


def test_a_price_of_a_token_times_a_million_is_exact() -> None:
    for text in ("2.5e-06", "1.5e-07", "0.00000012345678901234567890", "3e-6", "0"):
        [price, _] = parse(litellm(text).encode()).prices[::-1]
        assert price.input_usd == Decimal(text).scaleb(6)


def test_the_reader_reads_prices_and_the_service_does_not(database: Database) -> None:
    with psycopg.connect(database.owner, autocommit=True) as connection:
        connection.execute("SET ROLE opensentry_reader")
        for name in ("model_prices", "ai_generation_costs", "spend_days('-infinity')", "spend_months", "spend_tags",
                     "spend_users('-infinity')", "models_without_price", "ai_generation_days"):  # fmt: skip
            connection.execute(f"SELECT * FROM opensentry.{name}")
        for statement in ("INSERT INTO opensentry.model_prices VALUES ('a', 'a', now(), 1, 1, 1, 1)",
                          "UPDATE opensentry.model_prices SET input_usd = 1", "DELETE FROM opensentry.model_prices",
                          "TRUNCATE opensentry.model_prices"):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    with psycopg.connect(database.service, autocommit=True) as connection:
        for statement in ("SELECT * FROM opensentry.model_prices", "SELECT * FROM opensentry.ai_generation_costs",
                          "SELECT opensentry.model_provider('a')", "DELETE FROM opensentry.model_prices",
                          "SELECT * FROM opensentry.spend_days('-infinity')"):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


@pytest.mark.parametrize(
    "values",
    [
        "('azure', 'm', now(), 1, 1, 1, 1)", "('OpenAI', 'm', now(), 1, 1, 1, 1)", "('', 'm', now(), 1, 1, 1, 1)",
        "('o', '', now(), 1, 1, 1, 1)", "('o', 'm', 'infinity', 1, 1, 1, 1)", "('o', 'm', now(), -1, 1, 1, 1)",
        "('o', 'm', now(), 1, 'NaN', 1, 1)", "('o', 'm', now(), 1, 1, 'Infinity', 1)",
        "('o', 'm', now(), 1, 1, 1, NULL)",
    ],
)  # fmt: skip
def test_the_table_itself_refuses_what_is_no_price(database: Database, values: str) -> None:
    with pytest.raises(psycopg.IntegrityError):
        database.fetch(f"INSERT INTO opensentry.model_prices VALUES {values}")
