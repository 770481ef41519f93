"""The log of the service.

The rule that holds here: text from outside cannot begin a line, so that it cannot pass for a record. A database's
error may quote a row, over several lines.
"""

import logging
from textwrap import indent

logger = logging.getLogger("opensentry_ingest")


def _keep_to_its_lines(record: logging.LogRecord) -> bool:
    """Make the message one line, and indent the traceback that follows it."""
    record.msg, record.args = " ".join(record.getMessage().splitlines()), ()
    if record.exc_info:
        # A handler's formatter takes this text where it finds one.
        record.exc_text = indent(logging.Formatter().formatException(record.exc_info), "  ")
    return True


logger.addFilter(_keep_to_its_lines)
