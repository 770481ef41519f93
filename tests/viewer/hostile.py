"""What attackers put in every member: markup, scripts, styles and links."""

from typing import Any

from tests.support import AI_GENERATION, ERROR, TRANSACTION

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "javascript:alert(1)",
    "</title></style></script></textarea><style>*{display:none}</style><link rel=stylesheet href=//evil.example>",
    "<a href='javascript:alert(1)' style='position:fixed'>x</a><base href=//evil.example><iframe src=//evil.example>",
    "<form action=//evil.example><meta http-equiv=refresh content='0;url=//evil.example'>",
    "\u202egnp.exe\u2066 \x1b[31m",
]


def error(text: str) -> dict[str, Any]:
    """Return an error item with a text in every member, in names too, and in those that no schema knows."""
    frame = {"filename": text, "function": text, "module": text, "absPath": text, "lineno": 3, "inApp": True}
    frame |= {"contextLine": text, "preContext": [text], "postContext": [text]}
    stack = {"frames": [frame, {**frame, "inApp": False}, {"filename": text}]}
    return {
        **ERROR,
        "exception": {"type": text, "value": text, "stacktrace": stack},
        "message": f"{text} message",
        "breadcrumbs": [{"category": text, "message": text, "type": text, "level": "error", "data": {text: text}}],
        "tags": {text[:100]: text},
        "user": {"id": text, text: text},
        "environment": text,
        "release": text,
        "traceId": text,
        "causes": [{"type": text, "value": text, "stacktrace": stack}, text, {"type": 1, "stacktrace": text}],
        text: text,
    }


def transaction(text: str) -> dict[str, Any]:
    """Return a transaction of the same trace as the error, with a text in every member."""
    span = {"spanId": text, "op": text, "description": text, "durationMs": 1, "startMs": 0}
    names = {"name": text, "traceId": text, "environment": text, "release": text}
    return {**TRANSACTION, **names, "spans": [span, {**span, "spanId": "b", "parentSpanId": text}]}


def ai_generation(text: str) -> dict[str, Any]:
    """Return an AI generation of the same trace, with a text in every member."""
    names = {"provider": text, "model": text, "traceId": text, "environment": text, "release": text}
    return {**AI_GENERATION, **names, "tags": {text: text}, "user": {"id": text}}
