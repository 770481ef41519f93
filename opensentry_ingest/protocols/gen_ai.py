"""Calls of language models, as the attributes of spans describe them.

The names are those of OpenTelemetry's semantic conventions, and of Sentry's SDKs, OpenLLMetry and OpenInference.

The rules that hold here: what a model was asked and what it answered is dropped; and an attribute of the wrong type is
as good as none.
"""

from collections.abc import Mapping
from typing import Any

OPERATIONS = frozenset(
    {
        "chat",
        "completion",
        "embed",
        "embed_many",
        "embeddings",
        "generate_content",
        "generate_object",
        "generate_text",
        "messages",
        "request",
        "responses",
        "stream_object",
        "stream_text",
        "text_completion",
    }
)
"""The operations that are one call of a model. Agents, workflows and tools are not: their tokens are those of the calls
inside them."""

CONTENT = frozenset(
    {
        "gen_ai.completion",
        "gen_ai.embeddings.input",
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.prompt",
        "gen_ai.request.messages",
        "gen_ai.response.object",
        "gen_ai.response.text",
        "gen_ai.response.tool_calls",
        "gen_ai.system_instructions",
        "gen_ai.tool.call.arguments",
        "gen_ai.tool.call.result",
        "gen_ai.tool.input",
        "gen_ai.tool.output",
        "ai.input_messages",
        "ai.prompt",
        "ai.prompt.messages",
        "ai.response.object",
        "ai.response.text",
        "ai.response.toolCalls",
        "ai.responses",
        "ai.toolCall.args",
        "ai.toolCall.result",
        "mcp.tool.result.content",
    }
)
"""The attributes that hold what a model or a tool was given or returned."""

MAX_CHARACTERS = 250
"""The longest text that is taken over: it is stored with each call."""

_TEXTS = {
    "provider": ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"),
    "model": ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name"),
}
_COUNTS = {
    "inputTokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"),
    "outputTokens": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion"),
    "totalTokens": ("gen_ai.usage.total_tokens",),
    "cachedInputTokens": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.input_tokens.cached",
        "llm.token_count.prompt_details.cache_read",
    ),
    "cacheWriteTokens": (
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.input_tokens.cache_write",
        "llm.token_count.prompt_details.cache_write",
    ),
}
_COSTS = {
    "inputCostUsd": ("gen_ai.cost.input_tokens",),
    "outputCostUsd": ("gen_ai.cost.output_tokens",),
    "totalCostUsd": ("gen_ai.cost.total_tokens", "gen_ai.usage.total_cost"),
}
_TAGS = ("service.name", "gen_ai.conversation.id", "gen_ai.operation.name", "gen_ai.agent.name")
_METADATA = ("gen_ai.response.finish_reasons", "gen_ai.response.id")
_LARGEST = 2**53 - 1


def generation(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the attributes of a span say about the call of a model: members of an AI generation item.

    Those that the schema requires are always there: a provider or a model that is not named is "unknown".
    """
    item: dict[str, Any] = {"type": "ai_generation", "provider": "unknown", "model": "unknown", "inputTokens": 0}
    for members, right in ((_TEXTS, _is_text), (_COUNTS, _is_count), (_COSTS, _is_cost)):
        for member, names in members.items():
            for name in names:
                if right(attributes.get(name)):
                    item[member] = attributes[name]
                    break
    seconds: Any = attributes.get("gen_ai.response.time_to_first_chunk")
    if _is_cost(seconds) and _is_count(round(seconds * 1000)):
        item["timeToFirstTokenMs"] = round(seconds * 1000)
    tags = {name: attributes[name] for name in _TAGS if _is_text(attributes.get(name))}
    if tags:
        item["tags"] = tags
    metadata = {
        name: value
        for name, value in attributes.items()
        if (name.startswith("gen_ai.request.") or name in _METADATA) and name not in CONTENT and value is not None
    }
    if metadata:
        item["metadata"] = metadata
    return item


def without_content(span: dict[str, Any]) -> dict[str, Any]:
    """Return a span of Sentry's without what was said to or by a model."""
    data = span.get("data")
    if not isinstance(data, dict) or CONTENT.isdisjoint(data):
        return span
    return {**span, "data": {name: value for name, value in data.items() if name not in CONTENT}}


def _is_text(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= MAX_CHARACTERS


def _is_count(value: Any) -> bool:
    return (type(value) is int or (type(value) is float and value.is_integer())) and 0 <= value <= _LARGEST


def _is_cost(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= _LARGEST
