"""The log: one line for each refused request, none for an accepted one.

The rules that hold here: text from outside cannot begin a line, so that it cannot pass for a record, and a database's
error may quote a row, over several lines; no key is in a line in full; and a flood of requests makes no flood of
warnings, so a refusal is logged at INFO, which is silent until an operator asks for it.
"""

import logging
import re
import time
from textwrap import indent
from typing import Any

from opensentry_ingest import faults, keys

logger = logging.getLogger("opensentry_ingest")

LONGEST = 200
"""Characters of a text from outside that a line takes."""

QUIET = 1.0
"""Seconds of an outage for which one warning stands; the refusals in between are logged at INFO."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:=+/-]{1,128}")
_warned = float("-inf")


def request_id(environ: dict[str, Any], fresh: str) -> str:
    """Return the id of a WSGI request: its `X-Request-Id` where that is sane, else `fresh`.

    Sane is what ids in use look like (UUIDs, trace headers): 1 to 128 ASCII letters, digits and `._:=+/-`.
    """
    given: str = environ.get("HTTP_X_REQUEST_ID", "")
    return given if _REQUEST_ID.fullmatch(given) else fresh


def refused(environ: dict[str, Any], request_id: str, status: int, reason: str, cause: Exception | None) -> None:
    """Log one line that says why a request was refused; for a bug, with its traceback.

    Args:
        environ: the WSGI environment (PEP 3333).
        request_id: what the client was told, in `X-Request-Id`.
        status: the HTTP status of the answer.
        reason: its text.
        cause: the error behind it, where there is one.
    """
    level = _level(status)
    if not logger.isEnabledFor(level):
        return
    detail = "; ".join(f"{fault.pointer} {fault.detail}".strip() for fault in faults.explain(cause, 1)) if cause else ""
    logger.log(
        level,
        'refused: status=%d reason="%s" detail="%s" method=%s path="%s" key="%s" request_id=%s',
        status,
        reason,
        _plain(detail),
        _plain(environ["REQUEST_METHOD"]),
        _plain(environ.get("PATH_INFO", "")),
        _hint(keys.public_key(environ)),
        request_id,
        exc_info=cause if status == 500 else None,
    )


def _level(status: int) -> int:
    """Return the level of a refusal: a bug is an ERROR, an outage a WARNING now and then, a client's fault INFO."""
    global _warned
    if status == 500:
        return logging.ERROR
    if status == 503 and time.monotonic() - _warned >= QUIET:
        _warned = time.monotonic()
        return logging.WARNING
    return logging.INFO


def _plain(text: str) -> str:
    """Return a text from outside as it may stand between quotes in a line: short, in printable ASCII."""
    return text[:LONGEST].replace('"', "'").encode("unicode_escape").decode()


def _hint(public_key: str) -> str:
    """Return enough of a key to find it, and too little to use it."""
    return _plain(public_key[:4]) + "..." if len(public_key) >= 16 else ""


def _keep_to_its_lines(record: logging.LogRecord) -> bool:
    """Make the message one line, and indent the traceback that follows it."""
    record.msg, record.args = " ".join(record.getMessage().splitlines()), ()
    if record.exc_info:
        # A handler's formatter takes this text where it finds one.
        record.exc_text = indent(logging.Formatter().formatException(record.exc_info), "  ")
    return True


logger.addFilter(_keep_to_its_lines)
