"""Calls of language models through the real libraries, with the instrumentations that there are: what is stored is
what the library reported, once, and nothing of what was said."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from tests.otlp.conftest import CLIENTS, PYTHON, Exported, Relay, clear, environ, relaying, run
from tests.support import Database, Server

GPT = ("gpt", "gpt-tools", "gpt-stream", "gpt-refused", "gpt-embeddings")
CLAUDE = ("claude", "claude-tools", "claude-stream", "claude-events", "claude-refused")
ALL = (*GPT, "gpt-responses", *CLAUDE)

CONTENT = {
    "ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE": "content",
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_and_event",
    "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental",
    "TRACELOOP_TRACE_CONTENT": "true",
}
"""What has the instrumentations send what was said. OpenInference's does without."""

ONE = {"ANTHROPIC_OPEN_TELEMETRY": "false"}
"""What keeps the library of Anthropic from making spans of its own."""

STEPS = 4
"""The spans around each call: a workflow, a chain, an agent and a tool."""


@dataclass(frozen=True)
class Instrumentation:
    name: str
    calls: tuple[str, ...]
    environ: dict[str, str]
    absent: dict[str, set[str]] = field(default_factory=dict)
    """The columns that it does not fill, by call; "" stands for each call."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Its own words for why a model stopped."""
    output_tokens: dict[str, int] = field(default_factory=dict)
    """What it counts itself."""


STREAMED = ("gpt-stream", "claude-stream", "claude-events")

INSTRUMENTATIONS = [
    Instrumentation(
        "openai-v2",
        GPT,
        {"PYTHONPATH": str(PYTHON.parents[1] / "openai-v2")},
        {"": {"cached_input_tokens", "time_to_first_token_ms"}, "gpt-stream": {"reason"}},
    ),
    Instrumentation("genai", ALL, ONE, {}, {"end_turn": "stop", "tool_use": "tool_call"}),
    Instrumentation(
        "openllmetry",
        ALL,
        ONE,
        {"": {"time_to_first_token_ms"}},
        {"end_turn": "stop", "tool_use": "tool_call", "tool_calls": "tool_call"},
        # It adds what the first event of a stream says to what the last says, which includes that.
        {"claude-stream": 35, "claude-events": 35},
    ),
    Instrumentation("openinference", ALL, ONE, {"": {"time_to_first_token_ms", "id"}, "gpt-refused": {"model"}}),
    Instrumentation("anthropic", CLAUDE, {}),
]


def call(python: str, name: str, calls: tuple[str, ...], environ: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Make calls; return what the library reported of each."""
    return {made["call"]: made for made in run([python, str(CLIENTS / "calls.py"), name, *calls], environ)}


def said(database: Database) -> list[str]:
    """Return the rows that have something in them that was said."""
    tables = database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'opensentry'")
    return [
        f"{table['tablename']}: {row['text']}"
        for table in tables
        for row in database.fetch(
            f"SELECT t::text AS text FROM opensentry.{table['tablename']} t WHERE strpos(t::text, 'canary') > 0"
        )
    ]


class Recorded(NamedTuple):
    """What the calls with one instrumentation came to."""

    instrumentation: Instrumentation
    made: dict[str, dict[str, Any]]
    """What the library reported of each call."""
    exported: list[Exported]


@pytest.fixture(scope="module", params=INSTRUMENTATIONS, ids=lambda each: each.name)
def recorded(
    request: pytest.FixtureRequest, python: str, apis_url: str, database: Database, server: Server
) -> Iterator[Recorded]:
    """The calls with each instrumentation, which are all that is stored."""
    instrumentation: Instrumentation = request.param
    clear(database)
    with relaying(server) as relay:
        client = environ(database, relay, APIS_URL=apis_url, **CONTENT, **instrumentation.environ)
        made = call(python, instrumentation.name, instrumentation.calls, client)
        yield Recorded(instrumentation, made, relay.exported)


def test_a_call_is_stored_once_as_the_library_reported_it(recorded: Recorded, database: Database) -> None:
    instrumentation, made, exported = recorded
    calls = instrumentation.calls
    assert {each.status for each in exported} == {200}

    # Each call is in a trace of its own: one row there, and each of its spans as well.
    traces = {reported["trace"]: reported["call"] for reported in made.values()}
    rows = {traces[row["trace_id"]]: row for row in database.fetch("SELECT * FROM opensentry.ai_generations")}
    assert database.counts()["ai_generations"] == len(rows) == len(made) == len(calls)
    assert database.counts()["transactions"] + database.counts()["spans"] == (STEPS + 1) * len(calls)

    for kind, row in rows.items():
        reported = made[kind]
        absent = instrumentation.absent.get("", set()) | instrumentation.absent.get(kind, set())
        refused = kind.endswith("refused")
        provider = "openai" if kind.startswith("gpt") else "anthropic"
        model = kind if refused else reported["model"]
        expected = {
            "provider": provider,
            "model": "unknown" if "model" in absent else model,
            "input_tokens": reported.get("input", 0),
            "output_tokens": instrumentation.output_tokens.get(kind, reported.get("output")),
            "cached_input_tokens": None if "cached_input_tokens" in absent else reported.get("cached"),
            "cache_write_tokens": reported.get("written"),
            "status": "error" if refused else "ok",
            "environment": "testing",
            "release": "shop@1.2.3",
        }
        # Some say 0 where the library says nothing.
        found = {column: row[column] if row[column] or value else value for column, value in expected.items()}
        assert found == expected, kind
        assert row["latency_ms"] > 0, kind
        assert row["tags"]["service.name"] == "shop"
        streamed = kind in STREAMED and "time_to_first_token_ms" not in absent
        assert bool(row["time_to_first_token_ms"]) == streamed, kind
        metadata = row["metadata"] or {}
        if "reason" in reported and "reason" not in absent:
            reason = instrumentation.reasons.get(reported["reason"], reported["reason"])
            assert reason in json.dumps(metadata), kind
        if "id" in reported and "id" not in absent:
            assert metadata["gen_ai.response.id"] == reported["id"], kind


def test_nothing_of_what_was_said_is_stored(recorded: Recorded, database: Database) -> None:
    sent = b"".join(each.body for each in recorded.exported)
    assert b"canary-asked" in sent
    assert b"canary-answered" in sent
    assert database.counts()["ai_generations"] == len(recorded.made)
    assert said(database) == []


@pytest.mark.parametrize("name", ["genai", "openllmetry", "openinference"])
@pytest.mark.usefixtures("no_rows")
def test_a_call_that_the_library_and_an_instrumentation_describe_counts_once(
    python: str, apis_url: str, database: Database, relay: Relay, name: str
) -> None:
    made = call(python, name, CLAUDE, environ(database, relay, APIS_URL=apis_url))
    rows = database.fetch("SELECT trace_id, count(*) FROM opensentry.ai_generations GROUP BY trace_id")
    assert {row["trace_id"]: row["count"] for row in rows} == {each["trace"]: 1 for each in made.values()}
