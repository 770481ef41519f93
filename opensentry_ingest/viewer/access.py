"""Who may look, and from where a change may come.

The rules that hold here: a password is compared in constant time; a page of another site can neither change anything
(its browser says where a form came from) nor read anything by a DNS name that it points at this machine; and nothing
depends on a cookie.
"""

import base64
import binascii
import hmac
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from opensentry_ingest.viewer.errors import Forbidden, PasswordNeeded

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""The names by which a viewer is reached that listens on the loopback interface."""

HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    # Not no-referrer: with that, browsers send `Origin: null` with our own forms.
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
"""The headers of every answer."""


def check(environ: dict[str, Any], password: str, hosts: Collection[str] | None) -> None:
    """Return if whoever sends a WSGI request may look.

    Args:
        environ: the WSGI environment (PEP 3333).
        password: what HTTP Basic authentication has to give, with any user name; empty: nothing is asked for.
        hosts: the names that the header Host may have; None: any.

    Raises:
        PasswordNeeded, Forbidden: they may not.
    """
    if hosts is not None and _hostname(environ.get("HTTP_HOST", "")) not in hosts:
        raise Forbidden("Without a password the viewer answers only by the name localhost or a loopback address.")
    if password and not hmac.compare_digest(_password(environ).encode(), password.encode()):
        raise PasswordNeeded("Give the password in OPENSENTRY_VIEWER_PASSWORD, with any user name.")


def check_origin(environ: dict[str, Any]) -> None:
    """Return if a form was sent by one of our own pages.

    Browsers say so in Sec-Fetch-Site; over plain HTTP to another machine they do not, and then Origin has to name the
    host that the request is for.

    Raises:
        Forbidden: it was sent by another site, or nothing says that it was not.
    """
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is None:
        same = _is_of(environ.get("HTTP_ORIGIN", ""), environ.get("HTTP_HOST", ""))
    else:
        same = site == "same-origin"
    if not same:
        raise Forbidden("A change is made only by a form of the viewer itself. Go back, reload the page and try again.")


def _is_of(origin: str, host: str) -> bool:
    """Return whether an origin has a host and port, of which the default port may be left out."""
    scheme, _, named = origin.lower().partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme)
    return port is not None and host != "" and named.removesuffix(port) == host.lower().removesuffix(port)


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _password(environ: dict[str, Any]) -> str:
    scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials.strip()).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
