"""What a request identifies itself by: the public key of its project, and the idempotency key of a retry."""

import base64
import re
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
        or _parameter(environ, "key")
    )


def sentry_key(environ: dict[str, Any]) -> str:
    """Return the public key that a WSGI request of a Sentry SDK names in Sentry's own ways, or "" if it has none.

    The first that is not empty counts: `X-Sentry-Auth`, `Authorization: Sentry`, `?sentry_key=`.
    """
    for header in (environ.get("HTTP_X_SENTRY_AUTH", ""), environ.get("HTTP_AUTHORIZATION", "")):
        if header[:7].lower() == "sentry " and (found := _SENTRY_KEY.search(header)):
            return str(found[1])
    return _parameter(environ, "sentry_key")


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


def _parameter(environ: dict[str, Any], name: str) -> str:
    """Return a parameter of the query of a WSGI request, or "" if it has none."""
    query: str = environ.get("QUERY_STRING", "")
    return parse_qs(query).get(name, [""])[0] if query else ""


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
