"""What is printed for people: text of strangers made harmless, and lines that fit.

The rules that hold here: text that came from outside goes through `clean()`, which leaves nothing in it that a terminal
acts on; colours only where standard output is a terminal and NO_COLOR is not set; only there is a line cut, so that
none wraps.
"""

import json
import os
import shlex
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_STYLES = {"bold": 1, "dim": 2, "red": 31, "yellow": 33, "cyan": 36}


class Cell(NamedTuple):
    """A text of a table with its style: names of _STYLES with spaces between them."""

    text: str
    style: str = ""


def clean(text: str) -> str:
    """Return a text in one line, with what a terminal acts on, or does not show, as escapes of Python."""
    return text if text.isprintable() else "".join(char if _is_safe(char) else _escape(char) for char in text)


def _is_safe(char: str) -> bool:
    # Printable is neither a control character nor one of format, such as those that change the direction of text, nor
    # unassigned; nor, for Python, a space other than the ASCII one.
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    code = ord(char)
    return _SHORT.get(char) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def to_json(value: Any, indent: int | None = 2) -> str:
    """Return a JSON text, with times in ISO 8601."""
    return json_text(json.dumps(value, indent=indent, default=_as_json))


def json_text(text: str) -> str:
    """Return a JSON text that means the same and has nothing in its strings that a terminal acts on."""
    # PostgreSQL and json.dumps() have escaped the control characters of ASCII: the others are within strings too.
    return "".join(char if _is_safe(char) or char in "\n\r\t" else _escape_json(char) for char in text)


def _escape_json(char: str) -> str:
    return r"\u007f" if char == "\x7f" else json.dumps(char)[1:-1]


def _as_json(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and abs(value) < 2**53 else float(value)
    return str(value)


def argument(text: str) -> str:
    """Return a text as an argument that a POSIX shell takes; as an escaped text if it is one that no line can show."""
    return shlex.quote(text) if text.isprintable() else clean(text)


def text_width(text: str) -> int:
    """Return how many columns a clean text takes."""
    return len(text) if text.isascii() else sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return a clean text of at most `width` columns, which ends with an ellipsis if something is missing."""
    if text_width(text) <= width:
        return text
    kept, left = [], width - 1
    for char in text:
        left -= _char_width(char)
        if left < 0:
            break
        kept.append(char)
    return "".join(kept) + "\u2026" if width > 0 else ""


def columns() -> int | None:
    """Return the width of the terminal; None if standard output is none, which cuts nothing."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def coloured() -> bool:
    """Return whether colours may be printed."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str) -> str:
    """Return a text in a style, if colours may be printed."""
    if not (text and style and coloured()):
        return text
    return f"\x1b[{';'.join(str(_STYLES[name]) for name in style.split())}m{text}\x1b[0m"


def line(*cells: Cell | str) -> str:
    """Return cells beside each other as one line that does not wrap."""
    left = columns()
    out = []
    for cell in cells:
        text, style = cell if isinstance(cell, Cell) else (cell, "")
        if left is not None and text_width(text) > left:
            # A wide character may leave a column over, which is not for what follows.
            out.append(styled(cut(text, left), style) if text.strip() else "")
            break
        out.append(styled(text, style))
        if left is not None:
            left -= text_width(text)
    return "".join(out).rstrip()


def table(
    headings: Sequence[str], rows: Iterable[Sequence[Sequence[Cell | str]]], narrow: Mapping[str, int] | None = None
) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        headings: of each column; one that begins with `>` is aligned right.
        rows: for each column the cells that stand beside each other in it. The last column takes the width that is
            left; a column without text is left out.
        narrow: the width of columns at most, by heading, on a terminal.
    """
    most = [(narrow or {}).get(heading) if columns() else None for heading in headings]
    body = [
        [
            [
                Cell(text if limit is None else cut(text, limit), style)
                for text, style in (cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)
            ]
            for cells, limit in zip(row, most, strict=True)
        ]
        for row in rows
    ]
    kept = [number for number in range(len(headings)) if any(cell.text for row in body for cell in row[number])]
    names = [headings[number].lstrip(">") for number in kept]
    widths = [
        max(len(name), *(sum(text_width(cell.text) for cell in row[number]) for row in body))
        for number, name in zip(kept, names, strict=True)
    ]
    for row in [[[Cell(heading.lstrip(">"), "dim")] for heading in headings], *body]:
        cells: list[Cell | str] = []
        for number, width in zip(kept, widths, strict=True):
            space = "" if number == kept[-1] else " " * (width - sum(text_width(cell.text) for cell in row[number]))
            cells += [space, *row[number], "  "] if headings[number].startswith(">") else [*row[number], space, "  "]
        yield line(*cells)
