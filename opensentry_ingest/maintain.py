"""Maintenance: creates partitions ahead of time, drops expired ones, empties the default one, deletes old keys.

The rules that hold here:
- Ingest never waits longer than `LOCK_TIMEOUT` for a lock, and the work done under such a lock does not grow with the
  data.
- No row is lost or visible twice. A row that a transaction of over LATE stores in a default partition just before it is
  replaced is not visible until the run has finished with that table.
- Each statement is one that Citus can distribute too: there is one way for both.
- Each step is one transaction, which takes the lock of migrations.py and looks again at what there is to do. So an
  interrupted step is rolled back, the next run continues, and no state of the session is needed.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from itertools import repeat
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from opensentry_ingest import distribution, migrations
from opensentry_ingest.errors import CommandError
from opensentry_ingest.tables import ITEM_TABLES

Connection = psycopg.Connection[Any]
Report = Callable[[str], object]

MONTHS_AHEAD = 3
"""Months that get a partition before they begin: if maintenance fails for less, every row still finds its partition."""

LOCK_TIMEOUT = "200ms"
"""The longest wait for each lock that makes ingest wait as well."""

RETRY_DELAYS_SECONDS = (0.2, 0.5, 1, 2, *repeat(5, 60))
"""The pauses between attempts to take such locks: about five minutes, then the table is left to the next run."""

STEP = timedelta(days=1)
"""The time whose rows one statement copies."""

LATE = timedelta(minutes=1)
"""How long after the beginning of its transaction a row may be committed, to be copied under the lock."""

KEY_RETENTION = "1 day"
"""How long an idempotency key is kept at least, as a PostgreSQL interval."""

KEYS_PER_STEP = 10_000
"""Idempotency keys that one transaction deletes."""

PROGRESS_INTERVAL_SECONDS = 5.0
"""The time between two progress reports on a step that takes long."""


def maintain(
    connection: Connection, retention: Mapping[str, int | None], report: Report, dry_run: bool = False
) -> None:
    """Do all maintenance. It may run at any time, under load, and several times at once.

    Args:
        connection: a connection in autocommit mode, of the role that owns the tables.
        retention: for each table, the days that its rows are kept at least; None: forever.
        report: is called with each line about what was done.
        dry_run: change nothing, and report what would have been done.

    Raises:
        CommandError: a table was locked for too long; the work on all others is done.
    """
    did = "would have " if dry_run else ""
    busy = []
    for table in ITEM_TABLES:
        try:
            if not dry_run:
                _drop_replaced_default(connection, table, report)
            months, moved = _create_partitions(connection, table, report, dry_run)
            for month in months:
                report(f"{did}created partition {_partition_name(table, month)}")
            if moved:
                report(f"{did}moved {moved:,} rows out of {table}_default")
            if not dry_run:
                _drop_replaced_default(connection, table, report)
            if days := retention.get(table):
                for name in _drop_expired(connection, table, days, months, report, dry_run):
                    report(f"{did}dropped partition {name}")
        # A deadlock is with a concurrent index build, which waits for this transaction to end.
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            busy.append(table)
    if dry_run:
        count = "SELECT count(*) FROM opensentry.idempotency_keys WHERE received_at < now() - %s::interval"
        [(keys,)] = connection.execute(count, (KEY_RETENTION,)).fetchall()
    else:
        keys = _delete_old_keys(connection, report)
    if keys:
        report(f"{did}deleted {keys:,} idempotency keys")
    if busy:
        raise CommandError(f"{', '.join(busy)}: locked by a long transaction: run this again when it has ended")


@contextmanager
def _exclusive_transaction(connection: Connection, report: Report) -> Iterator[None]:
    """Open a transaction that no other maintenance or migration runs beside, with UTC as its time zone."""
    on_wait = partial(report, "waiting for another `maintain` or `migrate` to finish")
    with migrations.exclusive_transaction(connection, on_wait):
        connection.execute("SET LOCAL timezone = 'UTC'")
        yield


# The range of each partition except the default one; a bound is null if it is open.
_PARTITIONS = r"""
    SELECT c.relname AS name, part.lower, part.upper
    FROM pg_catalog.pg_inherits AS i
    JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid,
        LATERAL pg_get_expr(c.relpartbound, c.oid) AS bound,
        LATERAL (
            SELECT
                substring(bound FROM $$FROM \('([^']+)'\)$$)::timestamptz AS lower,
                substring(bound FROM $$TO \('([^']+)'\)$$)::timestamptz AS upper
        ) AS part
    WHERE i.inhparent = to_regclass('opensentry.' || %s) AND bound <> 'DEFAULT'
