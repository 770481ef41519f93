"""Maintenance: partitions made ahead, dropped in time and kept out of the default one; old idempotency keys forgotten.

The rules that hold here: ingest never waits longer for a lock than `MOMENT`, and the work under such a lock does not
grow with the data; no row is lost, or seen twice; and what is cut short is undone, or goes on at the next run. A row
that ingest puts on an old page of a default partition, just when that is replaced, is out of sight until the run is
done with the table.
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

from opensentry_ingest import migrations
from opensentry_ingest.errors import CommandError
from opensentry_ingest.tables import ITEM_TABLES

Connection = psycopg.Connection[Any]
Say = Callable[[str], object]

AHEAD = 3
"""Months that have a partition before they begin: maintenance may fail for as long, and no row misses its own."""

MOMENT = "200ms"
"""The longest wait for each lock that ingest has to wait behind."""

PAUSES = (0.2, 0.5, 1, 2, *repeat(5, 60))
"""Seconds between the attempts to get such a lock: five minutes, after which the next run tries again."""

PAGES = 1000
"""Pages of 8 KiB that one step moves the rows of."""

KEY_AGE = "1 day"
"""For how long an idempotency key is known, at least."""

KEYS = 10_000
"""Idempotency keys that one step forgets."""

PROGRESS = 5.0
"""Seconds between two words on a step that takes long."""


def maintain(connection: Connection, retention: Mapping[str, int | None], say: Say, dry_run: bool = False) -> None:
    """Bring the tables in order. It may run at any time, under load, and twice at once: the second waits.

    Args:
        connection: a connection in autocommit mode, of the role that owns the tables.
        retention: days that the rows of each table are kept, at least; None: for ever.
        say: is called with each line about what was done.
        dry_run: change nothing, and say what would have been done.

    Raises:
        CommandError: a table was in use for too long; all the others are done.
    """
    did = "would have " if dry_run else ""
    busy = []
    with _alone(connection, say):
        connection.execute("SET timezone = 'UTC'")
        for table in ITEM_TABLES:
            try:
                if not dry_run:
                    _drop_replaced(connection, table)
                months, moved = _partition(connection, table, say, dry_run)
                for month in months:
                    say(f"{did}made the partition {_partition_name(table, month)}")
                if moved:
                    say(f"{did}moved {moved:,} rows out of {table}_default")
                if not dry_run:
                    _drop_replaced(connection, table)
                if days := retention.get(table):
                    for name in _drop(connection, table, days, months, dry_run):
                        say(f"{did}dropped the partition {name}")
            except psycopg.errors.LockNotAvailable:
                busy.append(table)
        if dry_run:
            count = "SELECT count(*) FROM opensentry.idempotency_keys WHERE received_at < now() - %s::interval"
            [(keys,)] = connection.execute(count, (KEY_AGE,)).fetchall()
        else:
            keys = _forget(connection, say)
        if keys:
            say(f"{did}forgotten {keys:,} idempotency keys")
    if busy:
        raise CommandError(f"{', '.join(busy)}: in use by a long transaction: run this again when it has ended")


@contextmanager
def _alone(connection: Connection, say: Say) -> Iterator[None]:
    """Hold the lock that lets one maintenance or migration run at a time in a database."""
    told = False
    # PostgreSQL would wait too, but within a statement, which holds back VACUUM.
    while connection.execute("SELECT pg_try_advisory_lock(%s)", (migrations.LOCK,)).fetchone() != (True,):
        if not told:
            say("waiting for another maintenance or migration to end")
        told = True
        time.sleep(0.5)
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (migrations.LOCK,))


# The range of each partition but the default one; null where it is open.
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

_ENDED = f"""
    SELECT p.name
    FROM ({_PARTITIONS}) AS p
    WHERE p.upper <= now() - make_interval(days => %s)
    ORDER BY p.upper
