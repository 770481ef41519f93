"""The least that a WSGI application can do with a batch: read it and call `ingest()`, without checks or metrics.

`make bench` runs it beside the service, to separate the cost of the service from that of Python and other processes.
"""

import os
import select
import threading
from typing import Any

import psycopg

from opensentry_ingest.uuids import uuid7

_own = threading.local()


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer `/health`. Take any other request as a batch with its key in the query string."""
    status, content = "200 OK", b'{"status": "ok"}'
    if environ["PATH_INFO"] != "/health":
        items = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        key = environ["QUERY_STRING"].removeprefix("key=")
        status, content = "202 Accepted", b'{"id": "%s"}' % _ingest([key.encode(), uuid7().encode(), items])
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
    return [content]


def _ingest(arguments: list[bytes]) -> bytes:
    if not hasattr(_own, "pgconn"):
        _own.connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
        _own.pgconn = _own.connection.pgconn
        _own.pgconn.nonblocking = 0
        _own.pgconn.prepare(b"ingest", b"SELECT opensentry.ingest($1, $2, $3)", None)
        _own.poll = select.poll()
        _own.poll.register(_own.pgconn.socket, select.POLLIN)
    _own.pgconn.send_query_prepared(b"ingest", arguments)
    # get_result() would wait too, but without releasing the GIL.
    while _own.pgconn.is_busy():
        _own.poll.poll()
        _own.pgconn.consume_input()
    batch_id: bytes = _own.pgconn.get_result().get_value(0, 0)
    _own.pgconn.get_result()
    return batch_id
