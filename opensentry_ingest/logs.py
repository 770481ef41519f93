"""The log: one line for each refused request, none for an accepted one.

The rules that hold here: text from outside cannot begin a line, so that it cannot pass for a record, even if a database
error quotes a row over several lines; no key is logged in full; and a flood of requests makes no flood of warnings, so
a refusal is logged at INFO, which is silent until an operator asks for it.
"""

import logging
import re
import time
from textwrap import indent
from typing import Any

from opensentry_ingest import credentials, errors, problems

logger = logging.getLogger("opensentry_ingest")

MAX_CHARACTERS = 200
"""How much of a text from outside is logged."""

WARNING_INTERVAL_SECONDS = 1.0
"""The time between two warnings of an outage; the refusals in between are logged at INFO."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:=+/-]{1,128}")
_warned = float("-inf")


def request_id(environ: dict[str, Any], fresh: str) -> str:
    """Return the id of a WSGI request: its `X-Request-Id` if that is well-formed, else `fresh`.

    Well-formed is what ids in use look like (UUIDs, trace headers): 1 to 128 ASCII letters, digits and `._:=+/-`.
    """
    given: str = environ.get("HTTP_X_REQUEST_ID", "")
    return given if _REQUEST_ID.fullmatch(given) else fresh


def refused(environ: dict[str, Any], request_id: str, refusal: errors.RequestError, cause: Exception) -> None:
    """Log one line that says why a request was refused; for a bug, with its traceback.

    Args:
        environ: the WSGI environment (PEP 3333).
        request_id: what the client was told, in `X-Request-Id`.
        refusal: the answer.
        cause: the error behind it, which is the same unless it is a bug.
    """
    severity = level(refusal.status)
    if not logger.isEnabledFor(severity):
        return
    detail = "; ".join(f"{problem.pointer} {problem.detail}".strip() for problem in problems.explain(cause, 1))
    logger.log(
        severity,
        'refused: status=%d reason="%s" detail="%s" method=%s path="%s" key="%s" request_id=%s',
        refusal.status,
        refusal.reason,
        plain(detail),
        plain(environ["REQUEST_METHOD"]),
        plain(environ.get("PATH_INFO", "")),
        _hint(credentials.public_key(environ) or credentials.sentry_key(environ)),
        request_id,
        exc_info=cause if refusal.status == 500 else None,
    )


def level(status: int) -> int:
    """Return the level of a refusal: a bug is an ERROR, an outage a WARNING now and then, a client's fault INFO."""
    global _warned
    if status == 500:
        return logging.ERROR
    if status == 503 and time.monotonic() - _warned >= WARNING_INTERVAL_SECONDS:
        _warned = time.monotonic()
        return logging.WARNING
    return logging.INFO


def plain(text: str) -> str:
    """Return a text from outside as it may stand between quotes in a line: short, in printable ASCII."""
    return text[:MAX_CHARACTERS].replace('"', "'").encode("unicode_escape").decode()


def _hint(public_key: str) -> str:
    """Return enough of a key to find it, and too little to use it."""
    return plain(public_key[:4]) + "..." if len(public_key) >= 16 else ""


def _keep_one_line(record: logging.LogRecord) -> bool:
    """Make the message one line, and indent the traceback that follows it."""
    record.msg, record.args = " ".join(record.getMessage().splitlines()), ()
    if record.exc_info:
        # A handler's formatter takes this text where it finds one.
        record.exc_text = indent(logging.Formatter().formatException(record.exc_info), "  ")
    return True


logger.addFilter(_keep_one_line)
