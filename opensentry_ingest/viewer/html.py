"""How values are written in HTML.

The rules that hold here: every value is escaped; a character that cannot be seen, or that turns the text around it, is
shown as a symbol or by its number; and what is unknown is a dash.
"""

import json
import re
from datetime import datetime, timezone
from typing import Any

from markupsafe import Markup, escape

from opensentry_ingest import formats
from opensentry_ingest.formats import UNKNOWN

# Control characters, and those of Unicode that are invisible or change the direction of what follows: "Trojan Source".
# The two joiners stay, which emoji and several scripts are written with.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Return a text in which every character can be seen."""
    return _INVISIBLE.sub(_symbol, text.replace("\r\n", "\n"))


def _symbol(found: "re.Match[str]") -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else f"\u27e8U+{code:04X}\u27e9"


def finalize(value: Any) -> Any:
    """Return what Jinja2 writes, and escapes, for a value."""
    if value is None:
        return UNKNOWN
    return visible(str(value)) if not isinstance(value, Markup) else value


def text(value: object) -> Markup:
    """Return a value as HTML, for what is not made by a template."""
    return escape(finalize(value))


def ago(moment: datetime | None) -> Markup | str:
    """Write how long ago something happened, with the exact time as a title."""
    return UNKNOWN if moment is None else _time(moment, formats.ago(moment, datetime.now(timezone.utc)))


def moment(value: datetime | None) -> Markup | str:
    """Write a time to the second, in UTC."""
    return UNKNOWN if value is None else _time(value, f"{value:%Y-%m-%d %H:%M:%S}")


def _time(value: datetime, words: str) -> Markup:
    exact = value.astimezone(timezone.utc)
    return Markup(f'<time datetime="{exact.isoformat()}" title="{exact:%Y-%m-%d %H:%M:%S} UTC">{words}</time>')


def as_json(value: object) -> str:
    """Write what a client sent as an object."""
    return json.dumps(value, ensure_ascii=False)
