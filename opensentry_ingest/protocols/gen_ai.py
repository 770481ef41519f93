"""Calls of language models, as the attributes of spans describe them.

The names are those of OpenTelemetry's semantic conventions, and of Sentry's SDKs, OpenLLMetry and OpenInference.

The rules that hold here: what a model was asked and what it answered is dropped unless the operator wants it; and an
attribute of the wrong type is as good as none.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

CALLS = frozenset({"chat", "embeddings", "generate_content", "text_completion"})
"""The operations that are one call of a model, by OpenTelemetry's conventions. Agents, workflows and tools are not:
their tokens are those of the calls inside them."""

OPERATIONS = CALLS | {
    "completion",
    "embed",
    "embed_many",
    "generate_object",
    "generate_text",
    "messages",
    "request",
    "responses",
    "stream_object",
    "stream_text",
}
"""The same, by the names that Sentry's SDKs have besides."""

MAX_CHARACTERS = 250
"""The longest text that is taken over: it is stored with each call."""

# The table of docs/opentelemetry.md: what an item has, and the attributes that say it, of which the first that is there
# counts.
_TEXTS = {
    "provider": ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"),
    "model": ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name", "embedding.model_name"),
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
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.input_tokens.cache_write",
        "llm.token_count.prompt_details.cache_write",
    ),
}
_COSTS = {
    "inputCostUsd": ("gen_ai.cost.input_tokens", "llm.cost.prompt"),
    "outputCostUsd": ("gen_ai.cost.output_tokens", "llm.cost.completion"),
    "totalCostUsd": ("gen_ai.cost.total_tokens", "gen_ai.usage.total_cost", "llm.cost.total"),
}
_TAGS = ("service.name", "gen_ai.conversation.id", "gen_ai.operation.name", "gen_ai.agent.name")
_METADATA = (
    "gen_ai.response.finish_reasons",
    "gen_ai.response.id",
    "anthropic.message.stop_reason",
    "llm.finish_reason",
)
_ANSWER = ("gen_ai.response.id",)
_LARGEST = 2**53 - 1


def is_call(attributes: Mapping[str, Any]) -> bool:
    """Return whether a span of OpenTelemetry's is one call of a model, by its attributes."""
    if operation := attributes.get("gen_ai.operation.name"):
        return type(operation) is str and operation in CALLS
    return bool(attributes.get("llm.request.type")) or attributes.get("openinference.span.kind") in ("LLM", "EMBEDDING")


def is_step(attributes: Mapping[str, Any]) -> bool:
    """Return whether a span is an agent, a tool, or another step in which models may be called."""
    return not is_call(attributes) and not _STEPS.isdisjoint(attributes)


def has_tokens(attributes: Mapping[str, Any]) -> bool:
    """Return whether a span says how many tokens a call took."""
    return any(_is_count(attributes.get(name)) for names in _COUNTS.values() for name in names)


def may_be_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two calls may be the same: the ids of their answers do not differ."""
    ids = {_first(each, _ANSWER, _is_text) for each in (one, other)} - {None}
    return len(ids) < 2


def is_same(one: Mapping[str, Any], other: Mapping[str, Any], failed: tuple[bool, bool]) -> bool:
    """Return whether two calls are the same, by the id of the answer.

    If one of them does not say it, they are if they have a model in common, and took the same tokens or both failed.

    Args:
        one: the attributes of a call.
        other: those of another.
        failed: whether each of them failed.
    """
    ids, providers, inputs, outputs = (
        [_first(each, names, right) for each in (one, other)]
        for names, right in (
            (_ANSWER, _is_text),
            (_TEXTS["provider"], _is_text),
            (_COUNTS["inputTokens"], _is_count),
            (_COUNTS["outputTokens"], _is_count),
        )
    )
    if None not in ids:
        return bool(ids[0] == ids[1])
    models = ({each[name] for name in _TEXTS["model"] if _is_text(each.get(name))} for each in (one, other))
    if not set.intersection(*models) or (None not in providers and providers[0] != providers[1]):
        return False
    alike = all(first == second for first, second in (failed, inputs, outputs))
    return alike and bool(failed[0] or any(inputs) or any(outputs))


def generation(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the attributes of a span say about the call of a model: members of an AI generation item.

    Those that the schema requires are always there: a provider or a model that is not named is "unknown".
    """
    item: dict[str, Any] = {"type": "ai_generation", "provider": "unknown", "model": "unknown", "inputTokens": 0}
    for members, right in ((_TEXTS, _is_text), (_COUNTS, _is_count), (_COSTS, _is_cost)):
        for member, names in members.items():
            if (value := _first(attributes, names, right)) is not None:
                item[member] = value
    seconds: Any = attributes.get("gen_ai.response.time_to_first_chunk")
    if _is_cost(seconds) and _is_count(round(seconds * 1000)):
        item["timeToFirstTokenMs"] = round(seconds * 1000)
    tags = {name: attributes[name] for name in _TAGS if _is_text(attributes.get(name))}
    if tags:
        item["tags"] = tags
    metadata = {
        name: value
        for name, value in attributes.items()
        if (name.startswith("gen_ai.request.") or name in _METADATA) and value is not None
    }
    if metadata:
        item["metadata"] = metadata
    return item


