"""The types of the payload, for those who embed the service or write a client in Python.

Generated from `schemas/` by `make schemas`: do not edit.
"""

from typing import Any, Literal, TypeAlias, TypedDict

__all__ = [
    "AiGenerationItem",
    "AiGenerationItemType",
    "AiStatus",
    "Breadcrumb",
    "ErrorException",
    "ErrorItem",
    "ErrorItemType",
    "IngestItem",
    "IngestPayload",
    "Level",
    "Span",
    "SpanStatus",
    "StackFrame",
    "Stacktrace",
    "TransactionItem",
    "TransactionItemType",
    "TransactionStatus",
]


AiGenerationItemType: TypeAlias = Literal["ai_generation"]
"""Says that this is an AI generation item."""


AiStatus: TypeAlias = Literal["ok", "error"]
"""How it ended. Default: `ok`."""


class _AiGenerationItemRequired(TypedDict):
    type: AiGenerationItemType
    """Says that this is an AI generation item."""
    provider: str
    """Who served the model."""
    model: str
    """The model, as the provider names it."""
    inputTokens: int
    """Tokens of the prompt. An integer that is not negative."""


class AiGenerationItem(_AiGenerationItemRequired, total=False):
    """One call of a language model: its tokens, costs and latency."""

    outputTokens: int
    """Tokens of the answer. An integer that is not negative."""
    totalTokens: int
    """All tokens. Default: those of the prompt and of the answer. An integer that is not negative."""
    cachedInputTokens: int
    """Tokens of the prompt that came from the provider's cache. They are part of `inputTokens`. An integer that
    is not negative.
    """
    cacheWriteTokens: int
    """Tokens of the prompt that were written to the provider's cache. They are part of `inputTokens`. An integer
    that is not negative.
    """
    inputCostUsd: float
    """What the prompt cost, in US dollars. A number that is not negative; it is stored exactly as it is written."""
    outputCostUsd: float
    """What the answer cost, in US dollars. A number that is not negative; it is stored exactly as it is written."""
    totalCostUsd: float
    """What the call cost, in US dollars. A number that is not negative; it is stored exactly as it is written."""
    latencyMs: int
    """How long the call took, in whole milliseconds. An integer that is not negative."""
    timeToFirstTokenMs: int
    """How long the first token took, in whole milliseconds. An integer that is not negative."""
    status: AiStatus
    """How it ended. Default: `ok`."""
    traceId: str
    """The trace that it belongs to."""
    spanId: str
    """The span that it belongs to."""
    tags: dict[str, str]
    """Names and values to search by. A map of string to string."""
    user: dict[str, str]
    """Who made the call. A map of string to string."""
    metadata: dict[str, Any]
    """Whatever else belongs to it."""
    environment: str
    """Where the application runs."""
    release: str
    """The version of the application."""
    timestamp: str
    """When it happened, by the client's clock. Default: the time of receipt. A moment in ISO 8601: a date, or a
    date and a time parted by `T`, with optional seconds, fraction (up to nanoseconds) and offset. Without an
    offset it is UTC. A day that does not exist is no moment.
    """


class Breadcrumb(TypedDict, total=False):
    """One step on the way to an error. It is kept as it came: its timestamp is text, which nothing casts."""

    category: str
    """What kind of step it was."""
    message: str
    """What happened."""
    level: str
    """The severity."""
    timestamp: str
    """When it happened. Any text is kept."""
    type: str
    """How to show it."""
    data: dict[str, Any]
    """Whatever belongs to it."""


ErrorItemType: TypeAlias = Literal["error"]
"""Says that this is an error item."""


class StackFrame(TypedDict, total=False):
    """One frame of a stack. It is kept as it came."""

    filename: str
    """The file, as the application names it."""
    function: str
    """The function."""
    module: str
    """The module or package."""
    absPath: str
    """The absolute path or URL of the file."""
    lineno: int
    """The line, counted from 1. An integer."""
    colno: int
    """The column. An integer."""
    inApp: bool
    """Whether the frame is the application's own code, not a library's."""
    contextLine: str
    """The source of the line."""
    preContext: list[str]
    """The lines of source before it."""
    postContext: list[str]
    """The lines of source after it."""


