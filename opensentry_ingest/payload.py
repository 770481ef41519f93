"""The payload of a request: JSON that a client may send, and PostgreSQL can hold.

The rules that hold here: only the schema files say what is valid; the text goes on to PostgreSQL as the client wrote
it, so that no number is rounded; and only characters that PostgreSQL cannot hold are replaced in it.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from math import isfinite
from typing import Any, NoReturn

from opensentry_ingest import validators
from opensentry_ingest.errors import InvalidJSON, InvalidPayload

msgspec: Any = None
with suppress(ImportError):
    import msgspec


def parse(body: bytes, lenient: bool = False) -> tuple[str, Any]:
    """Parse a body.

    Args:
        body: UTF-8, with or without a byte-order mark.
        lenient: whether to parse a number that is too large for one as its text, so that it is kept as that.

    Returns:
        The JSON text for PostgreSQL, which is always an array, and the parsed body.

    Raises:
        InvalidJSON: it is not JSON, not UTF-8, or nested too deep.
    """
    try:
        text = body.decode().removeprefix("\ufeff")
        text = storable(text)
        value = (_decode_leniently if lenient else _decode)(text)
        # PostgreSQL would build an array around a single item member by member.
        return text if isinstance(value, list) else f"[{text}]", value
    except json.JSONDecodeError as error:
        raise InvalidJSON(f"not JSON at line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise InvalidJSON("nested too deep") from None
    except ValueError as error:
        raise InvalidJSON("a number that is not JSON, or too long") from error


def validate(value: Any) -> None:
    """Check a parsed payload against the schema.

    Raises:
        InvalidPayload: it does not match.
    """
    if not validators.is_valid(value):
        raise InvalidPayload(payload=value)


def validate_each(items: list[Any]) -> None:
    """Check items that a protocol has made against the schema, however many there are.

    Raises:
        InvalidPayload: one does not match.
    """
    # The schema allows a client 20 items at a time, and each item is checked by itself.
    for start in range(0, len(items), _SLICE):
        validate(items[start : start + _SLICE])


def encode(items: list[Any]) -> str:
    """Return items that a protocol has made as JSON text for PostgreSQL.

    Raises:
        RecursionError: they are nested too deep.
    """
    return storable(msgspec.json.encode(items).decode() if msgspec else _ENCODE(items))


def storable(text: str) -> str:
    """Return a JSON text with U+FFFD for each character that PostgreSQL cannot hold."""
    # Searching for one character is fast; searching for two takes a fifth of the parser's time.
    return _ESCAPE.sub(_replaced, text) if "\\" in text and "\\u" in text else text


# An escaped surrogate pair is one character; PostgreSQL cannot hold NUL or a lone surrogate.
# The last branch consumes any other escape whole, so that an escaped backslash cannot hide one.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<bad>u0000|u[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|.)",
    re.DOTALL,
)


def _replaced(escape: re.Match[str]) -> str:
    return "\ufffd" if escape["bad"] else escape[0]


def _refuse_constant(constant: str) -> NoReturn:
    # CPython's parser accepts NaN and the infinities, which are not JSON.
    raise ValueError(constant)


def _number(text: str) -> float:
    # PostgreSQL writes zeros out: 90 kB of "1e131071" would make a row that is too long for it to read.
    if len(text.lower().partition("e")[2].lstrip("+-")) > 3:
        raise ValueError(text)
    return float(text)


def _number_or_text(text: str) -> float | str:
    value = float(text)
    return value if isfinite(value) else text


def decoder(
    parse_float: Callable[[str], float | str], float_hook: Callable[[str], float | str] | None = None
) -> Callable[[str], Any]:
    """Return a function that parses JSON. With msgspec, from the extra `speedups`, it takes half of the time.

    Args:
        parse_float: returns the value of a number that is written with a fraction or an exponent.
        float_hook: the same for msgspec, which parses such numbers itself otherwise, but for those that are too large.
    """
    reference = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=parse_float).decode
    if not msgspec:
        return reference
    fast = msgspec.json.Decoder(float_hook=float_hook).decode

    def decode(text: str) -> Any:
        try:
            return fast(text)
        except (ValueError, RecursionError, msgspec.MsgspecError):
            # The other parser has the last word: it can say where the text is wrong.
            return reference(text)

    return decode


_decode, _decode_leniently = decoder(_number, _number), decoder(_number_or_text)
_ENCODE = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_SLICE = 20
