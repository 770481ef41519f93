"""Every query that shows what came in, for the commands and for the viewer; a module for each kind of thing.

The rules that hold here: a query filters on `received_at`, which prunes partitions, and not on `timestamp`, which is
the client's clock; none takes longer the more history there is, if it shows a period; and every value is a parameter.
A value that PostgreSQL cannot take, such as a cursor that somebody changed, raises psycopg.DataError.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.abc import Buffer
from psycopg.rows import dict_row
from psycopg.types.datetime import TimestamptzLoader

Connection = psycopg.Connection[Any]
Row = dict[str, Any]


class Period(NamedTuple):
    """A time range: from `since`, up to but not including `until`."""

    since: datetime
    until: datetime


class Buckets(NamedTuple):
    """Equal parts of a period. The first may begin before the period, and the last may end after it."""

    step: timedelta
    starts: list[datetime]


class Page(NamedTuple):
    """A part of a list that can grow. `after` is the cursor of the part that follows; None at the end."""

    rows: list[Row]
    after: str | None


ORIGIN = datetime(2000, 1, 3, tzinfo=timezone.utc)
"""A Monday: buckets of every step are aligned to it, so that those of a week begin on Mondays."""

IN_PERIOD = """
    received_at >= %(since)s AND received_at < %(until)s
    AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
"""
"""The SQL condition on the rows of a period, and of a project if one is given: a filter that is null costs nothing,
because PostgreSQL plans with the values."""

NOT_FLATTENED = "clock_timestamp()"
"""A column that keeps PostgreSQL from flattening a subquery. Otherwise it takes the parts that `date_bin` makes of a
period, or `percentiles.part` of durations, to be as many as there are values, and sorts all rows to group them, which
takes twice as long."""

SAMPLED_PROJECTS = 100
"""How many projects a sample of what came in is taken from, if it is of all."""

_STEPS = [timedelta(minutes=minutes) for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10080)]


def buckets(period: Period, most: int = 60) -> Buckets:
    """Divide a period into at most `most` buckets, aligned in UTC. A week is the largest, so years have more."""
    step = next((step for step in _STEPS if _first_and_number(period, step)[1] <= most), _STEPS[-1])
    return divide(period, step)


def divide(period: Period, step: timedelta) -> Buckets:
    """Divide a period into buckets of one length, aligned in UTC."""
    start, number = _first_and_number(period, step)
    return Buckets(step, [start + step * index for index in range(number)])


def _first_and_number(period: Period, step: timedelta) -> tuple[datetime, int]:
    """Return when the first bucket begins, and how many there are: a period of years has millions of minutes."""
    start = ORIGIN + (period.since - ORIGIN) // step * step
    return start, max(1, -((start - period.until) // step))


class _UTCLoader(TimestamptzLoader):
    """Returns times in UTC, whatever the zone of the session.

    The year 10000 is in reach of a client that sends the last hours of 9999 with an offset; Python's last moment stands
    for it, and its first for those before the year 1.
    """

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data).astimezone(timezone.utc)
        except (psycopg.DataError, OverflowError):
            first = b"BC" in bytes(data) or bytes(data).startswith(b"0001")
            return (datetime.min if first else datetime.max).replace(tzinfo=timezone.utc)


def fetch(connection: Connection, statement: str, values: Mapping[str, Any], **settings: str) -> list[Row]:
    """Execute a statement; return its rows as dictionaries, with times in UTC.

    Args:
        connection: where it is executed.
        statement: in which the values are named, as in `%(since)s`.
        values: by name.
        settings: of PostgreSQL, with which it plans this statement.
    """
    if settings:
        with connection.transaction():
            # Several statements at once, which PostgreSQL does not prepare.
            changes = "; ".join(f"SET LOCAL {name} = {value}" for name, value in settings.items())
            connection.execute(changes, prepare=False)
            rows = fetch(connection, statement, values)
            connection.execute("; ".join(f"SET LOCAL {name} TO DEFAULT" for name in settings), prepare=False)
        return rows
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.adapters.register_loader("timestamptz", _UTCLoader)
        return cursor.execute(statement, values).fetchall()


def of_each_project(connection: Connection, project_id: UUID | None, statement: str) -> tuple[str, Row]:
    """Return a subquery with the rows of a query on each project, and its values.

    A lateral join with the projects would do the same, but Citus has none with a limit.

    Args:
        connection: where the projects are stored.
        project_id: the project; None: the SAMPLED_PROJECTS newest.
        statement: the query on one project, with `%(project)s`.
    """
    projects = [project_id]
    if project_id is None:
        newest = "SELECT id FROM opensentry.projects ORDER BY created_at DESC, id LIMIT %(limit)s"
        projects = [row["id"] for row in fetch(connection, newest, {"limit": SAMPLED_PROJECTS})]
    values = {f"project_{number}": project for number, project in enumerate(projects)}
    parts = [f"({statement.replace('%(project)s', f'%({name})s')})" for name in values]
    return "(" + " UNION ALL ".join(parts) + ")", values


def cursor_of(value: object, *rest: object) -> str:
    """Return the cursor that names a row: its sort value and what else makes it unique."""
    return "~".join(item.isoformat() if isinstance(item, datetime) else str(item) for item in (value, *rest))


def values_of(cursor: str | None, count: int) -> list[str | None]:
    """Take a cursor of `count` values apart; all are None for the first page."""
    if cursor is None:
        return [None] * count
    values = cursor.split("~")
    if len(values) != count:
        raise psycopg.DataError("invalid cursor")
    return [*values]