class Stacktrace(TypedDict, total=False):
    """Where it was raised."""

    frames: list[StackFrame]
    """The frames of the stack, the one where the exception was raised first. Clients that have it the other way
    round reverse it.
    """


class ErrorException(TypedDict, total=False):
    """What was raised. Every member of it is optional."""

    type: str
    """The class of the exception."""
    value: str
    """The message of the exception."""
    stacktrace: Stacktrace
    """Where it was raised."""


Level: TypeAlias = Literal["fatal", "error", "warning", "info", "debug"]
"""The severity. Default: `error`."""


class _ErrorItemRequired(TypedDict):
    type: ErrorItemType
    """Says that this is an error item."""
    exception: ErrorException
    """What was raised. Every member of it is optional."""


class ErrorItem(_ErrorItemRequired, total=False):
    """An error or a message that an application reports."""

    message: str
    """A text that stands in where `exception.value` is absent."""
    level: Level
    """The severity. Default: `error`."""
    breadcrumbs: list[Breadcrumb]
    """What led to the error, oldest first. Only the limit of the body bounds them."""
    tags: dict[str, str]
    """Names and values to search by. A map of string to string."""
    user: dict[str, str]
    """Who met the error. A map of string to string."""
    traceId: str
    """The trace in which it happened."""
    spanId: str
    """The span of the trace in which it happened."""
    fingerprint: list[str]
    """The client's own grouping, which replaces the service's. `"{{ default }}"` in it stands for the service's
    own.
    """
    environment: str
    """Where the application runs."""
    release: str
    """The version of the application."""
    timestamp: str
    """When it happened, by the client's clock. Default: the time of receipt. A moment in ISO 8601: a date, or a
    date and a time parted by `T`, with optional seconds, fraction (up to nanoseconds) and offset. Without an
    offset it is UTC. A day that does not exist is no moment.
    """


TransactionItemType: TypeAlias = Literal["transaction"]
"""Says that this is a transaction item."""


TransactionStatus: TypeAlias = Literal["ok", "error", "cancelled"]
"""How it ended. Default: `ok`."""


SpanStatus: TypeAlias = Literal["ok", "error", "cancelled"]
"""How it ended. Absent: unknown."""


class _SpanRequired(TypedDict):
    spanId: str
    """The id of the span."""
    op: str
    """What kind of work it was."""
    durationMs: int
    """How long it took, in whole milliseconds. An integer that is not negative."""


class Span(_SpanRequired, total=False):
    """One timed part of a transaction."""

    description: str
    """The work itself."""
    startMs: int
    """When it began, in whole milliseconds after its transaction began. Without it, a waterfall cannot be drawn
    exactly. An integer that is not negative.
    """
    status: SpanStatus
    """How it ended. Absent: unknown."""
    parentSpanId: str
    """The id of the span that it is a part of."""


class _TransactionItemRequired(TypedDict):
    type: TransactionItemType
    """Says that this is a transaction item."""
    name: str
    """The route or the operation."""
    traceId: str
    """The id that correlates what belongs to one trace."""
    durationMs: int
    """How long it took, in whole milliseconds. An integer that is not negative."""


class TransactionItem(_TransactionItemRequired, total=False):
    """One operation that was timed: a request, a job, a page load."""

    spanId: str
    """Its own span in the trace."""
    parentSpanId: str
    """The span of the caller, in another service."""
    op: str
    """What kind of operation it was."""
    status: TransactionStatus
    """How it ended. Default: `ok`."""
    spans: list[Span]
    """The parts that it was made of."""
    tags: dict[str, str]
    """Names and values to search by. A map of string to string."""
    user: dict[str, str]
    """Who started the operation. A map of string to string."""
    environment: str
    """Where the application runs."""
    release: str
    """The version of the application."""
    timestamp: str
    """When it happened, by the client's clock. Default: the time of receipt. A moment in ISO 8601: a date, or a
    date and a time parted by `T`, with optional seconds, fraction (up to nanoseconds) and offset. Without an
    offset it is UTC. A day that does not exist is no moment.
    """


IngestItem: TypeAlias = ErrorItem | TransactionItem | AiGenerationItem
"""One item. Its member `type` says which of the three it is."""


IngestPayload: TypeAlias = IngestItem | list[IngestItem]
"""The body of `POST /v1/ingest`: one item, or a batch of 1 to 20 items. A batch is stored whole or not at all."""
