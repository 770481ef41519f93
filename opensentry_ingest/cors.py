"""Cross-origin requests (CORS, Fetch standard): which origins may post, and the headers that let their pages read.

The rules that hold here: the headers are on every answer, errors too, or a browser hides the reason; and "*" is never
sent, because in credentials mode, which a beacon is in, it is no wildcard.
"""

from collections.abc import Set
from typing import Any

PREFLIGHT = [
    ("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS"),
    (
        "Access-Control-Allow-Headers",
        "Accept, Authorization, Baggage, Content-Encoding, Content-Type, Idempotency-Key, Sentry-Trace, "
        "X-Open-Sentry-Key, X-Request-Id, X-Sentry-Auth, X-Sentry-Clone-Key",
    ),
    ("Access-Control-Max-Age", "86400"),
]
"""What the answer to a preflight has besides."""


def allows(environ: dict[str, Any], origins: Set[str] | None) -> bool:
    """Return whether the page that made a WSGI request may post; a request that is of no page may.

    Args:
        environ: the WSGI environment (PEP 3333).
        origins: the origins that may; None: any.
    """
    origin = environ.get("HTTP_ORIGIN")
    return not origin or origins is None or origin in origins


def headers(environ: dict[str, Any], origins: Set[str] | None) -> list[tuple[str, str]]:
    """Return the headers that let a page of this origin read the answer, where it may post."""
    headers = [("Vary", "Origin")]
    origin = environ.get("HTTP_ORIGIN")
    if origin and allows(environ, origins):
        headers += [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Expose-Headers", "Retry-After, X-Request-Id"),
        ]
    return headers
