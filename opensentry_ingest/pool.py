"""The connections of one process to PostgreSQL.

The rules that hold here: a connection stays in the process that opened it; every wait ends, and each request waits by
its own clock; and while the database is unreachable, one request at a time tries to connect, and the others fail at
once.
"""

import importlib
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic, FeatureNotSupported, InvalidSqlStatementName, error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from opensentry_ingest import metrics

CANCEL_SECONDS = 1.0
"""How long PostgreSQL may take to accept a cancellation, and again to say how the statement ended."""

RETRY_SECONDS = 1.0
"""How long the pool shares the connections it has after PostgreSQL had no room for another."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which no statement waits forever, even if the network drops every packet."""

    timeout_seconds = 5.0
    prepares = False
    unreachable = False
    """Whether not even the cancellation of a statement was accepted."""
    _unconfirmed = False

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._names: dict[str, bytes] = {}
        self._readable, self._ready = select.poll(), select.poll()
        self._readable.register(self.fileno(), select.POLLIN)
        self._ready.register(self.fileno(), select.POLLIN | select.POLLOUT)
        self.add_notice_handler(self._note)

    def value(self, statement: str, *arguments: str | None) -> str:
        """Execute a statement that returns one value, by libpq's own functions.

        `execute()` would do it too, and determine for each call what never changes here: the types of the arguments,
        how many rows there are, and their types.

        Args:
            statement: in PostgreSQL's own form, with `$1`.
            arguments: in PostgreSQL's text format.

        Returns:
            The value in the same format; empty for NULL.

        Raises:
            psycopg.Error: PostgreSQL refused it or is unreachable; it was committed, but no synchronous standby has
                confirmed it.
        """
        deadline = time.monotonic() + self.timeout_seconds
        values = [None if argument is None else argument.encode() for argument in arguments]
        if self.prepares:
            try:
                if statement not in self._names:
                    name = b"opensentry_%d" % time.monotonic_ns()
                    self.pgconn.send_prepare(name, statement.encode())
                    self._result(deadline)
                    self._names[statement] = name
                self.pgconn.send_query_prepared(self._names[statement], values)
                return self._result(deadline)
            except (FeatureNotSupported, InvalidSqlStatementName):
                # PostgreSQL no longer has the prepared statement, or its result type has changed. Nothing was stored.
                self._names.pop(statement, None)
        self.pgconn.send_query_params(statement.encode(), values)
        return self._result(deadline)

    def is_open(self) -> bool:
        """Return whether an idle connection is open, without a round trip."""
        # PostgreSQL sends nothing on an idle connection, except when it closes it.
        return not self._readable.poll(0)

    def _result(self, deadline: float) -> str:
        """Send what libpq has buffered and return the value of the result; cancel the statement at the deadline."""
        pgconn = self.pgconn
        results: list[PGresult] = []
        cancelled = False
        while True:
            unsent = pgconn.flush()
            if unsent or pgconn.is_busy():
                poll = self._ready if unsent else self._readable
                if poll.poll(max(0, deadline - time.monotonic()) * 1000):
                    pgconn.consume_input()
                elif cancelled:
                    raise psycopg.OperationalError("the database did not answer in time")
                else:
                    # Only PostgreSQL knows whether it was committed, so it is asked to stop and given time to say so.
                    cancelled = True
                    try:
                        self.cancel_safe(timeout=CANCEL_SECONDS)
                    except psycopg.Error:
                        self.unreachable = True
                    deadline = time.monotonic() + CANCEL_SECONDS
            elif result := pgconn.get_result():
                results.append(result)
            else:
                break
        # An error of the commit comes after the rows: a deferred constraint, or a node of Citus that just failed.
        for result in results:
            if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
                raise error_from_result(result)
        if self._unconfirmed:
            self._unconfirmed = False
            raise psycopg.OperationalError("committed, but not confirmed by a synchronous standby")
        return (results[0].get_value(0, 0) or b"").decode()

    def _note(self, notice: Diagnostic) -> None:
        """Notice the one warning that turns a success into a failure: a failover would lose what was committed.

        PostgreSQL sends it if a wait for a synchronous standby is cancelled. Its text is in the server's language.
        """
        if notice.source_function == "SyncRepWaitForLSN":
            self._unconfirmed = True


