"""What a request identifies itself by: the public key of its project, and the idempotency key of a retry."""

import base64
import re
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from opensentry_ingest.errors import InvalidIdempotencyKey


def public_key(environ: dict[str, Any]) -> str:
    """Return the public key of a WSGI request, or "" if it has none.

    The first that is not empty counts: `X-Open-Sentry-Key`, `X-Sentry-Clone-Key`, the user name of HTTP Basic
    (which is what HTTP clients make of a DSN), `?key=`.
    """
    return (
        environ.get("HTTP_X_OPEN_SENTRY_KEY", "").strip()
        or environ.get("HTTP_X_SENTRY_CLONE_KEY", "").strip()
        or _user_name(environ.get("HTTP_AUTHORIZATION", ""))
        or _parameter(environ.get("QUERY_STRING", ""), "key")
    )


def sentry_key(environ: dict[str, Any]) -> str:
    """Return the public key that a WSGI request of a Sentry SDK names in Sentry's own ways, or "" if it has none.

    The first that is not empty counts: `X-Sentry-Auth`, `Authorization: Sentry`, `?sentry_key=`.
    """
    return (
        _key_of_header(environ.get("HTTP_X_SENTRY_AUTH", ""))
        or _key_of_header(environ.get("HTTP_AUTHORIZATION", ""))
        or _parameter(environ.get("QUERY_STRING", ""), "sentry_key")
    )


def dsn_key(dsn: object) -> str:
    """Return the public key in a DSN, or "" if it is none."""
    try:
        return unquote(urlsplit(dsn).username or "") if isinstance(dsn, str) else ""
    except ValueError:
        return ""


def idempotency_key(environ: dict[str, Any]) -> str | None:
    """Return the idempotency key of a WSGI request, or None if it has none.

    Raises:
        InvalidIdempotencyKey: it is not 1 to 255 printable ASCII characters.
    """
    key: str | None = environ.get("HTTP_IDEMPOTENCY_KEY")
    if key is not None and not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise InvalidIdempotencyKey
    return key


# A project's clients send the same header with each request, and the same query.
@lru_cache(maxsize=100)
def _key_of_header(header: str) -> str:
    """Return `sentry_key` in a header of Sentry's, or "" if it is none or has none."""
    found = _SENTRY_KEY.search(header) if header[:7].lower() == "sentry " else None
    return found[1] if found else ""


@lru_cache(maxsize=100)
def _parameter(query: str, name: str) -> str:
    """Return the first value of a parameter in a query string, or "" if it is missing or empty."""
    return parse_qs(query).get(name, [""])[0]


_SENTRY_KEY = re.compile(r"[ ,]sentry_key=\s*([^\s,]+)")


def _user_name(authorization: str) -> str:
    """Return the user name of HTTP Basic (RFC 7617), or "" if there is none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[0]
    except ValueError:
        return ""
