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
from psycopg import generators
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic, error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from opensentry_ingest import metrics

STALL = 1.0
"""Seconds without a connection that comes back, after which a request waits no longer for one."""

QUICK = 0.2
"""The same while the database is known to be away."""

LAST_WORD = 1.0
"""Seconds that PostgreSQL is given to take a cancellation, and again to say how the statement ended."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which no statement waits for ever, even where a network swallows the answers."""

    patience = 5.0
    prepares = False
    unconfirmed = False

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._statements: dict[str, bytes] = {}
        self._goodbye = select.poll()
        self._goodbye.register(self.fileno(), select.POLLIN)

    def value(self, statement: str, *arguments: str | None) -> str:
        """Execute a statement that returns one value.

        `execute()` would do it too, and for each call find out anew what is always so here: the types of the arguments,
        how many rows there are, and of what.

        Args:
            statement: in PostgreSQL's own form, with `$1`.
            arguments: as PostgreSQL writes them in text.

        Returns:
            The value, likewise; empty for NULL.

        Raises:
            psycopg.Error: PostgreSQL refused it, or is away.
        """
        values = [None if argument is None else argument.encode() for argument in arguments]
        if not self.prepares:
            self.pgconn.send_query_params(statement.encode(), values)
        else:
            if statement not in self._statements:
                name = b"opensentry_%d" % len(self._statements)
                self.pgconn.send_prepare(name, statement.encode())
                self._result()
                self._statements[statement] = name
            self.pgconn.send_query_prepared(self._statements[statement], values)
        return (self._result().get_value(0, 0) or b"").decode()

    def is_open(self) -> bool:
        """Return whether PostgreSQL has kept an idle connection, without asking it: that would cost a round trip."""
        # An idle server says nothing but its goodbye.
        return not self._goodbye.poll(0)

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

    def _result(self) -> PGresult:
        result: PGresult = self.wait(generators.execute(self.pgconn))[0]
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            raise error_from_result(result)
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
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
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
        parameters = {**defaults, **conninfo_to_dict(conninfo), "client_encoding": "UTF8"}
        self._conninfo = make_conninfo("", **parameters)
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
                metrics.pool("size", self._size)
        connection = self._take(own)
        try:
            metrics.pool("used", 1)
            yield connection
        finally:
            dead = []
            with own.lock:
                if connection.pgconn.transaction_status == TransactionStatus.IDLE:
                    own.idle.append(connection)
                else:
                    # Those that were idle meanwhile are as dead or deaf, and deafness would cost each a statement.
                    dead, own.idle = [connection, *own.idle], []
                _came_back(own, away=bool(dead))
            metrics.pool("used", -1)
            for connection in dead:
                connection.close()

    def close(self) -> None:
        """Close the idle connections of this process. Another use opens new ones."""
        own = self._processes.pop(os.getpid(), None)
        if own:
            metrics.pool("size", -self._size)
            for connection in own.idle:
                connection.close()

    def _take(self, own: _Process) -> Connection:
        """Return an idle connection, or a new one, or the next that comes back."""
        deadline = time.monotonic() + self._timeout
        while True:
            with own.lock:
                if not self._is_free(own):
                    self._wait(own, deadline)
                own.lent += 1
                own.moved = time.monotonic()
                connection = own.idle.pop() if own.idle else None
            try:
                if connection and connection.is_open():
                    return connection
                if connection:
                    connection.close()
                return self._connect()
            except BaseException as error:
                with own.lock:
                    _came_back(own, away=True)
                    # Where other requests have connections, it is PostgreSQL that has no more to give: one will do.
                    others = own.lent or own.idle
                if not (isinstance(error, psycopg.OperationalError) and others and time.monotonic() < deadline):
                    raise

    def _is_free(self, own: _Process) -> bool:
        # While the database is known to be away, one request at a time asks for it; the others wait for that.
        return bool(own.idle) or own.lent < (1 if own.away else self._size)

    def _wait(self, own: _Process, deadline: float) -> None:
        """Wait until a connection is free; the caller has the lock."""
        metrics.pool("waiting", 1)
        try:
            while not self._is_free(own):
                left = min(deadline, own.moved + (QUICK if own.away else STALL)) - time.monotonic()
                if left <= 0:
                    raise psycopg.OperationalError("no connection was free in time")
                own.changed.wait(left)
        finally:
            metrics.pool("waiting", -1)

    def _connect(self) -> Connection:
        connection = Connection.connect(self._conninfo, autocommit=True)
        try:
            connection.patience = self._timeout
            connection.add_notice_handler(connection.heed)
            # A pooler as PgBouncer has process ids of its own, and may run a statement on another connection than the
            # one it was prepared on: behind one, nothing is prepared.
            connection.prepares = connection.value("SELECT pg_backend_pid()") == str(connection.info.backend_pid)
        except BaseException:
            connection.close()
            raise
        return connection


def _came_back(own: _Process, away: bool) -> None:
    """Note that a connection came back, or was not to be had, and tell those who wait; the caller has the lock."""
    own.lent -= 1
    own.moved = time.monotonic()
    if away == own.away:
        own.changed.notify()
    else:
        own.away = away
        own.changed.notify_all()
