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
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic, error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from opensentry_ingest import metrics

CANCEL_SECONDS = 1.0
"""How long PostgreSQL may take to accept a cancellation, and again to say how the statement ended."""

NO_CONNECTION_SECONDS = 1.0
"""How long the pool does without a connection that PostgreSQL had no room for."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which no statement waits forever, even if the network drops every packet."""

    timeout_seconds = 5.0
    prepares = False
    unanswered = False
    """Whether a statement got no answer, not even to its cancellation."""
    _unconfirmed = False

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._names: dict[str, bytes] = {}
        self._poll = select.poll()
        self._poll.register(self.fileno(), select.POLLIN)
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
        values = [None if argument is None else argument.encode() for argument in arguments]
        if not self.prepares:
            self.pgconn.send_query_params(statement.encode(), values)
        else:
            if statement not in self._names:
                name = b"opensentry_%d" % len(self._names)
                self.pgconn.send_prepare(name, statement.encode())
                self._result()
                self._names[statement] = name
            self.pgconn.send_query_prepared(self._names[statement], values)
        return (self._result().get_value(0, 0) or b"").decode()

    def is_open(self) -> bool:
        """Return whether an idle connection is open, without a round trip."""
        # PostgreSQL sends nothing on an idle connection, except when it closes it.
        return not self._poll.poll(0)

    def _result(self) -> PGresult:
        """Return the result of what was sent; cancel it if it takes longer than the timeout."""
        try:
            result = self._receive(self.timeout_seconds)
        except TimeoutError:
            # Only PostgreSQL knows whether it was committed, so it is asked to stop and given time to say so.
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=CANCEL_SECONDS)
            try:
                result = self._receive(CANCEL_SECONDS)
            except TimeoutError:
                self.unanswered = True
                raise psycopg.OperationalError("the database did not answer in time") from None
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            raise error_from_result(result)
        if self._unconfirmed:
            self._unconfirmed = False
            raise psycopg.OperationalError("committed, but not confirmed by a synchronous standby")
        return result

    def _receive(self, seconds: float) -> PGresult:
        """Send what libpq has buffered, and return the one result (libpq, "Asynchronous Command Processing")."""
        deadline = time.monotonic() + seconds
        pgconn = self.pgconn
        results: list[PGresult] = []
        while pgconn.flush():
            self._wait(select.POLLIN | select.POLLOUT, deadline)
            pgconn.consume_input()
        while True:
            while pgconn.is_busy():
                self._wait(select.POLLIN, deadline)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                return results[0]
            results.append(result)

    def _wait(self, events: int, deadline: float) -> None:
        self._poll.modify(self.fileno(), events)
        if not self._poll.poll(max(0, deadline - time.monotonic()) * 1000):
            raise TimeoutError

    def _note(self, notice: Diagnostic) -> None:
        """Notice the one warning that turns a success into a failure: a failover would lose what was committed.

        PostgreSQL sends it if a wait for a synchronous standby is cancelled. Its text is in the server's language.
        """
        if notice.source_function == "SyncRepWaitForLSN":
            self._unconfirmed = True


class _Process:
    """The part of a pool that belongs to one process."""

    def __init__(self, size: int) -> None:
        self.slots = threading.Semaphore(size)
        self.idle: deque[Connection] = deque()
        self.open: set[Connection] = set()
        self.connecting = threading.Lock()
        self.unreachable = False
        """Whether the last attempt to reach the database got no answer."""


