"""The keys that a request carries, the public key of its project and the idempotency key; and the ids it is given."""

import base64
import secrets
import time
from typing import Any
from urllib.parse import parse_qs


def public_key(environ: dict[str, Any]) -> str:
    """Return the public key of a WSGI request; "" where it has none.

    The first that is not empty counts: `X-Open-Sentry-Key`, `X-Sentry-Clone-Key`, the user name of HTTP Basic
    (which is what HTTP clients make of a DSN), `?key=`.
    """
    return (
        environ.get("HTTP_X_OPEN_SENTRY_KEY", "").strip()
        or environ.get("HTTP_X_SENTRY_CLONE_KEY", "").strip()
        or _user_name(environ.get("HTTP_AUTHORIZATION", ""))
        or parse_qs(environ.get("QUERY_STRING", "")).get("key", [""])[0]
    )


def is_idempotency_key(value: str) -> bool:
    """Return whether a value is an idempotency key: 1 to 255 printable ASCII characters."""
    return 1 <= len(value) <= 255 and value.isascii() and value.isprintable()


def uuid7() -> str:
    """Return a new version 7 UUID (RFC 9562, section 5.7): milliseconds of Unix time, then 74 random bits."""
    random = secrets.randbits(74)
    value = (time.time_ns() // 1_000_000) << 80 | 7 << 76 | (random >> 62) << 64 | 2 << 62 | random & (1 << 62) - 1
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _user_name(authorization: str) -> str:
    """Return the user name of HTTP Basic (RFC 7617); "" where there is none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[0]
    except ValueError:
        return ""
