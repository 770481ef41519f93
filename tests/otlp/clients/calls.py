"""Calls language models through the real libraries, inside the spans of an agent; prints what the libraries reported.

Arguments: the instrumentation, and the calls. Standard output: an object for each call, with the id of its trace.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anthropic
import openai
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

ASKED = "canary-asked"
URL = os.environ["APIS_URL"]

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)


def openai_v2() -> list[Any]:
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

    return [OpenAIInstrumentor()]


def genai() -> list[Any]:
    from opentelemetry.instrumentation.genai.anthropic import AnthropicInstrumentor
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

    return [OpenAIInstrumentor(), AnthropicInstrumentor()]


def openllmetry() -> list[Any]:
    from opentelemetry.instrumentation.anthropic import AnthropicInstrumentor
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    return [OpenAIInstrumentor(), AnthropicInstrumentor()]


def openinference() -> list[Any]:
    from openinference.instrumentation.anthropic import AnthropicInstrumentor
    from openinference.instrumentation.openai import OpenAIInstrumentor

    return [OpenAIInstrumentor(), AnthropicInstrumentor()]


INSTRUMENTATIONS: dict[str, Callable[[], list[Any]]] = {
    "openai-v2": openai_v2,
    "genai": genai,
    "openllmetry": openllmetry,
    "openinference": openinference,
    # The library itself makes spans.
    "anthropic": list,
}
for instrumentor in INSTRUMENTATIONS[sys.argv[1]]():
    instrumentor.instrument(tracer_provider=provider, raise_exception_on_conflict=True)

gpt = openai.OpenAI(api_key="none", base_url=f"{URL}/v1", max_retries=0)
claude = anthropic.Anthropic(api_key="none", base_url=URL, max_retries=0)

GPT: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "system", "content": ASKED}, {"role": "user", "content": ASKED}],
    "temperature": 0.5,
    "max_tokens": 100,
}
PARAMETERS = {"type": "object", "properties": {"word": {"type": "string", "description": ASKED}}}
GPT_TOOL = {"type": "function", "function": {"name": "look_up", "description": ASKED, "parameters": PARAMETERS}}
CLAUDE: dict[str, Any] = {
    "model": "claude-sonnet-4",
    "system": [{"type": "text", "text": ASKED, "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": ASKED}],
    "max_tokens": 100,
}
CLAUDE_TOOL: Any = {"name": "look_up", "description": ASKED, "input_schema": PARAMETERS}


def of_chat(answer: Any, reason: str) -> dict[str, Any]:
    return {
        "model": answer.model,
        "id": answer.id,
        "input": answer.usage.prompt_tokens,
        "cached": answer.usage.prompt_tokens_details.cached_tokens,
        "output": answer.usage.completion_tokens,
        "reason": reason,
    }


def gpt_chat(**more: Any) -> dict[str, Any]:
    answer: Any = gpt.chat.completions.create(**GPT | more)
    return of_chat(answer, answer.choices[0].finish_reason)


def gpt_stream() -> dict[str, Any]:
    streamed: Any = gpt.chat.completions.create(**GPT | {"stream": True, "stream_options": {"include_usage": True}})
    parts = list(streamed)
    return of_chat(parts[-1], next(filter(None, (part.choices[0].finish_reason for part in parts if part.choices))))


def gpt_responses() -> dict[str, Any]:
    answer: Any = gpt.responses.create(model="gpt-4o-mini", instructions=ASKED, input=ASKED)
    return {
        "model": answer.model,
        "id": answer.id,
        "input": answer.usage.input_tokens,
        "cached": answer.usage.input_tokens_details.cached_tokens,
        "output": answer.usage.output_tokens,
    }


def gpt_embeddings() -> dict[str, Any]:
    answer = gpt.embeddings.create(model="text-embedding-3-small", input=ASKED)
    return {"model": answer.model, "input": answer.usage.prompt_tokens}


def of_message(answer: Any) -> dict[str, Any]:
    usage = answer.usage
    return {
        "model": answer.model,
        "id": answer.id,
        "input": usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens,
        "cached": usage.cache_read_input_tokens,
        "written": usage.cache_creation_input_tokens,
        "output": usage.output_tokens,
        "reason": answer.stop_reason,
    }


def claude_stream() -> dict[str, Any]:
    with claude.messages.stream(**CLAUDE) as stream:
        for _ in stream:
            pass
        return of_message(stream.get_final_message())


def claude_events() -> dict[str, Any]:
    last: Any = None
    message: Any = None
    for event in claude.messages.create(**CLAUDE, stream=True):
        if event.type == "message_start":
            message = event.message
        elif event.type == "message_delta":
            last = event
    message.usage.output_tokens, message.stop_reason = last.usage.output_tokens, last.delta.stop_reason
    return of_message(message)


def refused(call: Callable[[], object]) -> dict[str, Any]:
    with suppress(openai.RateLimitError, anthropic.InternalServerError, anthropic.APIStatusError):
        call()
        raise AssertionError("it was not refused")
    return {}


CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "gpt": gpt_chat,
    "gpt-tools": lambda: gpt_chat(tools=[GPT_TOOL]),
    "gpt-stream": gpt_stream,
    "gpt-refused": lambda: refused(lambda: gpt_chat(model="gpt-refused")),
    "gpt-responses": gpt_responses,
    "gpt-embeddings": gpt_embeddings,
    "claude": lambda: of_message(claude.messages.create(**CLAUDE)),
    "claude-tools": lambda: of_message(claude.messages.create(**CLAUDE, tools=[CLAUDE_TOOL])),
    "claude-stream": claude_stream,
    "claude-events": claude_events,
    "claude-refused": lambda: refused(lambda: claude.messages.create(**CLAUDE | {"model": "claude-refused"})),
}

tracer = trace.get_tracer("tests")
# As each of the three conventions says what surrounds a call. The tokens are those of the calls inside.
AROUND: list[tuple[str, dict[str, Any]]] = [
    ("workflow", {"traceloop.span.kind": "workflow", "traceloop.entity.input": ASKED}),
    ("chain", {"openinference.span.kind": "CHAIN", "input.value": ASKED, "llm.token_count.prompt": 9999}),
    ("invoke_agent", {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 9999}),
    ("execute_tool", {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.arguments": ASKED}),
]
for name in sys.argv[2:]:
    spans = []
    for around, attributes in AROUND:
        spans.append(tracer.start_as_current_span(f"{around} {name}", attributes=attributes))
        spans[-1].__enter__()
    trace_id = f"{trace.get_current_span().get_span_context().trace_id:032x}"
    print(json.dumps({"call": name, "trace": trace_id, **CALLS[name]()}), flush=True)
    for span in reversed(spans):
        span.__exit__(None, None, None)
provider.shutdown()
