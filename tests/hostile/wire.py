"""HTTP as bytes."""

import re
import socket
from contextlib import suppress

from tests.support import Database, Server


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def head(database: Database, *headers: str) -> bytes:
    """Return the head of a POST with a good key."""
    lines = [f"POST /v1/ingest?key={database.key} HTTP/1.1", "Host: localhost", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def received(sock: socket.socket) -> bytes:
    """Return all that comes until the other side closes, or resets."""
    data = b""
    with suppress(ConnectionError):
        while piece := sock.recv(65536):
            data += piece
    return data


def exchange(server: Server, *pieces: bytes) -> bytes:
    """Send bytes, close our side, and return all that comes back."""
    with connect(server) as sock:
        # A server that has refused the request may have closed by now.
        with suppress(OSError):
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
        return received(sock)


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of the responses in an answer, in their order."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]
