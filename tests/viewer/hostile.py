"""What attackers put in every member: markup, scripts, styles, links and templates; and what the pages are made of."""

from html.parser import HTMLParser
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
    "'-alert(1)-'",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;",
]

TAGS = """
    html head meta title link script body a header nav main footer p h1 h2 h3 div span b i strong mark code pre time
    ol ul li dl dt dd form label select option input button section details summary table caption thead tbody tr th td
    figure figcaption svg g rect circle path line text
"""
"""The elements that the pages are made of, separated by spaces."""

ATTRIBUTES = """
    lang charset name content rel href src defer class id title datetime aria-current aria-label aria-labelledby
    aria-hidden aria-sort autocomplete action method value selected type placeholder scope data-label data-copy
    data-refresh tabindex open role x y x1 x2 y1 y2 cx cy r rx d width height viewbox preserveaspectratio text-anchor
"""
"""Their attributes."""


def seen(text: str) -> str:
    """Return how a page shows a text of these."""
    return text.replace("\x1b", "␛").replace("\u202e", "⟨U+202E⟩").replace("\u2066", "⟨U+2066⟩")


def elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """Return the elements of a page, each with its attributes."""
    found: list[tuple[str, dict[str, str | None]]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.append((tag, dict(attributes)))

    Parser().feed(page)
    return found


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
