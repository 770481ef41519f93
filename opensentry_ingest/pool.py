"""The connections of one process to PostgreSQL.

The rules that hold here: a connection stays in the process that opened it; a wait for the database always ends;
an outage makes requests fail quickly, while one at a time asks whether it is over; and the first after it succeeds.
"""

import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic
from psycopg.pq import TransactionStatus

from opensentry_ingest import metrics

STALL = 1.0
"""Seconds without a connection that comes back, after which a request waits no longer for one."""

QUICK = 0.2
"""The same while the database is known to be away."""

LAST_WORD = 1.0
"""Seconds that PostgreSQL is given to take a cancellation, and again to say how the statement ended."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which no statement waits for ever, even where a network swallows the answers."""

    patience: float
    unconfirmed = False

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait as psycopg does, but at most `patience` seconds; then cancel the statement and hear how it ended.

        Raises:
            psycopg.OperationalError: it was committed, but no synchronous standby has confirmed it.
        """
        try:
            result = super().wait(gen, interval, timeout or self.patience)
        except psycopg.errors._WaitTimeout:
            # Whether it was committed is known only when PostgreSQL says so: it is asked to stop, and heard once more.
            self._try_cancel(timeout=LAST_WORD)
            result = super().wait(gen, interval, LAST_WORD)
        if self.unconfirmed:
            self.unconfirmed = False
            raise psycopg.OperationalError("committed, but not confirmed by a synchronous standby")
        return result

    def heed(self, notice: Diagnostic) -> None:
        """Take note of the one warning that voids a success: a failover would lose what was committed.

        PostgreSQL gives it where a wait for a synchronous standby is cancelled. Its text is in the server's language.
        """
        if notice.source_function == "SyncRepWaitForLSN":
            self.unconfirmed = True


class _Process:
    """What one process has of a pool."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.idle: list[Connection] = []
        self.lent = 0
        """Connections that requests have or are opening."""
        self.moved = 0.0
        """When one was last lent or came back, in monotonic seconds."""
        self.away = False
        """Whether the last that was heard of the database was nothing, or that it is not there."""


class Pool:
    """A pool that can be made before a fork and used by several threads after it.

    A request opens its connection itself, where none is idle: so it hears at once that the database is away, and
    nothing in the background has to notice that it is back.

    Args:
        conninfo: how to reach PostgreSQL.
        size: connections for each process, at most. With fewer than the server's threads, some are left for what needs
            no database, whatever the database does.
        timeout: seconds to wait for a free connection, to connect (2 at least, as libpq has it), and for a statement.
    """

    def __init__(self, conninfo: str, size: int, timeout: float) -> None:
        # A connection that a firewall forgot would swallow a statement, hence the keepalives. The operator may differ.
        defaults: dict[str, Any] = {
            "fallback_application_name": "opensentry-ingest",
            "connect_timeout": ceil(timeout),
            "keepalives_idle": 60,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }
        self._conninfo = make_conninfo("", **{**defaults, **conninfo_to_dict(conninfo)})
        self._size, self._timeout = size, timeout
        # A connection that was opened before a fork would give one process another's rows.
        self._processes: dict[int, _Process] = {}

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection in autocommit mode.

        Raises:
            psycopg.OperationalError: the database is away, or no connection was free in time.
        """
        own = self._processes.get(os.getpid())
        if own is None:
            fresh = _Process()
            own = self._processes.setdefault(os.getpid(), fresh)
            if own is fresh:
                metrics.pool_size(self._size)
        with metrics.pool("waiting"):
            connection = self._take(own)
        try:
            with metrics.pool("used"):
                yield connection
        finally:
            dead = []
            with own.changed:
                if connection.pgconn.transaction_status == TransactionStatus.IDLE:
                    own.idle.append(connection)
                else:
                    # Those that were idle meanwhile are as dead or deaf, and deafness would cost each a statement.
                    dead, own.idle = [connection, *own.idle], []
                _move(own, -1, away=bool(dead))
            for connection in dead:
                connection.close()

    def close(self) -> None:
        """Close the idle connections of this process. Another use opens new ones."""
        own = self._processes.pop(os.getpid(), None)
        if own:
            metrics.pool_size(-self._size)
            for connection in own.idle:
                connection.close()

    def _take(self, own: _Process) -> Connection:
        """Return an idle connection, or a new one, or the next that comes back."""
        deadline = time.monotonic() + self._timeout
        while True:
            with own.changed:
                # While the database is known to be away, one request at a time asks for it; the others wait for that.
                while not own.idle and own.lent >= (1 if own.away else self._size):
                    left = min(deadline, own.moved + (QUICK if own.away else STALL)) - time.monotonic()
                    if left <= 0:
                        raise psycopg.OperationalError("no connection was free in time")
                    own.changed.wait(left)
                _move(own, 1)
                connection = own.idle.pop() if own.idle else None
            try:
                if connection and _is_open(connection):
                    return connection
                if connection:
                    connection.close()
                return self._connect()
            except BaseException as error:
                with own.changed:
                    _move(own, -1, away=True)
                    # Where other requests have connections, it is PostgreSQL that has no more to give: one will do.
                    others = own.lent or own.idle
                if not (isinstance(error, psycopg.OperationalError) and others and time.monotonic() < deadline):
                    raise

    def _connect(self) -> Connection:
        connection = Connection.connect(self._conninfo, autocommit=True)
        try:
            connection.patience = self._timeout
            connection.add_notice_handler(connection.heed)
            # A pooler as PgBouncer has process ids of its own, and may run a statement on another connection than the
            # one it was prepared on: behind one, nothing is prepared.
            if connection.execute("SELECT pg_backend_pid()").fetchone() != (connection.info.backend_pid,):
                connection.prepare_threshold = None
        except BaseException:
            connection.close()
            raise
        return connection


def _move(own: _Process, lent: int, away: bool | None = None) -> None:
    """Note that a connection was lent or came back."""
    own.lent += lent
    own.moved = time.monotonic()
    own.away = own.away if away is None else away
    own.changed.notify_all()


def _is_open(connection: Connection) -> bool:
    """Return whether PostgreSQL has kept an idle connection, without asking it: that would cost a round trip."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    # An idle server says nothing but its goodbye.
    return not poll.poll(0)
