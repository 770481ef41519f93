"""Issues: which there are, and their status.

An issue is named by its fingerprint, which is unique across projects. Rows of events that were stored before grouping
have none until `regroup`, and are not found here.
"""

from collections.abc import Sequence
from uuid import UUID

from opensentry_ingest.reading import (
    IN_PERIOD,
    NOT_FLATTENED,
    Buckets,
    Connection,
    Page,
    Period,
    Row,
    buckets,
    cursor_of,
    fetch,
    of_each_project,
    values_of,
)

SORTS = ("last_seen", "events", "users", "first_seen")
STATUSES = ("open", "resolved", "ignored", "regressed", "new")

_COUNTED = f"""
    {IN_PERIOD}
    AND (%(environment)s::text IS NULL OR environment = %(environment)s)
    AND (%(release)s::text IS NULL OR release = %(release)s)
"""

_WITHOUT_USERS = f"""
    SELECT project_id, fingerprint, count(*) AS events, NULL::bigint AS users, max(received_at) AS last_seen
    FROM opensentry.events
    WHERE {_COUNTED}
    GROUP BY project_id, fingerprint
"""

# Grouped twice, because count(DISTINCT) sorts, which takes several times as long.
_WITH_USERS = f"""
    SELECT
        project_id, fingerprint, sum(events)::bigint AS events, count("user") AS users, max(last_seen) AS last_seen
    FROM (
        SELECT
            project_id, fingerprint, opensentry.user_key("user") AS "user",
            count(*) AS events, max(received_at) AS last_seen
        FROM opensentry.events
        WHERE {_COUNTED}
        GROUP BY project_id, fingerprint, opensentry.user_key("user")
    ) AS of_user
    GROUP BY project_id, fingerprint
"""


# The left join keeps the projects for last: PostgreSQL would expect few rows of their join with those that are counted,
# and compare each with each issue.
def _list(counted: str, sort: str, kind: str) -> str:
    return f"""
        SELECT *
        FROM (
            SELECT
                i.project_id, p.name AS project, i.fingerprint, i.title, i.culprit, i.level, i.status,
                i.status = 'resolved' AND e.last_seen > i.resolved_at AS regressed,
                i.first_seen >= %(since)s AS new,
                e.events, e.users, i.first_seen, e.last_seen
            FROM ({counted}) AS e
            JOIN opensentry.issues AS i ON i.project_id = e.project_id AND i.fingerprint = e.fingerprint
                AND (%(project_id)s::uuid IS NULL OR i.project_id = %(project_id)s)
            LEFT JOIN opensentry.projects AS p ON p.id = i.project_id
        ) AS issue
        WHERE (%(level)s::text IS NULL OR level = %(level)s)
            AND (%(search)s::text IS NULL OR strpos(lower(title), lower(%(search)s)) > 0)
            AND CASE %(status)s::text
                WHEN 'new' THEN new
                WHEN 'regressed' THEN regressed
                WHEN 'open' THEN status = 'open' OR regressed
                WHEN 'resolved' THEN status = 'resolved' AND NOT regressed
                ELSE %(status)s IS NULL OR status = %(status)s
            END
            AND (%(value)s::{kind} IS NULL OR ({sort}, fingerprint) < (%(value)s, %(after)s::uuid))
        ORDER BY {sort} DESC, fingerprint DESC
        LIMIT %(limit)s
    """


_LISTS = {
    "last_seen": _list(_WITHOUT_USERS, "last_seen", "timestamptz"),
    "events": _list(_WITHOUT_USERS, "events", "bigint"),
    "users": _list(_WITH_USERS, "users", "bigint"),
    "first_seen": _list(_WITHOUT_USERS, "first_seen", "timestamptz"),
}

_USERS = f"""
    SELECT fingerprint, count("user") AS users
    FROM (
        SELECT DISTINCT fingerprint, opensentry.user_key("user") AS "user"
        FROM opensentry.events
        WHERE {_COUNTED} AND project_id = ANY(%(projects)s) AND fingerprint = ANY(%(fingerprints)s)
    ) AS of_issue
    GROUP BY fingerprint
"""


def issues(
    connection: Connection,
    period: Period,
    *,
    project_id: UUID | None = None,
    status: str | None = None,
    level: str | None = None,
    environment: str | None = None,
    release: str | None = None,
    search: str | None = None,
    sort: str = "last_seen",
    after: str | None = None,
    limit: int = 50,
) -> Page:
    """Return the issues that have events in a period, the greatest of `sort` first.

    Args:
        connection: a connection in autocommit mode.
        period: of which events count.
        project_id: of one project; default: of all.
        status: one of STATUSES. `new` is first seen in the period; `regressed` is seen after it was resolved, which
            counts as `open` and not as `resolved`.
        level: of the issue's first event.
        environment: count only events of this environment.
        release: count only events of this release.
        search: a part of the title, in any case.
        sort: one of SORTS.
        after: the cursor of the page before, which had the same filters.
        limit: how many rows, at most.

    Returns:
        Rows with project_id, project, fingerprint, title, culprit, level, status, regressed, new, events, users,
        first_seen and last_seen. Events, users and last_seen are those of the period.
    """
    value, fingerprint = values_of(after, 2)
    filters = _filters(period, project_id, environment, release)
    values = {
        **filters, "status": status, "level": level, "search": search,
        "value": value, "after": fingerprint, "limit": limit + 1,
    }  # fmt: skip
    planning = _BY_BLOCK if sort == "users" else _planning(environment, release)
    found = fetch(connection, _LISTS[sort], values, **planning)
    rows = found[:limit]
    if rows and sort != "users":
        counted = fetch(connection, _USERS, {**filters, **_of(rows)}, **_BY_BLOCK)
        users = {row["fingerprint"]: row["users"] for row in counted}
        for row in rows:
            row["users"] = users.get(row["fingerprint"], 0)
    return Page(rows, cursor_of(rows[-1][sort], rows[-1]["fingerprint"]) if len(found) > limit else None)


