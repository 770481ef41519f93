"""Raw sockets against the real gunicorn: what no HTTP library will send. After each, the next request works."""

import json
import socket
import struct
import time
import zlib
from pathlib import Path

import psutil
import pytest

from opensentry_ingest.body import LIMIT_BYTES
from tests import support
from tests.hostile.wire import connect, exchange, head, received, statuses
from tests.support import MINIMAL, Database, Server

VALID = json.dumps(MINIMAL).encode()


def chunk(data: bytes, size: bytes | None = None) -> bytes:
    return (size or b"%x" % len(data)) + b"\r\n" + data + b"\r\n"


def whole(database: Database, body: bytes = VALID) -> bytes:
    return head(database, f"Content-Length: {len(body)}") + body


@pytest.mark.parametrize("cut", ["in the request line", "in the head", "before the body", "in the body", "in a chunk"])
def test_half_a_request_and_silence_holds_up_no_other_client(cut: str, served: Server, database: Database) -> None:
    before = database.counts()
    request = whole(database)
    ends = {"in the request line": 9, "in the head": 60, "before the body": request.index(b"{")}
    sent = request[: ends.get(cut, -5)]
    if cut == "in a chunk":
        sent = head(database, "Transfer-Encoding: chunked") + b"1f\r\n" + VALID[:10]
    # The server has four threads: three may be held by who says no more.
    silent = [connect(served) for _ in range(3)]
    for sock in silent:
        sock.sendall(sent)
    for _ in range(5):
        assert statuses(exchange(served, whole(database))) == [202]
    for sock in silent:
        sock.shutdown(socket.SHUT_WR)
        assert 202 not in statuses(received(sock))
        sock.close()
    assert database.counts() == {**before, "events": before["events"] + 5}


