"""The body: compressed, chunked or both; what is refused; and the cost of a decompression bomb."""

import gzip
import io
import json
import tracemalloc
import zlib
from typing import Any

import pytest
import webtest

from opensentry_ingest import body
from opensentry_ingest.errors import InvalidJSON, PayloadTooLarge
from tests.support import MINIMAL, Database

VALID = json.dumps(MINIMAL).encode()


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


GZIP, DEFLATE, RAW = gzip.compress(VALID, mtime=0), zlib.compress(VALID), raw_deflate(VALID)


def post(client: webtest.TestApp, database: Database, data: bytes, **headers: str) -> webtest.TestResponse:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(f"/v1/ingest?key={database.key}", data, headers=names, expect_errors=True)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", GZIP),
        ("x-gzip", GZIP),
        (" GZip ", GZIP),
        ("deflate", DEFLATE),
        ("deflate", RAW),
        ("identity", VALID),
        ("", VALID),
        # Several members are one body (RFC 1952, section 2.2), empty ones too.
        ("gzip", gzip.compress(VALID[:20], mtime=0) + gzip.compress(b"", mtime=0) + gzip.compress(VALID[20:], mtime=0)),
        # Not compressed at all: a stored block.
        ("deflate", zlib.compress(VALID, 0)),
    ],
)
def test_a_compressed_body_is_stored_like_a_plain_one(
    client: webtest.TestApp, database: Database, encoding: str, data: bytes
) -> None:
    response = post(client, database, data, Content_Encoding=encoding)
    assert response.status_int == 202
    assert len(database.rows("events", response.json["id"])) == 1


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        *((encoding, data[:cut]) for encoding, data in (("gzip", GZIP), ("deflate", DEFLATE)) for cut in (0, 1, 5, 20)),
        ("gzip", GZIP[:-1]),
        ("deflate", DEFLATE[:-1]),
        ("deflate", RAW[:-1]),
        # One bit of the checksum, one of the data, and one of the header.
        ("gzip", GZIP[:-8] + bytes([GZIP[-8] ^ 1]) + GZIP[-7:]),
        ("deflate", DEFLATE[:-1] + bytes([DEFLATE[-1] ^ 1])),
        ("gzip", GZIP[:25] + bytes([GZIP[25] ^ 64]) + GZIP[26:]),
        ("gzip", b"\x1e" + GZIP[1:]),
        # Bytes after the end.
        ("gzip", GZIP + b"trailing"),
        ("gzip", GZIP + GZIP[:12]),
        ("deflate", DEFLATE + b"trailing"),
        ("deflate", DEFLATE + DEFLATE),
        # Each declared as another.
        ("gzip", VALID),
        ("gzip", DEFLATE),
        ("deflate", VALID),
        ("deflate", GZIP),
        ("", GZIP),
    ],
)
def test_a_damaged_compressed_body_is_invalid_json_and_stores_nothing(
    client: webtest.TestApp, database: Database, encoding: str, data: bytes
) -> None:
    before = database.counts()
    response = post(client, database, data, Content_Encoding=encoding)
    assert (response.status_int, response.body) == (400, b'{"error": "Invalid JSON"}')
    assert database.counts() == before


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip, deflate", "identity, gzip", "\xff"])
def test_another_encoding_is_unsupported(client: webtest.TestApp, database: Database, encoding: str) -> None:
    response = post(client, database, GZIP, Content_Encoding=encoding)
    assert (response.status_int, response.body) == (415, b'{"error": "Unsupported content encoding"}')
    assert response.headers["Accept-Encoding"] == "gzip, deflate"


def sized(length: int) -> bytes:
    """Return a valid payload of exactly so many bytes."""
    return VALID[:-1] + b" " * (length - len(VALID)) + b"}"


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("gzip", lambda data: gzip.compress(data[:100_000]) + gzip.compress(data[100_000:])),
        # The first member ends exactly at the limit.
        ("gzip", lambda data: gzip.compress(data[: body.LIMIT_BYTES]) + gzip.compress(data[body.LIMIT_BYTES :])),
    ],
)
def test_the_limit_applies_to_the_decompressed_body(
    client: webtest.TestApp, database: Database, encoding: str, pack: Any
) -> None:
    assert post(client, database, pack(sized(body.LIMIT_BYTES)), Content_Encoding=encoding).status_int == 202
    response = post(client, database, pack(sized(body.LIMIT_BYTES + 1)), Content_Encoding=encoding)
    assert (response.status_int, response.body) == (413, b'{"error": "Payload too large"}')