def sparklines(
    connection: Connection,
    rows: Sequence[Row],
    period: Period,
    *,
    environment: str | None = None,
    release: str | None = None,
    most: int = 30,
) -> tuple[Buckets, dict[UUID, list[int]]]:
    """Return how many events each issue has in each bucket of a period, by fingerprint.

    Args:
        connection: a connection in autocommit mode.
        rows: the issues, as `issues()` returns them.
        period: of which events count.
        environment: count only events of this environment.
        release: count only events of this release.
        most: how many buckets, at most.
    """
    divided = buckets(period, most)
    counts = {row["fingerprint"]: [0] * len(divided.starts) for row in rows}
    values = {**_filters(period, None, environment, release), **_of(rows)}
    values |= {"step": divided.step, "start": divided.starts[0]}
    for row in fetch(connection, _SPARKLINES, values, **_planning(environment, release)) if rows else ():
        for place, events in zip(row["places"], row["counts"], strict=True):
            counts[row["fingerprint"]][place] = events
    return divided, counts


# One row for each issue, with the places of its buckets, because a thousand times take Python longer than the query.
_SPARKLINES = f"""
    SELECT
        fingerprint,
        array_agg((extract(epoch FROM bucket - %(start)s) / extract(epoch FROM %(step)s::interval))::integer) AS places,
        array_agg(events) AS counts
    FROM (
        SELECT fingerprint, bucket, count(*) AS events
        FROM (
            SELECT fingerprint, date_bin(%(step)s, received_at, %(start)s) AS bucket, {NOT_FLATTENED}
            FROM opensentry.events
            WHERE {_COUNTED} AND project_id = ANY(%(projects)s) AND fingerprint = ANY(%(fingerprints)s)
        ) AS e
        GROUP BY fingerprint, bucket
    ) AS counted
    GROUP BY fingerprint
"""


def filter_values(connection: Connection, period: Period, *, project_id: UUID | None = None) -> dict[str, list[str]]:
    """Return the `environments`, `releases` and `levels` of the newest events of a period, the most frequent first."""
    newest, projects = of_each_project(connection, project_id, _NEWEST)
    rows = fetch(connection, _FILTER_VALUES.format(newest=newest), {**period._asdict(), **projects}) if projects else []
    return {
        f"{name}s": list(dict.fromkeys(row[name] for row in rows if row[name] is not None))
        for name in ("environment", "release", "level")
    }


# The primary key finds the newest. To look at all of them would take longer than the list that they filter. Releases
# are strangers' text too: whoever sends a new one with each event does not make the page grow.
_NEWEST = """
    SELECT environment, release, level
    FROM opensentry.events
    WHERE project_id = %(project)s AND received_at >= %(since)s AND received_at < %(until)s
    ORDER BY batch_id DESC
    LIMIT 2000
"""

_FILTER_VALUES = """
    SELECT environment, release, level
    FROM {newest} AS newest
    GROUP BY environment, release, level
    ORDER BY count(*) DESC, environment, release, level
    LIMIT 200
"""


def find(connection: Connection, prefix: str, limit: int = 10) -> list[Row]:
    """Return the issues whose fingerprint begins with `prefix`, at least 8 of its hexadecimal digits.

    Returns:
        At most `limit` rows with project_id, project, fingerprint, title and status; none if the prefix is not one.
    """
    digits = prefix.replace("-", "").lower()
    if not 8 <= len(digits) <= 32 or not all(digit in "0123456789abcdef" for digit in digits):
        return []
    values = {"low": digits.ljust(32, "0"), "high": digits.ljust(32, "f"), "limit": limit}
    return fetch(connection, _FIND, values)


# Every project is asked, because the primary key leads with it.
_FIND = """
    SELECT i.project_id, p.name AS project, i.fingerprint, i.title, i.status
    FROM opensentry.projects AS p
    JOIN opensentry.issues AS i ON i.project_id = p.id AND i.fingerprint BETWEEN %(low)s::uuid AND %(high)s::uuid
    ORDER BY i.fingerprint
    LIMIT %(limit)s
"""


def set_status(connection: Connection, project_id: UUID, fingerprint: UUID, status: str) -> bool:
    """Make an issue open, resolved or ignored; return whether there is such an issue.

    Raises:
        psycopg.errors.CheckViolation: it is another status.
    """
    values = {"project_id": project_id, "fingerprint": fingerprint, "status": status}
    statement = "SELECT opensentry.set_issue_status(%(project_id)s, %(fingerprint)s, %(status)s) AS found"
    return bool(fetch(connection, statement, values)[0]["found"])


# For what needs the rows of many issues, not only their index: PostgreSQL reads each block of the table once, in order.
# It takes that index to be in the order of the table, because its first column, the project, is, and would read a block
# again for each issue that has events there. And it takes the blocks of a period to be scattered, and would read the
# whole month for a week.
_BY_BLOCK = {"enable_indexscan": "off", "random_page_cost": "2"}


def _planning(environment: str | None, release: str | None) -> dict[str, str]:
    """Return the settings for a statement on many issues, whose index does not hold what it filters by."""
    return {} if environment is None and release is None else _BY_BLOCK


def _filters(
    period: Period, project_id: UUID | None = None, environment: str | None = None, release: str | None = None
) -> Row:
    return {**period._asdict(), "project_id": project_id, "environment": environment, "release": release}


def _of(rows: Sequence[Row]) -> Row:
    return {
        "projects": list({row["project_id"] for row in rows}),
        "fingerprints": [row["fingerprint"] for row in rows],
    }