@pytest.mark.parametrize("pieces", [1, 10])
def test_a_body_that_trickles_in_is_stored(pieces: int, served: Server, database: Database) -> None:
    request = whole(database)
    with connect(served) as sock:
        for start in range(0, len(request), len(request) // pieces + 1):
            sock.sendall(request[start : start + len(request) // pieces + 1])
            time.sleep(0.01)
        sock.shutdown(socket.SHUT_WR)
        assert statuses(received(sock)) == [202]


# The name, what is sent after the request line and the Host header, and the statuses that may come back.
LIES: dict[str, tuple[bytes, list[list[int]]]] = {
    "a length that is too long": (b"Content-Length: %d\r\n\r\n" % (len(VALID) + 1) + VALID, [[400], []]),
    "a length that is far too long": (b"Content-Length: 262144\r\n\r\n" + VALID, [[400], []]),
    "a length over the limit, and no body": (b"Content-Length: 9999999999\r\n\r\n", [[413]]),
    "a length of thirty digits": (b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", [[413], [400]]),
    "a length of a thousand digits": (b"Content-Length: " + b"9" * 1000 + b"\r\n\r\n", [[413], [400]]),
    "a length that is too short": (b"Content-Length: %d\r\n\r\n" % (len(VALID) - 1) + VALID, [[400], [400, 400]]),
    "a length of nothing": (b"Content-Length: 0\r\n\r\n" + VALID, [[400], [400, 400]]),
    "a negative length": (b"Content-Length: -1\r\n\r\n" + VALID, [[400]]),
    "a length with a sign": (b"Content-Length: +%d\r\n\r\n" % len(VALID) + VALID, [[400]]),
    "a length in words": (b"Content-Length: ten\r\n\r\n" + VALID, [[400]]),
    "an empty length": (b"Content-Length: \r\n\r\n" + VALID, [[400]]),
    "two lengths that differ": (b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + VALID, [[400]]),
    "two lengths in one": (b"Content-Length: 5, 6\r\n\r\n" + VALID, [[400]]),
    "a length and chunks": (
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(VALID) + b"0\r\n\r\n",
        [[400]],
    ),
    "chunks twice": (b"Transfer-Encoding: chunked, chunked\r\n\r\n" + chunk(VALID) + b"0\r\n\r\n", [[400], [501]]),
    "another transfer coding": (b"Transfer-Encoding: teapot\r\n\r\n" + VALID, [[501], [400]]),
    "a chunk size that is no number": (b"Transfer-Encoding: chunked\r\n\r\n" + chunk(VALID, b"zz"), [[400]]),
    "a negative chunk size": (b"Transfer-Encoding: chunked\r\n\r\n" + chunk(VALID, b"-1f"), [[400]]),
    "a chunk size with a prefix": (b"Transfer-Encoding: chunked\r\n\r\n" + chunk(VALID, b"0x1f"), [[400]]),
    "an empty chunk size": (b"Transfer-Encoding: chunked\r\n\r\n\r\n" + VALID, [[400]]),
    "a chunk size without end": (b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 100_000, [[400], [413], []]),
    "a chunk of 16 exabytes": (b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n" + VALID, [[400], []]),
    "a chunk longer than its size": (
        b"Transfer-Encoding: chunked\r\n\r\n" + chunk(VALID, b"5") + b"0\r\n\r\n",
        [[400]],
    ),
    "a chunk without its end": (b"Transfer-Encoding: chunked\r\n\r\n1f\r\n" + VALID[:-1], [[400], []]),
    "chunks without a last one": (b"Transfer-Encoding: chunked\r\n\r\n" + chunk(VALID), [[400], []]),
    "an extension of a chunk without end": (
        b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 300_000,
        [[400], [413], []],
    ),
    "trailers without end": (
        b"Transfer-Encoding: chunked\r\n\r\n" + chunk(VALID) + b"0\r\n" + b"a: b\r\n" * 50_000,
        [[400], [431], [202], []],
    ),
    "an expectation that nobody knows": (b"Expect: 200-ok\r\nContent-Length: 0\r\n\r\n", [[417], [400]]),
    "a folded header": (b"Origin: http://a\r\n Set-Cookie: a=b\r\nContent-Length: 2\r\n\r\n{}", [[400]]),
    "a NUL in a header": (b"Origin: a\0b\r\nContent-Length: 2\r\n\r\n{}", [[400]]),
    "a carriage return in a header": (b"Origin: a\rSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\n{}", [[400]]),
    "a header without a name": (b": a\r\nContent-Length: 2\r\n\r\n{}", [[400]]),
    "a header without a colon": (b"Origin\r\nContent-Length: 2\r\n\r\n{}", [[400]]),
    "a header that is too long": (b"X-Open-Sentry-Key: " + b"k" * 20_000 + b"\r\n\r\n", [[431], [400]]),
    "too many headers": (b"".join(b"X-%d: a\r\n" % number for number in range(200)) + b"\r\n", [[431], [400]]),
    "a head without end": (b"X: y\r\n" * 100_000, [[431], [400], []]),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_about_the_body_or_the_head_is_refused_and_stores_nothing(
    name: str, served: Server, database: Database
) -> None:
    sent, expected = LIES[name]
    before = database.counts()
    answer = exchange(served, head(database)[:-2], sent)
    assert statuses(answer) in expected, answer
    if 202 not in statuses(answer):
        assert database.counts() == before
    assert b"Set-Cookie" not in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n\r\n",
        b"\0" * 1000,
        b"\xff" * 100_000,
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://elsewhere/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/ingest?key=" + b"k" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"<script>alert(1)</script> / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT db:5432 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"TRACE /v1/ingest HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/../v1/ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"POST * HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=lambda sent: ascii(sent[:25]),
)
def test_what_is_no_request_to_us_is_refused(sent: bytes, served: Server, database: Database) -> None:
    before = database.counts()
    answer = exchange(served, sent)
    assert all(400 <= status < 500 or status == 505 for status in statuses(answer)), answer
    assert b"<script" not in answer
    assert database.counts() == before


def test_pipelined_requests_are_answered_in_their_order(served: Server, database: Database) -> None:
    before = database.counts()["events"]
    bodies = [VALID, b"{", VALID, b"{}", VALID]
    answer = exchange(served, b"".join(whole(database, body) for body in bodies))
    assert statuses(answer) == [202, 400, 202, 400, 202]
    assert database.counts()["events"] == before + 3


def test_what_a_refusal_leaves_unread_is_not_taken_for_a_request(served: Server, database: Database) -> None:
    # The body of a request that is refused for its key holds a request of its own.
    inner = whole(database)
    outer = b"POST /v1/ingest HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(inner)
    before = database.counts()
    assert statuses(exchange(served, outer + inner)) == [401]
    # Nor where more of it is left than is drained.
    padding = b" " * 3_000_000
    outer = head(database, f"Content-Length: {len(padding + inner)}")
    assert 202 not in statuses(exchange(served, outer, padding, inner))
    assert database.counts() == before


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("end", [30, 100, -10, None])
def test_a_client_that_hangs_up_costs_nothing(end: int | None, reset: bool, served: Server, database: Database) -> None:
    before = database.counts()["events"]
    for _ in range(10):
        with connect(served) as sock:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(whole(database)[:end])
    assert statuses(exchange(served, whole(database))) == [202]
    # Half a request stores nothing, even if it is read late; a whole one may, though its client gets no answer.
    assert database.counts()["events"] - before in (range(1, 12) if end is None else [1])


def test_a_client_that_never_reads_its_answers_holds_up_no_other(served: Server, database: Database) -> None:
    with connect(served) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        sock.settimeout(1)
        try:
            for _ in range(2000):
                sock.sendall(whole(database, b"{"))
        except TimeoutError:
            pass
        for _ in range(5):
            assert statuses(exchange(served, whole(database))) == [202]


@pytest.mark.parametrize("packed", [False, True])
def test_chunked_bodies_work_packed_and_not(packed: bool, served: Server, database: Database) -> None:
    import gzip

    body = gzip.compress(VALID) if packed else VALID
    headers = ["Transfer-Encoding: chunked", *(["Content-Encoding: gzip"] if packed else [])]
    pieces = [chunk(body[start : start + 7]) for start in range(0, len(body), 7)]
    assert statuses(exchange(served, head(database, *headers), *pieces, b"0\r\n\r\n")) == [202]
    # Extensions and trailers are part of the framing, and of nothing else.
    pieces = [b"%x;name=value\r\n%s\r\n" % (len(body), body), b"0\r\nX-Trailer: a\r\n\r\n"]
    assert statuses(exchange(served, head(database, *headers), *pieces)) in ([202], [400])


def test_a_bomb_costs_no_more_memory_than_any_413(served: Server, database: Database) -> None:
    def peak() -> int:
        """Return the most that any worker ever held, in kilobytes."""
        workers = psutil.Process(served.process.pid).children()
        texts = [Path(f"/proc/{worker.pid}/status").read_text() for worker in workers]
        return max(int(text.split("VmHWM:")[1].split()[0]) for text in texts)

    stream = zlib.compressobj(9, wbits=31)
    zeros = bytes(2**20)
    gigabyte = b"".join(stream.compress(zeros) for _ in range(1024)) + stream.flush()
    assert 900_000 < len(gigabyte) < 1_200_000
    plain = head(database, f"Content-Length: {LIMIT_BYTES + 1}") + bytes(LIMIT_BYTES + 1)
    for _ in range(3):
        assert statuses(exchange(served, plain)) == [413]
    before = peak()
    for sent in (
        # By its length it is refused unread, and in chunks at the limit; what fits in the limit unpacks to 256 MB.
        [head(database, "Content-Encoding: gzip", f"Content-Length: {len(gigabyte)}"), gigabyte],
        [head(database, "Content-Encoding: gzip", "Transfer-Encoding: chunked"), chunk(gigabyte), b"0\r\n\r\n"],
        [head(database, "Content-Encoding: gzip", f"Content-Length: {LIMIT_BYTES}"), gigabyte[:LIMIT_BYTES]],
    ):
        for _ in range(3):
            assert statuses(exchange(served, *sent)) == [413]
    assert peak() - before < 4096
    assert support.answers(served.url + "/health")
