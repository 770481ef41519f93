"""Calls of language models through the real libraries, with the instrumentations that there are: what is stored is
what the library reported, once, and nothing that was said."""

import json
from collections import Counter
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.otlp import apis
from tests.otlp.conftest import CLIENTS, Relay, environ, run
from tests.support import TABLES, Database

ASKED = "canary-asked"

pytestmark = pytest.mark.usefixtures("no_rows")

GPT = ("gpt", "gpt-tools", "gpt-stream", "gpt-refused", "gpt-embeddings")
CLAUDE = ("claude", "claude-tools", "claude-stream", "claude-events", "claude-refused")

EXPERIMENTAL = {
    "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental",
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_and_event",
}


class Instrumentation(NamedTuple):
    name: str
    calls: tuple[str, ...]
    environ: dict[str, str] = {}
    """What switches the capture of contents on."""
    quiet: tuple[str, ...] = ()
    """What it leaves out."""


INSTRUMENTATIONS = [
    Instrumentation("openai-v2", GPT, EXPERIMENTAL, ("cached",)),
    Instrumentation("genai", (*GPT, "gpt-responses", *CLAUDE), EXPERIMENTAL),
    Instrumentation("openllmetry", (*GPT, "gpt-responses", *CLAUDE), {"TRACELOOP_TRACE_CONTENT": "true"}),
    Instrumentation("openinference", (*GPT, "gpt-responses", *CLAUDE)),
    Instrumentation("anthropic", CLAUDE, {"ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE": "content"}),
]


def canaries(database: Database) -> list[str]:
    """Return where something is stored of what was said."""
    tables = database.fetch("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'opensentry'")
    return [
        f"{table['name']}: {row['text']}"
        for table in tables
        for row in database.fetch(
            f"SELECT t::text AS text FROM opensentry.{table['name']} t WHERE t::text LIKE '%%canary%%'"
        )
    ]
