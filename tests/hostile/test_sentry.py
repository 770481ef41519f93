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


SPAN = b'{"trace_id":"t","span_id":"%d","parent_span_id":"%d"}'

# The name, the spans of an item of almost 6 MiB, and how many transactions and spans they become.
SPANS: dict[str, tuple[list[bytes], int, int]] = {
    "of no parent": ([b'{"trace_id":"t","span_id":"%d"}' % number for number in range(150_000)], 10_000, 0),
    "of a trace each": ([b'{"trace_id":"%d","span_id":"s"}' % number for number in range(150_000)], 10_000, 0),
    "below each other": ([SPAN % (number, number - 1) for number in range(100_000)], 1, 9_999),
    "below each other, in a circle": ([SPAN % (number, (number + 1) % 10_000) for number in range(100_000)], 1, 9_999),
    "below one": ([SPAN % (number, 0) for number in range(100_000)], 1, 9_999),
    "of a call each": (
        [b'{"trace_id":"t","span_id":"%d","parent_span_id":"0","op":"gen_ai.chat"}' % each for each in range(80_000)],
        1,
        9_999,
    ),
    "all the same": ([SPAN % (1, 1)] * 100_000, 1, 0),
    "none": ([b"0,0,0,0,0,0,0,0"] * 390_000, 0, 0),
}


@pytest.mark.parametrize("name", SPANS)
def test_an_item_full_of_the_smallest_spans_is_answered(name: str, served: Server, database: Database) -> None:
    spans, transactions, parts = SPANS[name]
    body = b'{}\n{"type": "span"}\n{"items":[%s]}' % b",".join(spans)
    assert 4 * MIB < len(body) < 6 * MIB
    before = database.counts()
    assert statuses(exchange(served, head(database, f"Content-Length: {len(body)}"), body)) == [200]
    added = {table: number - before[table] for table, number in database.counts().items()}
    assert (added["transactions"], added["spans"]) == (transactions, parts)


def test_a_bomb_of_spans_is_refused_and_costs_little_memory(served: Server, database: Database) -> None:
    small = envelope(uuid.uuid4().hex, bytes(10))
    assert statuses(exchange(served, head(database, f"Content-Length: {len(small)}"), small)) == [200]
    before = peak(served)
    body = gzip.compress(b'{}\n{"type": "span"}\n"' + bytes(90 * MIB))
    sent = [head(database, "Content-Encoding: gzip", f"Content-Length: {len(body)}"), body]
    assert statuses(exchange(served, *sent)) == [413]
    # Six MiB are held, in two copies while another piece is added.
    assert peak(served) - before < 16384


def test_what_is_over_the_limit_is_answered_and_not_reset(served: Server, database: Database) -> None:
    body = envelope(uuid.uuid4().hex, bytes(20 * MIB))
    assert statuses(exchange(served, head(database, f"Content-Length: {len(body)}"), body)) == [413]
    body = b"{\n" + bytes(19 * MIB)
    assert statuses(exchange(served, head(database, f"Content-Length: {len(body)}"), body)) == [400]
