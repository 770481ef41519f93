"""The types of the payload, for applications that embed the service and for clients in Python.

Generated from `schemas/` by `make schemas`: do not edit.
"""

# ruff: noqa: E501

import sys
from typing import Any, Literal, TypeAlias

if sys.version_info >= (3, 11):
    from typing import NotRequired, TypedDict
else:
    from typing_extensions import NotRequired, TypedDict

AiStatus: TypeAlias = Literal["ok", "error"]
"""How it ended. Default: `ok`."""


class AiGenerationItem(TypedDict):
    """One call of a language model: its tokens, costs and latency."""

    type: Literal["ai_generation"]
    """Says that this is an AI generation item."""
    provider: str
    """Who served the model."""
    model: str
    """The model, as the provider names it."""
    inputTokens: int
    """Tokens of the prompt. A non-negative integer."""
    outputTokens: NotRequired[int]
    """Tokens of the answer. A non-negative integer."""
    totalTokens: NotRequired[int]
    """All tokens. Default: those of the prompt and of the answer. A non-negative integer."""
    cachedInputTokens: NotRequired[int]
    """Tokens of the prompt that came from the provider's cache. They are part of `inputTokens`. A non-negative integer."""
    cacheWriteTokens: NotRequired[int]
    """Tokens of the prompt that were written to the provider's cache. They are part of `inputTokens`. A non-negative integer."""
    inputCostUsd: NotRequired[float]
    """What the prompt cost, in US dollars. A non-negative number. It is stored exactly as written."""
    outputCostUsd: NotRequired[float]
    """What the answer cost, in US dollars. A non-negative number. It is stored exactly as written."""
    totalCostUsd: NotRequired[float]
    """What the call cost, in US dollars. A non-negative number. It is stored exactly as written."""
    latencyMs: NotRequired[int]
    """How long the call took, in whole milliseconds. A non-negative integer."""
    timeToFirstTokenMs: NotRequired[int]
    """How long the first token took, in whole milliseconds. A non-negative integer."""
    status: NotRequired[AiStatus]
    """How it ended. Default: `ok`."""
    traceId: NotRequired[str]
    """The trace that it belongs to."""
    spanId: NotRequired[str]
    """The span that it belongs to."""
    tags: NotRequired[dict[str, str]]
    """Names and values to search by. A map of string to string."""
    user: NotRequired[dict[str, str]]
    """Who made the call. A map of string to string."""
    metadata: NotRequired[dict[str, Any]]
    """Whatever else belongs to it."""
    environment: NotRequired[str]
    """Where the application runs."""
    release: NotRequired[str]
    """The version of the application."""
    timestamp: NotRequired[str]
    """When it happened, by the client's clock. Default: the time of receipt. A timestamp in ISO 8601: a date, or a date and a time separated by `T`, with optional seconds, fraction (up to nanoseconds) and offset. Without an offset it is UTC. A day that does not exist is refused."""


class Breadcrumb(TypedDict):
    """One step on the way to an error. It is stored as received: its timestamp is text and is never parsed."""

    category: NotRequired[str]
    """What kind of step it was."""
    message: NotRequired[str]
    """What happened."""
    level: NotRequired[str]
    """The severity."""
    timestamp: NotRequired[str]
    """When it happened. Any text is kept."""
    type: NotRequired[str]
    """How to show it."""
    data: NotRequired[dict[str, Any]]
    """Whatever belongs to it."""


Level: TypeAlias = Literal["fatal", "error", "warning", "info", "debug"]
"""The severity. Default: `error`."""


SpanStatus: TypeAlias = Literal["ok", "error", "cancelled"]
"""How it ended. Absent: unknown."""


class Span(TypedDict):
    """One timed part of a transaction."""

    spanId: str
    """The id of the span."""
    op: str
    """What kind of work it was."""
    description: NotRequired[str]
    """The work itself."""
    durationMs: int
    """How long it took, in whole milliseconds. A non-negative integer."""
    startMs: NotRequired[int]
    """When it began, in whole milliseconds after its transaction began. Without it, a waterfall cannot be drawn exactly. A non-negative integer."""
    status: NotRequired[SpanStatus]
    """How it ended. Absent: unknown."""
    parentSpanId: NotRequired[str]
    """The id of the span that it is a part of."""


