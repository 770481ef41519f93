"""Sentry's envelopes against the real gunicorn: what is skipped is never held in memory, and bombs stay small."""

import gzip
import json
import uuid
from pathlib import Path

import psutil
import pytest

from tests.hostile.wire import exchange, statuses
from tests.support import Database, Server

MIB = 1_048_576


def peak(server: Server) -> int:
    """Return the most memory that a worker ever held, in kilobytes."""
    workers = psutil.Process(server.process.pid).children()
    texts = [Path(f"/proc/{worker.pid}/status").read_text() for worker in workers]
    return max(int(text.split("VmHWM:")[1].split()[0]) for text in texts)


def head(database: Database, *headers: str) -> bytes:
    lines = [f"POST /api/1/envelope/?sentry_key={database.key} HTTP/1.1", "Host: localhost", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def chunked(data: bytes) -> list[bytes]:
    pieces = [data[start : start + MIB] for start in range(0, len(data), MIB)]
    return [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]


def envelope(event_id: str, attachment: bytes, length: bool = True) -> bytes:
    header = b'{"type": "attachment", "length": %d}\n' % len(attachment) if length else b'{"type": "attachment"}\n'
    event = json.dumps({"message": "hello"}).encode()
    return b'{"event_id": "%s"}\n' % event_id.encode() + header + attachment + b'\n{"type": "event"}\n' + event


@pytest.mark.parametrize("how", ["length", "chunks", "without a length", "gzip"])
def test_an_attachment_beside_an_event_is_never_in_memory(how: str, served: Server, database: Database) -> None:
    for event_id in (uuid.uuid4().hex, uuid.uuid4().hex):
        small = envelope(event_id, bytes(10))
        assert statuses(exchange(served, head(database, f"Content-Length: {len(small)}"), small)) == [200]
    before = peak(served)
    event_id = uuid.uuid4().hex
    body = envelope(event_id, bytes((95 if how == "gzip" else 19) * MIB), length=how != "without a length")
    if how == "gzip":
        body = gzip.compress(body)
        sent = [head(database, "Content-Encoding: gzip", f"Content-Length: {len(body)}"), body]
    elif how == "chunks":
        sent = [head(database, "Transfer-Encoding: chunked"), *chunked(body)]
    else:
        sent = [head(database, f"Content-Length: {len(body)}"), body]
    assert statuses(exchange(served, *sent)) == [200]
    assert len(database.rows("events", event_id)) == 1
    # Buffers of gunicorn and of the stream, and nothing like 19 MiB.
    assert peak(served) - before < 8192


def test_a_bomb_is_refused_and_costs_no_memory(served: Server, database: Database) -> None:
    small = envelope(uuid.uuid4().hex, bytes(10))
    assert statuses(exchange(served, head(database, f"Content-Length: {len(small)}"), small)) == [200]
    before = peak(served)
    counts = database.counts()
    attachment = gzip.compress(envelope(uuid.uuid4().hex, bytes(101 * MIB)))
    event = gzip.compress(b'{}\n{"type": "event"}\n"' + bytes(50 * MIB))
    header = gzip.compress(b"{" + bytes(50 * MIB))
    for body, status in ((attachment, 413), (event, 413), (header, 400)):
        sent = [head(database, "Content-Encoding: gzip", f"Content-Length: {len(body)}"), body]
        assert statuses(exchange(served, *sent)) == [status]
    assert database.counts() == counts
    # An event may have 1 MiB, and is not copied more often than needed.
    assert peak(served) - before < 8192


def test_what_is_over_the_limit_is_answered_and_not_reset(served: Server, database: Database) -> None:
    body = envelope(uuid.uuid4().hex, bytes(20 * MIB))
    assert statuses(exchange(served, head(database, f"Content-Length: {len(body)}"), body)) == [413]
    body = b"{\n" + bytes(19 * MIB)
    assert statuses(exchange(served, head(database, f"Content-Length: {len(body)}"), body)) == [400]