"""

_MISSING = rf"""
    SELECT month
    FROM generate_series(date_trunc('month', now()), now() + make_interval(months => %s), '1 month') AS month
    WHERE NOT EXISTS (
        SELECT
        FROM ({_PARTITIONS}) AS p
        WHERE coalesce(p.lower, '-infinity') < month + interval '1 month' AND coalesce(p.upper, 'infinity') > month
    )
"""

_EXPIRED = f"""
    SELECT p.name
    FROM ({_PARTITIONS}) AS p
    WHERE p.upper <= now() - make_interval(days => %s)
    ORDER BY p.upper
"""


def _create_partitions(connection: Connection, table: str, report: Report, dry_run: bool) -> tuple[list[datetime], int]:
    """Create every missing partition and move its rows to it; return the months, and the number of rows moved."""
    count = SQL("SELECT date_trunc('month', received_at), count(*) FROM {} GROUP BY 1")
    with _exclusive_transaction(connection, report):
        rows = dict(connection.execute(count.format(_qualified(f"{table}_default"))).fetchall())
        missing = connection.execute(_MISSING, (MONTHS_AHEAD, table)).fetchall()
        months = sorted({*rows, *(month for (month,) in missing)})
        moved = sum(rows.values())
        if months and not dry_run:
            _replace_default(connection, table, months, rows, report)
    return months, moved


def _replace_default(
    connection: Connection, table: str, months: list[datetime], rows: Mapping[datetime, int], report: Report
) -> None:
    """Attach a partition for each month, with its rows, and an empty default partition.

    PostgreSQL cannot attach a partition while the default one holds rows of its range. So the rows are copied within
    one transaction, invisible to others until it commits. Ingest continues meanwhile, and waits only for the end of it.

    Args:
        connection: a connection in a transaction.
        table: the table.
        months: the months that have no partition.
        rows: how many rows of a month the default partition holds.
        report: is called with the progress.
    """
    default = f"{table}_default"
    copied_at: datetime | None = None

    def copy_rows() -> None:
        """Copy all rows; from the second time on, those that have come since."""
        nonlocal copied_at
        before, (copied_at,) = copied_at, connection.execute("SELECT clock_timestamp()").fetchall()[0]
        if before:
            _copy_late_rows(connection, table, months, before - LATE, copied_at)
        else:
            _copy_rows(connection, table, rows, report)

    def replace() -> None:
        copy_rows()
        # A new default partition, because attaching to the old one would read all of it.
        connection.execute(SQL("ALTER TABLE {} DETACH PARTITION {}").format(_qualified(table), _qualified(default)))
        connection.execute(
            SQL("ALTER TABLE {} RENAME TO {}").format(_qualified(default), Identifier(f"{table}_replaced"))
        )
        for month in months:
            connection.execute("SELECT opensentry.attach_partition(%s, %s)", (table, month))
        connection.execute(
            SQL("CREATE TABLE {} PARTITION OF {} DEFAULT").format(_qualified(default), _qualified(table))
        )

    _lock_out_vacuum(connection, default)
    for month in months:
        connection.execute("SELECT opensentry.build_partition(%s, %s)", (table, month))
        distribution.distribute_partition(connection, table, _partition_name(table, month))
    _with_exclusive_lock(connection, (table, default), replace, before_attempt=copy_rows)


def _copy_rows(connection: Connection, table: str, rows: Mapping[datetime, int], report: Report) -> None:
    """Copy the rows of the default partition to those of their months, in bounded statements."""
    total = sum(rows.values())
    copied, reported = 0, time.monotonic()
    for month in rows:
        since, end = month, _next_month(month)
        while since < end:
            copied += _copy(connection, table, month, since, min(since + STEP, end))
            since += STEP
            if time.monotonic() - reported > PROGRESS_INTERVAL_SECONDS:
                reported = time.monotonic()
                report(f"moving {copied:,} of {total:,} rows out of {table}_default")


def _copy_late_rows(connection: Connection, table: str, months: list[datetime], since: datetime, now: datetime) -> None:
    """Copy the rows that were received from a moment on. There is none of more than a STEP after now."""
    for month in months:
        if (end := _next_month(month)) > since and month < now + STEP:
            _copy(connection, table, month, max(month, since), end)


def _copy(connection: Connection, table: str, month: datetime, since: datetime, until: datetime) -> int:
    """Copy the rows of a time from the default partition to that of a month, unless they are there; return how many."""
    statement = "INSERT INTO {} SELECT * FROM {} WHERE received_at >= %s AND received_at < %s ON CONFLICT DO NOTHING"
    names = _qualified(_partition_name(table, month)), _qualified(f"{table}_default")
    return connection.execute(SQL(statement).format(*names), (since, until)).rowcount


def _drop_replaced_default(connection: Connection, table: str, report: Report) -> None:
    """Drop a default partition that was replaced, after copying the rows that were committed too late before."""
    replaced = f"{table}_replaced"
    with _exclusive_transaction(connection, report):
        if _exists(connection, replaced):
            connection.execute(SQL("LOCK TABLE {}").format(_qualified(replaced)))
            connection.execute(
                SQL("INSERT INTO {} SELECT * FROM {} ON CONFLICT DO NOTHING").format(
                    _qualified(table), _qualified(replaced)
                )
            )
            connection.execute(SQL("DROP TABLE {}").format(_qualified(replaced)))


def _drop_expired(
    connection: Connection, table: str, days: int, created: list[datetime], report: Report, dry_run: bool
) -> Iterator[str]:
    """Drop the partitions whose month ended more than `days` days ago; yield the name of each.

    A dry run includes the partitions that would have been created.
    """
    with _exclusive_transaction(connection, report):
        names = [name for (name,) in connection.execute(_EXPIRED, (table, days))]
        [(limit,)] = connection.execute("SELECT now() - make_interval(days => %s)", (days,)).fetchall()
    if dry_run:
        yield from sorted(
            {*names, *(_partition_name(table, month) for month in created if _next_month(month) <= limit)}
        )
        return
    for name in names:
        with _exclusive_transaction(connection, report):
            if not _exists(connection, name):
                continue
            _lock_out_vacuum(connection, name)
            drop = SQL("DROP TABLE {}").format(_qualified(name))
            _with_exclusive_lock(connection, (table, f"{table}_default", name), partial(connection.execute, drop))
        yield name


def _delete_old_keys(connection: Connection, report: Report) -> int:
    """Delete old idempotency keys, a bounded number in each transaction; return how many."""
    deleted, reported = 0, time.monotonic()
    while True:
        with _exclusive_transaction(connection, report):
            [(until,)] = connection.execute(
                "SELECT max(received_at) FROM ("
                "SELECT received_at FROM opensentry.idempotency_keys WHERE received_at < now() - %s::interval "
                "ORDER BY received_at LIMIT %s) AS oldest",
                (KEY_RETENTION, KEYS_PER_STEP),
            ).fetchall()
            count = connection.execute(
                "DELETE FROM opensentry.idempotency_keys WHERE received_at <= %s", (until,)
            ).rowcount
        if not count:
            return deleted
        deleted += count
        if time.monotonic() - reported > PROGRESS_INTERVAL_SECONDS:
            reported = time.monotonic()
            report(f"deleting idempotency keys: {deleted:,} so far")


def _lock_out_vacuum(connection: Connection, name: str) -> None:
    """Keep VACUUM off a table until the end of the transaction; autovacuum gives way within a second."""
    connection.execute("SET LOCAL lock_timeout = '10s'")
    connection.execute(SQL("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE").format(_qualified(name)))


def _with_exclusive_lock(
    connection: Connection,
    names: Sequence[str],
    action: Callable[[], object],
    before_attempt: Callable[[], object] = lambda: None,
) -> None:
    """Run a short action while nobody else uses some tables.

    Args:
        connection: a connection in a transaction.
        names: the tables.
        action: is called once they are locked.
        before_attempt: is called before each attempt to lock them.

    Raises:
        psycopg.errors.LockNotAvailable: every attempt failed.
    """
    tables = SQL(", ").join(SQL("ONLY {}").format(_qualified(name)) for name in names)
    for delay in RETRY_DELAYS_SECONDS:
        before_attempt()
        try:
            with connection.transaction():
                connection.execute(SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT))
                connection.execute(SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables))
                action()
            return
        except psycopg.errors.LockNotAvailable as error:
            last_error = error
            time.sleep(delay)
    raise last_error


def _exists(connection: Connection, name: str) -> bool:
    return connection.execute("SELECT to_regclass(%s)", (f"opensentry.{name}",)).fetchone() != (None,)


def _qualified(name: str) -> Identifier:
    return Identifier("opensentry", name)


def _partition_name(table: str, month: datetime) -> str:
    return f"{table}_{month:%Y_%m}"


def _next_month(month: datetime) -> datetime:
    """Return the start of the month after one that is given by its start."""
    return (month + timedelta(days=31)).replace(day=1)