class Pool:
    """A pool that can be created before a fork and used by several threads after it.

    A request opens its connection itself if none is idle, so it knows at once that the database is unreachable, and
    nothing in the background has to notice that it is back.

    Args:
        conninfo: how to reach PostgreSQL.
        size: the most connections of each process. With fewer than the server's threads, some threads are left for
            requests that need no database.
        timeout: seconds to wait for a free connection, to connect (at least 2, as in libpq), and for a statement.
    """

    def __init__(self, conninfo: str, size: int, timeout: float) -> None:
        # A firewall may drop a connection silently, hence the keepalives. The connection string has the last word.
        defaults: dict[str, Any] = {
            "fallback_application_name": "opensentry-ingest",
            "connect_timeout": max(2, ceil(timeout)),
            "keepalives_idle": 60,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }
        parameters = {**defaults, **conninfo_to_dict(conninfo), "client_encoding": "UTF8"}
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
        connection = self._take(own)
        metrics.pool("used", 1)
        try:
            yield connection
        finally:
            metrics.pool("used", -1)
            if connection.pgconn.transaction_status == TransactionStatus.IDLE:
                own.unreachable = False
                own.idle.append(connection)
            else:
                own.unreachable = connection.unanswered
                _close(own, connection)
            # Whatever broke this connection probably broke the idle ones; and after close() nobody else closes them.
            if connection.closed or self._processes.get(os.getpid()) is not own:
                _close_idle(own)
            own.slots.release()

    def close(self) -> None:
        """Close the connections of this process; a lent one, when it is returned. Another use opens new ones."""
        own = self._processes.pop(os.getpid(), None)
        if own:
            metrics.pool("size", -self._size)
            _close_idle(own)

    def _start_process(self) -> _Process:
        # psycopg chooses how to wait when it is imported; gunicorn's gevent worker may patch `select` only after that.
        monkey = sys.modules.get("gevent.monkey")
        if monkey and monkey.is_module_patched("select"):
            importlib.reload(psycopg.waiting)
        own = _Process(self._size)
        if self._processes.setdefault(os.getpid(), own) is own:
            metrics.pool("size", self._size)
        return self._processes[os.getpid()]

    def _take(self, own: _Process) -> Connection:
        """Return an idle connection, or open one if there is a free slot, or wait for either."""
        deadline = time.monotonic() + self._timeout
        while True:
            if not own.slots.acquire(blocking=False):
                _wait_for_slot(own, deadline)
            try:
                return _idle(own) or self._open(own, deadline)
            except BaseException as error:
                limited = isinstance(error, psycopg.OperationalError) and own.open and not own.unreachable
                if not limited or time.monotonic() >= deadline:
                    own.slots.release()
                    raise
                # PostgreSQL allows no more connections: share those there are, and try again in a while.
                timer = threading.Timer(NO_CONNECTION_SECONDS, own.slots.release)
                timer.daemon = True
                timer.start()

    def _open(self, own: _Process, deadline: float) -> Connection:
        """Open a connection, one request at a time; while the database is unreachable the others do not wait."""
        known = own.unreachable
        if not own.connecting.acquire(timeout=0 if known else max(0, deadline - time.monotonic())):
            raise psycopg.OperationalError("another request is trying to reach the database")
        try:
            if own.unreachable and not known:
                raise psycopg.OperationalError("the database is unreachable")
            connection = _idle(own)
            if not connection:
                connection = self._connect()
                own.open.add(connection)
            own.unreachable = False
            return connection
        except psycopg.OperationalError as error:
            own.unreachable = not own.open or isinstance(error, psycopg.errors.ConnectionTimeout)
            raise
        finally:
            own.connecting.release()

    def _connect(self) -> Connection:
        connection = Connection.connect(self._conninfo, autocommit=True)
        try:
            connection.timeout_seconds = self._timeout
            # A pooler such as PgBouncer has process ids of its own, and may run a statement on another connection than
            # the one it was prepared on: behind a pooler, nothing is prepared.
            connection.prepares = connection.value("SELECT pg_backend_pid()") == str(connection.info.backend_pid)
        except BaseException:
            connection.close()
            raise
        return connection


def _wait_for_slot(own: _Process, deadline: float) -> None:
    metrics.pool("waiting", 1)
    try:
        if not own.slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise psycopg.OperationalError("no connection was free in time")
    finally:
        metrics.pool("waiting", -1)


def _idle(own: _Process) -> Connection | None:
    """Return an idle connection that is open, if there is one."""
    with suppress(IndexError):
        while True:
            connection = own.idle.pop()
            if connection.is_open():
                return connection
            _close(own, connection)
    return None


def _close_idle(own: _Process) -> None:
    with suppress(IndexError):
        while True:
            _close(own, own.idle.pop())


def _close(own: _Process, connection: Connection) -> None:
    own.open.discard(connection)
    connection.close()
