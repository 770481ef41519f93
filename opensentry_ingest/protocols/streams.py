"""The body of a request as a stream: unpacked while it arrives, and bounded as sent and as unpacked.

The rules that hold here: never read past `Content-Length` (PEP 3333), never hold more than a chunk of the body and one
of what it unpacks to, and reject a body that does not end as announced. The extra `sentry` brings br and zstd.
"""

import base64
import sys
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from opensentry_ingest import body
from opensentry_ingest.body import CHUNK_BYTES
from opensentry_ingest.errors import InvalidJSON, PayloadTooLarge, UnsupportedEncoding

MAX_MEMBERS = 1_000
"""The most gzip members or zstd frames of a body: each costs time, even an empty one."""

ZSTD_WINDOW_LOG = 23
"""The largest window of zstd as a content coding: 8 MiB (RFC 9659)."""

try:
    import brotli
except ImportError:
    brotli = None

zstd: Any = None
try:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError:
    pass


class _Bounded:
    """The input of a request that ends with its body, however often it is read."""

    def __init__(self, source: Any, length: int) -> None:
        self._source, self._left = source, length if length >= 0 else sys.maxsize

    def read(self, size: int) -> bytes:
        chunk: bytes = self._source.read(min(size, self._left)) if self._left else b""
        self._left = self._left - len(chunk) if chunk else 0
        return chunk


def bound(environ: dict[str, Any]) -> None:
    """Make the input of a WSGI request end with its body, so that what is left of it can be dropped at any time.

    Raises:
        InvalidJSON: its `Content-Length` is no number.
    """
    environ["wsgi.input"] = _Bounded(environ["wsgi.input"], body.content_length(environ))


def unpacked(environ: dict[str, Any], sent_limit: int, unpacked_limit: int) -> Iterator[bytes]:
    """Return the unpacked body of a WSGI request, in pieces of about `CHUNK_BYTES` at most.

    Args:
        environ: the WSGI environment (PEP 3333).
        sent_limit: the most bytes to read.
        unpacked_limit: the most bytes to yield.

    Raises:
        PayloadTooLarge: it is over a limit; known from `Content-Length` alone if there is one. Iterating raises it too.
        UnsupportedEncoding: its `Content-Encoding` is not supported.
        InvalidJSON: on iterating: it ends early, or is not in the encoding that it names.
    """
    length = body.content_length(environ)
    if length > sent_limit:
        raise PayloadTooLarge
    pieces = _sent(environ, length, sent_limit)
    encoding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if encoding not in ("", "identity"):
        decoders = _decoders()
        if encoding not in decoders:
            raise UnsupportedEncoding(name for name in decoders if name != "x-gzip")
        pieces = decoders[encoding](pieces)
    return _bounded(pieces, unpacked_limit)


def inflated_base64(text: bytes, limit: int) -> bytes:
    """Return what zlib data in Base64 (RFC 1950, RFC 4648) unpacks to.

    Args:
        text: the Base64; white space in it is ignored.
        limit: the most bytes to return.

    Raises:
        PayloadTooLarge: it unpacks to more.
        InvalidJSON: it is no Base64, or no zlib data.
    """
    try:
        packed = base64.b64decode(b"".join(text.split()), validate=True)
    except ValueError as cause:
        raise InvalidJSON(str(cause)) from cause
    return b"".join(_bounded(_inflate(iter([packed])), limit))


def _sent(environ: dict[str, Any], length: int, limit: int) -> Iterator[bytes]:
    read = 0
    for chunk in body.chunks(environ, limit + 1 if length < 0 else length):
        read += len(chunk)
        if read > limit:
            raise PayloadTooLarge
        yield chunk
    if read < length:
        raise InvalidJSON("the client closed the connection early")


def _bounded(pieces: Iterator[bytes], limit: int) -> Iterator[bytes]:
    for piece in pieces:
        limit -= len(piece)
        if limit < 0:
            raise PayloadTooLarge
        yield piece


def _decoders() -> dict[str, Callable[[Iterator[bytes]], Iterator[bytes]]]:
    """Return what undoes each content coding (RFC 9110, section 8.4) that is supported, by its name."""
    decoders: dict[str, Callable[[Iterator[bytes]], Iterator[bytes]]] = {
        "gzip": _gunzip,
        "x-gzip": _gunzip,
        "deflate": _inflate,
    }
    # Brotli before 1.2 cannot bound what it unpacks at a time.
    if brotli and hasattr(brotli.Decompressor, "can_accept_more_data"):
        decoders["br"] = _unbrotli
    if zstd:
        decoders["zstd"] = _unzstd
    return decoders


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    return _members(chunks, lambda: _Inflated(zlib.MAX_WBITS + 16), zlib.error, MAX_MEMBERS)


def _inflate(chunks: Iterator[bytes]) -> Iterator[bytes]:
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) > 1:
            break
    wbits = body.deflate_wbits(start)
    return _members(chain([start], chunks), lambda: _Inflated(wbits), zlib.error, 1)


def _unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    options = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
    return _members(chunks, lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError, MAX_MEMBERS)


class _Inflated:
    """A zlib decompressor with the interface of those for other formats in the standard library."""

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)
        self.needs_input = True

    def decompress(self, data: bytes, most: int) -> bytes:
        piece = self._stream.decompress(self._stream.unconsumed_tail + data, most)
        # If it yields less than it may, it has consumed all.
        self.needs_input = len(piece) < most
        return piece

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data


def _members(chunks: Iterator[bytes], start: Callable[[], Any], error: type[Exception], most: int) -> Iterator[bytes]:
    """Unpack compressed streams that follow each other, at most `most` of them."""
    member, count = None, 0
    for chunk in chunks:
        data = chunk
        while data or not (member is None or member.needs_input):
            if member is None:
                count += 1
                if count > most:
                    raise InvalidJSON("bytes after the compressed body" if most == 1 else "too many compressed members")
                member = start()
            try:
                piece = member.decompress(data, CHUNK_BYTES)
            except error as cause:
                raise InvalidJSON(str(cause)) from cause
            if piece:
                yield piece
            data = b""
            if member.eof:
                data, member = member.unused_data, None
    if member is not None or not count:
        raise InvalidJSON("the compressed body ends early")


def _unbrotli(chunks: Iterator[bytes]) -> Iterator[bytes]:
    stream = brotli.Decompressor()
    try:
        for data in chunks:
            piece = stream.process(data, output_buffer_limit=CHUNK_BYTES)
            while piece or not stream.can_accept_more_data():
                yield piece
                piece = stream.process(b"", output_buffer_limit=CHUNK_BYTES)
    except brotli.error as cause:
        raise InvalidJSON(str(cause)) from cause
    if not stream.is_finished():
        raise InvalidJSON("the compressed body ends early")
