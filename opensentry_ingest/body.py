"""The body of a request: bytes, bounded.

The rules that hold here: never past `Content-Length` (PEP 3333), never more than `LIMIT` bytes in memory, whether
sent or unpacked, and a body that does not end as it announced is no body. Nothing here knows JSON.
"""

import zlib
from collections.abc import Iterator
from typing import Any

LIMIT = 262_144
"""Bytes of a body, sent and unpacked, that are accepted: 256 KiB."""

PIECE = 65_536
"""Bytes that are asked for at a time."""

DRAIN = 1_048_576
"""Bytes of a refused body that are read and dropped, so that the client hears the answer and not a reset."""


class TooLarge(Exception):
    """The body is over `LIMIT`, as sent or unpacked."""


class Broken(Exception):
    """The body does not end, chunk or unpack as it announced."""


class UnsupportedEncoding(Exception):
    """The body is in a content coding other than gzip or deflate, or in several."""


def read(environ: dict[str, Any]) -> bytes:
    """Read and unpack the body of a WSGI request.

    Args:
        environ: the WSGI environment (PEP 3333).

    Returns:
        At most `LIMIT` bytes.

    Raises:
        TooLarge: it is larger; from `Content-Length` alone where there is one.
        UnsupportedEncoding: its `Content-Encoding` is not supported.
        Broken: it ends early, or is not what its encoding says.
    """
    length = _length(environ)
    if length > LIMIT:
        drain(environ)
        raise TooLarge
    # A body without a length is read up to one byte more than fits, which tells that it does not.
    data = b"".join(_pieces(environ, LIMIT + 1 if length < 0 else length))
    if len(data) > LIMIT:
        drain(environ)
        raise TooLarge
    if len(data) < length:
        raise Broken("the client went away")
    return _unpack(data, environ.get("HTTP_CONTENT_ENCODING", ""))


def drain(environ: dict[str, Any]) -> None:
    """Read and drop what the client still sends, at most `DRAIN` bytes of it, before a refusal is answered."""
    # A client that waits for "100 Continue" has sent nothing yet, and reading would ask it to (RFC 9110, 10.1.1).
    if environ.get("HTTP_EXPECT"):
        return
    try:
        length = _length(environ)
        for _ in _pieces(environ, DRAIN if length < 0 else min(length, DRAIN)):
            pass
    except Broken:
        pass


def _length(environ: dict[str, Any]) -> int:
    """Return the length of the body in bytes, or -1 where it ends with the input."""
    value = environ.get("CONTENT_LENGTH") or ""
    if not value:
        # Only a server that sets this ends the input with the body; elsewhere reading on would wait for ever.
        return -1 if environ.get("wsgi.input_terminated") else 0
    # int() would take "+1", "1_0" and the digits of every script.
    if not (value.isascii() and value.isdigit()):
        raise Broken("Content-Length is not a number")
    return int(value[:20])


def _pieces(environ: dict[str, Any], wanted: int) -> Iterator[bytes]:
    """Yield the body as it comes, up to `wanted` bytes or its end."""
    while wanted > 0:
        try:
            piece: bytes = environ["wsgi.input"].read(min(wanted, PIECE))
        except Exception as error:
            # Every server has its own exceptions for bad chunks, a time-out or a client that hung up.
            raise Broken(str(error)) from error
        if not piece:
            return
        yield piece
        wanted -= len(piece)


def _unpack(data: bytes, encoding: str) -> bytes:
    """Undo the content coding of a body (RFC 9110, section 8.4), stopping at `LIMIT`."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding in ("gzip", "x-gzip"):
        wbits = zlib.MAX_WBITS + 16
    elif encoding == "deflate":
        # "deflate" is the zlib format, but some clients send the bare stream. A zlib header is a multiple of 31.
        wrapped = len(data) > 1 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
        wbits = zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS
    else:
        raise UnsupportedEncoding
    unpacked = b""
    while True:
        stream = zlib.decompressobj(wbits)
        try:
            unpacked += stream.decompress(data, LIMIT + 1 - len(unpacked))
        except zlib.error as error:
            raise Broken(str(error)) from error
        if len(unpacked) > LIMIT:
            raise TooLarge
        if not stream.eof:
            raise Broken("the packed body ends early")
        data = stream.unused_data
        if not data:
            return unpacked
        # Only gzip may be several members in a row (RFC 1952, section 2.2).
        if wbits <= zlib.MAX_WBITS:
            raise Broken("bytes after the packed body")