"""


def _partition(connection: Connection, table: str, say: Say, dry_run: bool) -> tuple[list[datetime], int]:
    """Give every month that needs one a partition, with its rows; return those months, and how many rows moved."""
    count = SQL("SELECT date_trunc('month', received_at), count(*) FROM {} GROUP BY 1")
    rows = dict(connection.execute(count.format(_name(f"{table}_default"))).fetchall())
    months = sorted({*rows, *(month for (month,) in connection.execute(_MISSING, (AHEAD, table)))})
    moved = sum(rows.values())
    if months and not dry_run:
        _replace_default(connection, table, months, moved, say)
    return months, moved


def _replace_default(connection: Connection, table: str, months: list[datetime], total: int, say: Say) -> None:
    """Attach a partition for each month, with its rows, and an empty default partition.

    PostgreSQL attaches no partition while the default one holds rows of its range. So they move within one
    transaction, which nobody sees before its end; ingest goes on meanwhile, and waits only for the end of it.
    """
    default = f"{table}_default"
    block = 0

    def move() -> None:
        """Move the rows on the pages from `block` on, in bounded steps; most new rows come to the last of them."""
        nonlocal block
        moved, spoken = 0, time.monotonic()
        while block < (end := _pages(connection, default)):
            for month in months:
                moved += connection.execute(
                    SQL(
                        "WITH moved AS (DELETE FROM {} WHERE ctid >= %s::tid AND ctid < %s::tid "
                        "AND received_at >= %s AND received_at < %s::timestamptz + interval '1 month' RETURNING *) "
                        "INSERT INTO {} SELECT * FROM moved"
                    ).format(_name(default), _name(_partition_name(table, month))),
                    (f"({block},0)", f"({block + PAGES},0)", month, month),
                ).rowcount
            block += PAGES
            if time.monotonic() - spoken > PROGRESS:
                spoken = time.monotonic()
                say(f"moving {moved:,} of {total:,} rows out of {default}")
        # PostgreSQL adds pages by the dozen, and fills them in any order.
        block = max(0, end - PAGES)

    def swap() -> None:
        move()
        # A new default partition, because attaching to the old one would read it whole.
        connection.execute(SQL("ALTER TABLE {} DETACH PARTITION {}").format(_name(table), _name(default)))
        connection.execute(SQL("ALTER TABLE {} RENAME TO {}").format(_name(default), Identifier(f"{table}_replaced")))
        for month in months:
            connection.execute("SELECT opensentry.attach_partition(%s, %s)", (table, month))
        connection.execute(SQL("CREATE TABLE {} PARTITION OF {} DEFAULT").format(_name(default), _name(table)))

    with connection.transaction():
        _hold(connection, default)
        for month in months:
            connection.execute("SELECT opensentry.build_partition(%s, %s)", (table, month))
        _exclusively(connection, (table, default), swap, move)


def _drop_replaced(connection: Connection, table: str) -> None:
    """Drop the default partition that was replaced, with what came to it at the last moment put where it belongs."""
    replaced = f"{table}_replaced"
    if connection.execute("SELECT to_regclass(%s)", (f"opensentry.{replaced}",)).fetchone() == (None,):
        return
    with connection.transaction():
        connection.execute(SQL("LOCK TABLE {}").format(_name(replaced)))
        connection.execute(SQL("INSERT INTO {} SELECT * FROM {}").format(_name(table), _name(replaced)))
        connection.execute(SQL("DROP TABLE {}").format(_name(replaced)))


def _drop(connection: Connection, table: str, days: int, made: list[datetime], dry_run: bool) -> list[str]:
    """Drop the partitions whose month ended more than `days` days ago; return their names."""
    names = [name for (name,) in connection.execute(_ENDED, (table, days))]
    if dry_run:
        [(limit,)] = connection.execute("SELECT now() - make_interval(days => %s)", (days,)).fetchall()
        return sorted({*names, *(_partition_name(table, month) for month in made if _next(month) <= limit)})
    for name in names:
        with connection.transaction():
            _hold(connection, name)
            drop = SQL("DROP TABLE {}").format(_name(name))
            _exclusively(connection, (table, f"{table}_default", name), partial(connection.execute, drop))
    return names


def _forget(connection: Connection, say: Say) -> int:
    """Forget old idempotency keys, a bounded number in each transaction; return how many."""
    forgotten, spoken = 0, time.monotonic()
    while count := connection.execute(
        "DELETE FROM opensentry.idempotency_keys WHERE ctid = ANY (ARRAY("
        "SELECT ctid FROM opensentry.idempotency_keys WHERE received_at < now() - %s::interval "
        "ORDER BY received_at LIMIT %s))",
        (KEY_AGE, KEYS),
    ).rowcount:
        forgotten += count
        if time.monotonic() - spoken > PROGRESS:
            spoken = time.monotonic()
            say(f"forgetting idempotency keys: {forgotten:,} so far")
    return forgotten


def _hold(connection: Connection, name: str) -> None:
    """Keep VACUUM away from a table until the end of the transaction; an automatic one gives way within a second."""
    connection.execute("SET LOCAL lock_timeout = '10s'")
    connection.execute(SQL("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE").format(_name(name)))


def _exclusively(
    connection: Connection, names: Sequence[str], work: Callable[[], object], before: Callable[[], object] | None = None
) -> None:
    """Do a work that is short while nobody else uses some tables; do `before` ahead of each attempt to lock them.

    Raises:
        psycopg.errors.LockNotAvailable: someone used one all the time.
    """
    tables = SQL(", ").join(SQL("ONLY {}").format(_name(name)) for name in names)
    for pause in PAUSES:
        if before:
            before()
        try:
            with connection.transaction():
                connection.execute(SQL("SET LOCAL lock_timeout = {}").format(MOMENT))
                connection.execute(SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables))
                work()
            return
        except psycopg.errors.LockNotAvailable as error:
            busy = error
            time.sleep(pause)
    raise busy


def _pages(connection: Connection, name: str) -> int:
    """Return the size of a table in pages."""
    statement = "SELECT pg_relation_size(to_regclass(%s)) / current_setting('block_size')::integer"
    [(pages,)] = connection.execute(statement, (f"opensentry.{name}",)).fetchall()
    return int(pages)


def _name(name: str) -> Identifier:
    return Identifier("opensentry", name)


def _partition_name(table: str, month: datetime) -> str:
    return f"{table}_{month:%Y_%m}"


def _next(month: datetime) -> datetime:
    """Return the begin of the next month."""
    return (month + timedelta(days=31)).replace(day=1)