class StackFrame(TypedDict):
    """One frame of a stack. It is stored as received."""

    filename: NotRequired[str]
    """The file, as the application names it."""
    function: NotRequired[str]
    """The function."""
    module: NotRequired[str]
    """The module or package."""
    absPath: NotRequired[str]
    """The absolute path or URL of the file."""
    lineno: NotRequired[int]
    """The line, counted from 1. An integer."""
    colno: NotRequired[int]
    """The column. An integer."""
    inApp: NotRequired[bool]
    """Whether the frame is the application's own code, not a library's."""
    contextLine: NotRequired[str]
    """The source of the line."""
    preContext: NotRequired[list[str]]
    """The lines of source before it."""
    postContext: NotRequired[list[str]]
    """The lines of source after it."""


TransactionStatus: TypeAlias = Literal["ok", "error", "cancelled"]
"""How it ended. Default: `ok`."""


class TransactionItem(TypedDict):
    """One operation that was timed: a request, a job, a page load."""

    type: Literal["transaction"]
    """Says that this is a transaction item."""
    name: str
    """The route or the operation."""
    traceId: str
    """The id that correlates what belongs to one trace."""
    spanId: NotRequired[str]
    """Its own span in the trace."""
    parentSpanId: NotRequired[str]
    """The span of the caller, in another service."""
    op: NotRequired[str]
    """What kind of operation it was."""
    durationMs: int
    """How long it took, in whole milliseconds. A non-negative integer."""
    status: NotRequired[TransactionStatus]
    """How it ended. Default: `ok`."""
    spans: NotRequired[list[Span]]
    """The parts that it was made of."""
    tags: NotRequired[dict[str, str]]
    """Names and values to search by. A map of string to string."""
    user: NotRequired[dict[str, str]]
    """Who started the operation. A map of string to string."""
    environment: NotRequired[str]
    """Where the application runs."""
    release: NotRequired[str]
    """The version of the application."""
    timestamp: NotRequired[str]
    """When it happened, by the client's clock. Default: the time of receipt. A timestamp in ISO 8601: a date, or a date and a time separated by `T`, with optional seconds, fraction (up to nanoseconds) and offset. Without an offset it is UTC. A day that does not exist is refused."""


class Stacktrace(TypedDict):
    """Where it was raised."""

    frames: NotRequired[list[StackFrame]]
    """The frames of the stack, the one where the exception was raised first. Clients that have it the other way round reverse it."""


class ErrorException(TypedDict):
    """What was raised. Every member of it is optional."""

    type: NotRequired[str]
    """The class of the exception."""
    value: NotRequired[str]
    """The message of the exception."""
    stacktrace: NotRequired[Stacktrace]
    """Where it was raised."""


class ErrorItem(TypedDict):
    """An error or a message that an application reports."""

    type: Literal["error"]
    """Says that this is an error item."""
    exception: ErrorException
    """What was raised. Every member of it is optional."""
    message: NotRequired[str]
    """The text to use if `exception.value` is absent."""
    level: NotRequired[Level]
    """The severity. Default: `error`."""
    breadcrumbs: NotRequired[list[Breadcrumb]]
    """What led to the error, oldest first. Only the size of the body is limited."""
    tags: NotRequired[dict[str, str]]
    """Names and values to search by. A map of string to string."""
    user: NotRequired[dict[str, str]]
    """Who met the error. A map of string to string."""
    traceId: NotRequired[str]
    """The trace in which it happened."""
    spanId: NotRequired[str]
    """The span of the trace in which it happened."""
    fingerprint: NotRequired[list[str]]
    """The client's own grouping, which replaces the service's. `"{{ default }}"` in it stands for the service's own."""
    environment: NotRequired[str]
    """Where the application runs."""
    release: NotRequired[str]
    """The version of the application."""
    timestamp: NotRequired[str]
    """When it happened, by the client's clock. Default: the time of receipt. A timestamp in ISO 8601: a date, or a date and a time separated by `T`, with optional seconds, fraction (up to nanoseconds) and offset. Without an offset it is UTC. A day that does not exist is refused."""


IngestItem: TypeAlias = ErrorItem | TransactionItem | AiGenerationItem
"""One item. Its member `type` says which of the three it is."""


IngestPayload: TypeAlias = IngestItem | list[IngestItem]
"""The body of `POST /v1/ingest`: one item, or a batch of 1 to 20 items. A batch is stored whole or not at all."""
