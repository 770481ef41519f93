"""The connections of one process to PostgreSQL.

The rules that hold here: the pool is opened after the fork; a wait for the database always ends; an outage makes
requests fail at once, not one after the other; and the first request after it succeeds.
"""

import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

QUICK = 0.2
"""Seconds that a request waits for a connection while the database is known to be away."""

LAST_WORD = 1.0
"""Seconds that PostgreSQL is given to take a cancellation, and again to say how the statement ended."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which no statement waits for ever, even where a network swallows the answers."""

    patience: float

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait as psycopg does, but at most `patience` seconds; then cancel the statement and hear how it ended."""
        try:
            return super().wait(gen, interval, timeout or self.patience)
        except psycopg.errors._WaitTimeout:
            # Whether it was committed is known only when PostgreSQL says so: it is asked to stop, and heard once more.
            self._try_cancel(timeout=LAST_WORD)
            return super().wait(gen, interval, LAST_WORD)


class Pool:
    """A pool that can be made before a fork and used by several threads after it.

    Args:
        conninfo: how to reach PostgreSQL.
        size: connections, at most.
        timeout: seconds to wait for a free connection, and again for each statement.
    """

    def __init__(self, conninfo: str, size: int, timeout: float) -> None:
        self._conninfo, self._size, self._timeout = conninfo, size, timeout
        self._lock = threading.Lock()
        self._pid = 0
        self._away = False

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection in autocommit mode.

        Raises:
            psycopg.OperationalError: the database is away, or no connection was free in time.
        """
        pool = self._own()
        # While the database is known to be away, every request asks for it, but none waits long.
        connection = pool.getconn(QUICK if self._away else self._timeout)
        try:
            yield connection
        finally:
            pool.putconn(connection)

    def close(self) -> None:
        """Close the connections of this process. Another use opens new ones."""
        with self._lock:
            if self._pid == os.getpid():
                self._opened.close()
                self._pid = 0

    def _own(self) -> ConnectionPool[Connection]:
        """Return the pool of this process: one that was opened before a fork would give a worker another's rows."""
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._opened = ConnectionPool(
                        self._conninfo,
                        connection_class=Connection,
                        kwargs={"autocommit": True, "fallback_application_name": "opensentry-ingest"},
                        min_size=1,
                        max_size=self._size,
                        # The next request tries again, so the pool need not: it would back off for minutes.
                        reconnect_timeout=0,
                        reconnect_failed=self._lost,
                        configure=self._connected,
                        check=self._check,
                        open=True,
                    )
                    self._pid = os.getpid()
        return self._opened

    def _connected(self, connection: Connection) -> None:
        connection.patience = self._timeout
        self._away = False

    def _lost(self, _: ConnectionPool[Connection]) -> None:
        self._away = True

    def _check(self, connection: Connection) -> None:
        """Raise where PostgreSQL has closed an idle connection, without asking it: that would cost a round trip."""
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        if poll.poll(0):
            # An idle server says nothing but its goodbye, and it has said it to the other connections too.
            self._opened.drain()
            raise psycopg.OperationalError("the connection was closed")
