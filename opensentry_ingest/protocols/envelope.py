"""Sentry's envelopes, read as a stream: a line of JSON, and items, each of which is a line of JSON and a payload.

The rules that hold here: of a payload that nobody wants, no more than a piece of the stream is in memory; and each line
and each wanted payload is bounded. Nothing here knows what is in a payload.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from opensentry_ingest import payload
from opensentry_ingest.errors import InvalidJSON, PayloadTooLarge

MAX_HEADER_BYTES = 65_536
"""The longest line of JSON: the header of an envelope or of an item."""

MAX_ITEMS = 1_000
"""The most items of an envelope, with the empty lines between them: each costs time, even if it is skipped."""


class Envelope:
    """An envelope that is still arriving.

    Args:
        pieces: its bytes.

    Attributes:
        header: its first line, parsed.
        length: how many bytes of it have arrived.

    Raises:
        InvalidJSON: its first line is no JSON object.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._buffer = pieces, b""
        self.length = 0
        self.header = _object(self._line(MAX_HEADER_BYTES, "the header of the envelope is too long"))

    def items(self, wanted: Mapping[str, int]) -> Iterator[tuple[str, bytes | None]]:
        """Yield the type of each item, "" if it has none, and its payload, which is None unless its type is wanted.

        Args:
            wanted: the types of items to return the payloads of, and the most bytes that each may have.

        Raises:
            InvalidJSON: a header is no JSON object, or its `length` is not that of the payload.
            PayloadTooLarge: a payload is over its limit, or there are too many items.
        """
        count = 0
        while self._buffer or self._more():
            line = self._line(MAX_HEADER_BYTES, "the header of an item is too long")
            count += 1
            if count > MAX_ITEMS:
                raise PayloadTooLarge
            # Some clients put an empty line between two items, or at the end.
            if not line.strip():
                continue
            header = _object(line)
            kind, length = header.get("type"), header.get("length")
            kind = kind if isinstance(kind, str) else ""
            content = None
            if length is None:
                if kind in wanted:
                    content = self._line(wanted[kind])
                else:
                    self._skip_line()
            elif type(length) is not int or length < 0:
                raise InvalidJSON("the length of an item is no count of bytes")
            else:
                if kind not in wanted:
                    self._skip(length)
                elif length > wanted[kind]:
                    raise PayloadTooLarge
                else:
                    content = self._take(length)
                if self._line(1, "an item is longer than its length").strip(b"\r"):
                    raise InvalidJSON("an item is longer than its length")
            yield kind, content

    def _more(self) -> bool:
        """Wait for another piece; return whether there is one."""
        piece = next(self._pieces, b"")
        self._buffer += piece
        self.length += len(piece)
        return bool(piece)

    def _line(self, limit: int, too_long: str = "") -> bytes:
        """Return what comes before the next newline or the end, and drop the newline.

        Args:
            limit: the most bytes that it may have.
            too_long: what is wrong if it has more; "": it is too large.
        """
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            # What is over the limit is refused wherever it ends.
            if searched > limit or not self._more():
                end = searched
                break
        if end > limit:
            raise InvalidJSON(too_long) if too_long else PayloadTooLarge
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line

    def _take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            if not self._more():
                raise InvalidJSON("an item is shorter than its length")
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken

    def _skip(self, length: int) -> None:
        while len(self._buffer) < length:
            length -= len(self._buffer)
            self._buffer = b""
            if not self._more():
                raise InvalidJSON("an item is shorter than its length")
        self._buffer = self._buffer[length:]

    def _skip_line(self) -> None:
        while (end := self._buffer.find(b"\n")) < 0:
            self._buffer = b""
            if not self._more():
                return
        self._buffer = self._buffer[end + 1 :]


def _object(line: bytes) -> dict[str, Any]:
    header = payload.parse(line, lenient=True)[1]
    if not isinstance(header, dict):
        raise InvalidJSON("a header must be an object")
    return header
