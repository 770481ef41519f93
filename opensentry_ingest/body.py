"""The body of a request: bytes, bounded.

The rules that hold here: never read past `Content-Length` (PEP 3333), never hold more than `LIMIT_BYTES` in memory,
whether sent or unpacked, and reject a body that does not end as announced. Nothing here knows JSON.
"""

import zlib
from collections.abc import Iterator
from typing import Any

from opensentry_ingest.errors import InvalidJSON, PayloadTooLarge, UnsupportedEncoding

LIMIT_BYTES = 262_144
"""The largest accepted body, sent and unpacked: 256 KiB."""

CHUNK_BYTES = 65_536
"""How much is read at a time."""

DRAIN_BYTES = 1_048_576
"""How much of a refused body is read and dropped, so that the client gets the answer and not a connection reset."""


def read(environ: dict[str, Any]) -> bytes:
    """Read and unpack the body of a WSGI request.

    Args:
        environ: the WSGI environment (PEP 3333).

    Returns:
        At most `LIMIT_BYTES` bytes.

    Raises:
        PayloadTooLarge: it is larger; known from `Content-Length` alone if there is one.
        UnsupportedEncoding: its `Content-Encoding` is not supported.
        InvalidJSON: it ends early, or is not in the encoding that it names.
    """
    length = content_length(environ)
    if length > LIMIT_BYTES:
        drain(environ)
        raise PayloadTooLarge
    # One byte more than the limit tells that a body without a length is over it.
    data = b"".join(chunks(environ, LIMIT_BYTES + 1 if length < 0 else length))
    if len(data) > LIMIT_BYTES:
        drain(environ)
        raise PayloadTooLarge
    if len(data) < length:
        raise InvalidJSON("the client closed the connection early")
    return _unpack(data, environ.get("HTTP_CONTENT_ENCODING", ""))


def drain(environ: dict[str, Any], most: int = DRAIN_BYTES) -> None:
    """Read and drop up to `most` bytes of what the client still sends, before a refusal is answered."""
    # A client that waits for "100 Continue" has sent nothing yet, and reading would ask it to (RFC 9110, 10.1.1).
    if environ.get("HTTP_EXPECT"):
        return
    try:
        length = content_length(environ)
        for _ in chunks(environ, most if length < 0 else min(length, most)):
            pass
    except InvalidJSON:
        pass


def content_length(environ: dict[str, Any]) -> int:
    """Return the length of the body in bytes, or -1 if it ends with the input."""
    value = environ.get("CONTENT_LENGTH") or ""
    if not value:
        # Without this flag the input may not end with the body, and reading on would block.
        return -1 if environ.get("wsgi.input_terminated") else 0
    # int() would accept "+1", "1_0" and the digits of every script, and raises on thousands of digits.
    if not (value.isascii() and value.isdigit()):
        raise InvalidJSON("Content-Length is not a number")
    return int(value.lstrip("0")[:20] or 0)


def chunks(environ: dict[str, Any], wanted: int) -> Iterator[bytes]:
    """Yield the body as it arrives, up to `wanted` bytes or its end."""
    while wanted > 0:
        try:
            chunk: bytes = environ["wsgi.input"].read(min(wanted, CHUNK_BYTES))
        except Exception as error:
            # Every server has its own exceptions for malformed chunks, timeouts and aborted requests.
            raise InvalidJSON(str(error)) from error
        if not chunk:
            return
        yield chunk
        wanted -= len(chunk)


def deflate_wbits(data: bytes) -> int:
    """Return the format of a body that is called "deflate", by its first bytes, as `zlib` wants it."""
    # It is the zlib format, but some clients send the raw stream. A zlib header is a multiple of 31.
    wrapped = len(data) > 1 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS


def _unpack(data: bytes, encoding: str) -> bytes:
    """Undo the content coding of a body (RFC 9110, section 8.4), stopping at `LIMIT_BYTES`."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding in ("gzip", "x-gzip"):
        wbits = zlib.MAX_WBITS + 16
    elif encoding == "deflate":
        wbits = deflate_wbits(data)
    else:
        raise UnsupportedEncoding
    unpacked = b""
    while True:
        stream = zlib.decompressobj(wbits)
        try:
            unpacked += stream.decompress(data, LIMIT_BYTES + 1 - len(unpacked))
        except zlib.error as error:
            raise InvalidJSON(str(error)) from error
        if len(unpacked) > LIMIT_BYTES:
            raise PayloadTooLarge
        if not stream.eof:
            raise InvalidJSON("the compressed body ends early")
        data = stream.unused_data
        if not data:
            return unpacked
        # Only gzip allows several members in a row (RFC 1952, section 2.2).
        if wbits <= zlib.MAX_WBITS:
            raise InvalidJSON("bytes after the compressed body")