def _first(attributes: Mapping[str, Any], names: Iterable[str], right: Callable[[Any], bool]) -> Any:
    return next((attributes[name] for name in names if right(attributes.get(name))), None)


def without_content(attributes: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """Return attributes without those that hold what was said to or by a model.

    Args:
        attributes: by their names; maps and lists in them are searched as well.
        within: the name of what has them, if that is about models.
    """
    kept = {}
    for name, value in attributes.items():
        whole = f"{within}.{name}" if within else name
        # Numbers quote nothing: the counts of tokens are numbers.
        if type(value) in (int, float, bool) or not (is_content(whole) or is_content(name)):
            kept[name] = _searched(value, whole)
    return kept


def _searched(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return without_content(value, name)
    return [_searched(each, name) for each in value] if isinstance(value, list) else value


def is_about_models(name: str) -> bool:
    """Return whether an attribute or an event of this name concerns models."""
    return bool(_ABOUT_MODELS.match(name))


def is_content(name: str) -> bool:
    """Return whether an attribute of this name holds what was said to or by a model or a tool."""
    # Long names come from no library, and would fill the memory.
    return _is_content(name) if len(name) > 200 else _cached_is_content(name)


def _is_content(name: str) -> bool:
    if name in _NOT_CONTENT:
        return False
    start = _ABOUT_MODELS.match(name)
    if not start:
        return name in _CONTENT
    # "input.value" is both; "gen_ai.tool.name" is neither.
    return any(_CONTENT_WORD.fullmatch(word.lower()) for word in _WORD.findall(name, start.end()))


def _is_text(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= MAX_CHARACTERS


def _is_count(value: Any) -> bool:
    return (type(value) is int or (type(value) is float and value.is_integer())) and 0 <= value <= _LARGEST


def _is_cost(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= _LARGEST


_cached_is_content = lru_cache(maxsize=4096)(_is_content)
_STEPS = frozenset({"gen_ai.operation.name", "openinference.span.kind", "traceloop.span.kind"})
_ABOUT_MODELS = re.compile(
    r"(?:(?:ai|crewai|db\.vector|document|embedding|gen_ai|haystack|input|langfuse|langsmith|lk|llm|mcp|message|mlflow"
    r"|openinference|output|pydantic_ai|reranker|retrieval|spring\.ai|tool|tool_call|traceloop)\.|genkit:)"
)
"""How the names of attributes begin that concern models."""
_CONTENT_WORD = re.compile(
    r"(?:arg|argument|body|call|choice|completion|content|definition|description|document|embedding|event|function"
    r"|image|input|instruction|message|output|parameter|prompt|query|responses|result|text|tool|transcript|value|variable)s?"
    r"|backstory|ctx|explanation|goal|invocation|object|reasoning|schema|serialized|template|thinking|vector"
)
"""The words of such a name that say that it quotes a model. There are many libraries, and they add names often."""
_CONTENT = frozenset(
    {
        "all_messages_events",
        "completion",
        "final_result",
        "gcp.vertex.agent.data",
        "gcp.vertex.agent.llm_request",
        "gcp.vertex.agent.llm_response",
        "gcp.vertex.agent.tool_call_args",
        "gcp.vertex.agent.tool_response",
        "input",
        "messages",
        "model_request_parameters",
        "output",
        "prompt",
        "request_data",
        "response_data",
        "system_prompt",
        "tool_arguments",
        "tool_response",
        "user_prompt",
    }
)
"""Names that quote a model and do not begin with any of those."""
_NOT_CONTENT = frozenset({"gen_ai.output.type", "gen_ai.tool.call.id", "gen_ai.tool.name", "gen_ai.tool.type"})
_WORD = re.compile(r"[A-Z]?[a-z]+")