class _Process:
    """The part of a pool that belongs to one process. Everything in it changes under its condition's lock."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.idle: list[Connection] = []
        self.count = 0
        """How many connections are idle, lent or being opened."""
        self.connecting = False
        self.unreachable = False
        """Whether the last attempt to reach the database got no answer."""
        self.retry_at = 0.0
        """When PostgreSQL may have room for another connection again, in monotonic seconds."""

    def close_idle(self) -> None:
        """Close the idle connections; the caller holds the lock."""
        while self.idle:
            self.idle.pop().close()
            self.count -= 1
        self.changed.notify_all()


class Pool:
    """A pool that can be created before a fork and used by several threads after it.

    A request opens its connection itself if none is idle, so it knows at once that the database is unreachable, and
    nothing in the background has to notice that it is back.

    Args:
        conninfo: how to reach PostgreSQL.
        size: the most connections of each process.
        timeout: seconds to wait for a free connection, to connect (at least 2, as in libpq), and for a statement.
    """

    def __init__(self, conninfo: str, size: int, timeout: float) -> None:
        # A firewall may drop a connection silently, hence the keepalives. The connection string has the last word.
        parameters: dict[str, Any] = {
            "fallback_application_name": "opensentry-ingest",
            "connect_timeout": max(2, ceil(timeout)),
            "keepalives_idle": 60,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            **conninfo_to_dict(conninfo),
            "client_encoding": "UTF8",
        }
        self._conninfo = make_conninfo("", **parameters)
        self._size, self._timeout = size, timeout
        # A connection that was opened before a fork would give one process another's rows.
        self._processes: dict[int, _Process] = {}

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection in autocommit mode.

        Raises:
            psycopg.OperationalError: the database is unreachable, or no connection was free in time.
        """
        own = self._processes.get(os.getpid()) or self._start_process()
        deadline = time.monotonic() + self._timeout
        while True:
            connection = self._take(own, deadline)
            try:
                metrics.pool("used", 1)
                if connection.is_open():
                    yield connection
                    return
                connection.close()
            finally:
                self._give_back(own, connection)
                metrics.pool("used", -1)

    def close(self) -> None:
        """Close the connections of this process; a lent one, when it is returned. Another use opens new ones."""
        own = self._processes.pop(os.getpid(), None)
        if own:
            metrics.pool("size", -self._size)
            with own.changed:
                own.close_idle()

    def _start_process(self) -> _Process:
        # psycopg chooses how to wait when it is imported; gunicorn's gevent worker may patch `select` only after that.
        monkey = sys.modules.get("gevent.monkey")
        if monkey and monkey.is_module_patched("select"):
            importlib.reload(psycopg.waiting)
        new = _Process()
        own = self._processes.setdefault(os.getpid(), new)
        if own is new:
            metrics.pool("size", self._size)
        return own

    def _take(self, own: _Process, deadline: float) -> Connection:
        """Return an idle connection, or open one, or wait until either is possible."""
        while True:
            with own.changed:
                if own.idle:
                    return own.idle.pop()
                if own.connecting or own.count == self._size or (own.count and time.monotonic() < own.retry_at):
                    _wait(own, deadline)
                    continue
                own.connecting = True
                own.count += 1
            connection = self._open(own)
            if connection:
                return connection

    def _open(self, own: _Process) -> Connection | None:
        """Open a connection, or return None if PostgreSQL has no room for another."""
        connection = None
        opened = False
        began = time.monotonic()
        try:
            connection = Connection.connect(self._conninfo, autocommit=True)
            # What is left of the time to connect.
            connection.timeout_seconds = max(0.1, began + self._timeout - time.monotonic())
            # A pooler such as PgBouncer has process ids of its own, and may run a statement on another connection than
            # the one it was prepared on: behind a pooler, nothing is prepared.
            connection.prepares = connection.value("SELECT pg_backend_pid()") == str(connection.info.backend_pid)
            connection.timeout_seconds = self._timeout
            own.unreachable = False
            opened = True
            return connection
        except psycopg.Error as error:
            # No SQLSTATE says why it failed. If this process has other connections, it has to make do with them.
            own.unreachable = own.count == 1 or isinstance(error, psycopg.errors.ConnectionTimeout)
            if own.unreachable:
                raise
            own.retry_at = time.monotonic() + RETRY_SECONDS
            return None
        finally:
            with own.changed:
                own.connecting = False
                own.changed.notify_all()
                if not opened:
                    own.count -= 1
            if connection and not opened:
                connection.close()

    def _give_back(self, own: _Process, connection: Connection) -> None:
        with own.changed:
            own.idle.append(connection)
            healthy = connection.pgconn.transaction_status == TransactionStatus.IDLE
            own.unreachable = not healthy and (own.unreachable or connection.unreachable)
            own.changed.notify()
            # Whatever broke this connection probably broke the idle ones; and after close() nobody else closes them.
            if not healthy or self._processes.get(os.getpid()) is not own:
                own.close_idle()


def _wait(own: _Process, deadline: float) -> None:
    """Wait for a change, unless it is too late or the database is unreachable; the caller holds the lock."""
    if own.unreachable:
        raise psycopg.OperationalError("the database is unreachable")
    left = deadline - time.monotonic()
    if left <= 0:
        raise psycopg.OperationalError("no connection was free in time")
    metrics.pool("waiting", 1)
    try:
        own.changed.wait(min(left, RETRY_SECONDS))
    finally:
        metrics.pool("waiting", -1)