def test_the_limit_applies_to_the_compressed_body_too(client: webtest.TestApp, database: Database) -> None:
    # Empty members decompress to nothing, so they never reach the limit of the decompressed body.
    data = gzip.compress(b"") * (body.LIMIT_BYTES // 20) + GZIP
    assert len(data) > body.LIMIT_BYTES
    assert post(client, database, data, Content_Encoding="gzip").status_int == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_decompressed_no_further_than_the_limit(encoding: str) -> None:
    stream = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    zeros = bytes(2**20)
    # Deflate compresses a thousand to one at best: what fits in the limit decompresses to 256 MiB.
    bomb = b"".join(stream.compress(zeros) for _ in range(250)) + stream.flush()
    assert len(bomb) <= body.LIMIT_BYTES
    environ = {"CONTENT_LENGTH": str(len(bomb)), "wsgi.input": io.BytesIO(bomb), "HTTP_CONTENT_ENCODING": encoding}
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            body.read(environ)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The body, its copy while it is joined, and the decompressed part.
    assert peak < 6 * body.LIMIT_BYTES


@pytest.mark.parametrize("length", ["-1", "+5", "1_0", "5.0", "0x10", "five", "\u0665", "1 1"])
def test_an_invalid_content_length_is_invalid_json(length: str) -> None:
    with pytest.raises(InvalidJSON):
        body.read({"CONTENT_LENGTH": length, "wsgi.input": io.BytesIO(VALID)})


@pytest.mark.parametrize("zeros", [1, 20, 5000])
def test_leading_zeros_do_not_change_a_content_length(zeros: int) -> None:
    stream = io.BytesIO(b"12345678")
    assert body.read({"CONTENT_LENGTH": "0" * zeros + "5", "wsgi.input": stream}) == b"12345"
    with pytest.raises(PayloadTooLarge):
        body.read({"CONTENT_LENGTH": "0" * zeros + "9" * 5000, "wsgi.input": stream})


def test_a_body_is_never_read_past_its_length() -> None:
    stream = io.BytesIO(VALID + b"the next request")
    assert body.read({"CONTENT_LENGTH": str(len(VALID)), "wsgi.input": stream}) == VALID
    assert stream.read() == b"the next request"


def test_a_body_without_a_length_is_read_only_if_the_server_ends_the_input() -> None:
    assert body.read({"wsgi.input": io.BytesIO(VALID)}) == b""
    assert body.read({"wsgi.input": io.BytesIO(VALID), "wsgi.input_terminated": True}) == VALID


def test_a_body_that_ends_early_is_invalid_json() -> None:
    with pytest.raises(InvalidJSON):
        body.read({"CONTENT_LENGTH": str(len(VALID) + 1), "wsgi.input": io.BytesIO(VALID)})


class Failing(io.RawIOBase):
    """An input that raises, as each server's does with an exception of its own."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, size: int = -1) -> bytes:
        raise self.error


@pytest.mark.parametrize("error", [OSError("reset"), ValueError("bad chunk"), EOFError(), RuntimeError()])
def test_an_input_that_raises_is_invalid_json_and_no_bug(error: Exception) -> None:
    with pytest.raises(InvalidJSON):
        body.read({"CONTENT_LENGTH": "5", "wsgi.input": Failing(error)})
    body.drain({"CONTENT_LENGTH": "5", "wsgi.input": Failing(error)})


def test_draining_is_bounded_and_never_asks_for_a_body_that_was_not_sent() -> None:
    stream = io.BytesIO(bytes(4 * body.DRAIN_BYTES))
    body.drain({"CONTENT_LENGTH": str(4 * body.DRAIN_BYTES), "wsgi.input": stream})
    assert stream.tell() == body.DRAIN_BYTES
    stream.seek(0)
    body.drain({"CONTENT_LENGTH": "5", "wsgi.input": stream, "HTTP_EXPECT": "100-continue"})
    assert stream.tell() == 0
