"""One issue: its numbers, its events over time, their tags and users, and the events one by one."""

from typing import Any, NamedTuple
from uuid import UUID

from opensentry_ingest.reading import (
    ORIGIN,
    Buckets,
    Connection,
    Page,
    Period,
    Row,
    buckets,
    cursor_of,
    fetch,
    values_of,
)

TAGGED_EVENTS = 10_000
"""The newest events of an issue whose tags are counted: a bound on the time that it takes."""


class Chart(NamedTuple):
    """The events of an issue over time: for each release the counts by bucket; None are the releases beside the top."""

    buckets: Buckets
    releases: dict[str | None, list[int]]


class Tags(NamedTuple):
    """The tags of an issue: each has `key`, `events` and `values`, a list of `value` and `events`.

    `events` is the number of events that they were counted in, the newest of the period.
    """

    events: int
    tags: list[Row]


class Event(NamedTuple):
    """One event, with (batch_id, position) of the events that came before and after it.

    `row` has all columns; `json` is the row as PostgreSQL writes it, so that no number is rounded.
    """

    row: Row
    json: str
    previous: tuple[UUID, int] | None
    next: tuple[UUID, int] | None


def summary(connection: Connection, fingerprint: UUID, period: Period) -> Row | None:
    """Return an issue; None if there is no such issue.

    Returns:
        The members of a row of `issues()`, of which events and users are those of the period, and first_seen and
        last_seen over all that is stored (last_seen is None if no event is stored any more); and resolved_at,
        first_release, and releases: those of the period, the most frequent first, at most 20.
    """
    rows = fetch(connection, _ISSUE, {"fingerprint": fingerprint})
    if not rows:
        return None
    (issue,) = rows
    (seen,) = fetch(connection, _SEEN, _one(period, issue["project_id"], fingerprint))
    resolved = issue["status"] == "resolved" and seen["last_seen"] is not None
    return {
        **issue,
        **seen,
        "regressed": resolved and seen["last_seen"] > issue["resolved_at"],
        "new": issue["first_seen"] >= period.since,
    }


_ISSUE = """
    SELECT
        i.project_id, p.name AS project, i.fingerprint, i.title, i.culprit, i.level, i.status, i.first_seen,
        i.resolved_at, i.first_release
    FROM opensentry.projects AS p
    JOIN opensentry.issues AS i ON i.project_id = p.id AND i.fingerprint = %(fingerprint)s
"""

_SEEN = """
    WITH counted AS MATERIALIZED (
        SELECT release, opensentry.user_key("user") AS "user", count(*) AS events
        FROM opensentry.events
        WHERE project_id = %(project_id)s AND fingerprint = %(fingerprint)s
            AND received_at >= %(since)s AND received_at < %(until)s
        GROUP BY release, opensentry.user_key("user")
    )
    SELECT
        (SELECT coalesce(sum(events), 0)::bigint FROM counted) AS events,
        (SELECT count(*) FROM (SELECT DISTINCT "user" FROM counted WHERE "user" IS NOT NULL) AS u) AS users,
        (
            SELECT received_at
            FROM opensentry.events
            WHERE project_id = %(project_id)s AND fingerprint = %(fingerprint)s
            ORDER BY received_at DESC
            LIMIT 1
        ) AS last_seen,
        ARRAY(
            SELECT release FROM counted WHERE release IS NOT NULL
            GROUP BY release ORDER BY sum(events) DESC, release DESC LIMIT 20
        ) AS releases
"""


def chart(connection: Connection, project_id: UUID, fingerprint: UUID, period: Period, top: int = 5) -> Chart:
    """Return the events of an issue over a period by release: the `top` most frequent, and all others together.

    Events without a release are among the others.
    """
    divided = buckets(period)
    values = _one(period, project_id, fingerprint, step=divided.step, origin=ORIGIN, limit=top)
    counts: dict[str | None, list[int]] = {}
    for row in fetch(connection, _CHART, values):
        series = counts.setdefault(row["release"], [0] * len(divided.starts))
        series[(row["bucket"] - divided.starts[0]) // divided.step] = row["events"]
    return Chart(divided, dict(sorted(counts.items(), key=lambda item: (item[0] is None, -sum(item[1])))))


_OF_ISSUE = """
    project_id = %(project_id)s AND fingerprint = %(fingerprint)s
    AND received_at >= %(since)s AND received_at < %(until)s
"""

_CHART = f"""
    WITH counted AS MATERIALIZED (
        SELECT date_bin(%(step)s, received_at, %(origin)s) AS bucket, release, count(*) AS events
        FROM opensentry.events
        WHERE {_OF_ISSUE}
        GROUP BY bucket, release
    )
    SELECT bucket, top.release, sum(events)::bigint AS events
    FROM counted
    LEFT JOIN (
        SELECT release
        FROM counted
        WHERE release IS NOT NULL
        GROUP BY release
        ORDER BY sum(events) DESC, release
        LIMIT %(limit)s
    ) AS top USING (release)
    GROUP BY bucket, top.release
"""


def tags(
    connection: Connection, project_id: UUID, fingerprint: UUID, period: Period, *, keys: int = 20, top: int = 5
) -> Tags:
    """Return the `keys` most frequent tags of an issue, each with its `top` values."""
    values = _one(period, project_id, fingerprint, sample=TAGGED_EVENTS, keys=keys, top=top)
    rows = fetch(connection, _TAGS, values)
    counted: dict[str, Row] = {}
    for row in rows:
        if row["key"] is not None:
            tag = counted.setdefault(row["key"], {"key": row["key"], "events": row["of_key"], "values": []})
            tag["values"].append({"value": row["value"], "events": row["events"]})
    return Tags(rows[0]["sampled"], list(counted.values()))


_TAGS = f"""
    WITH newest AS MATERIALIZED (
        SELECT tags
        FROM opensentry.events
        WHERE {_OF_ISSUE}
        ORDER BY received_at DESC
        LIMIT %(sample)s
    ), ranked AS (
        SELECT
            key, value, count(*) AS events, sum(count(*)) OVER (PARTITION BY key)::bigint AS of_key,
            row_number() OVER (PARTITION BY key ORDER BY count(*) DESC, value) AS place
        FROM newest, jsonb_each_text(tags)
        GROUP BY key, value
    ), numbered AS (
        SELECT *, dense_rank() OVER (ORDER BY of_key DESC, key) AS key_place
        FROM ranked
        WHERE place <= %(top)s
    )
    SELECT sampled, key, value, events, of_key
    FROM (SELECT count(*) AS sampled FROM newest) AS of_newest
    LEFT JOIN numbered ON key_place <= %(keys)s
    ORDER BY key_place, place
"""


def users(connection: Connection, project_id: UUID, fingerprint: UUID, period: Period, *, limit: int = 10) -> list[Row]:
    """Return who had an issue most often: rows with user (its id, email, username or ip_address), events, last_seen."""
    return fetch(connection, _TOP_USERS, _one(period, project_id, fingerprint, limit=limit))


_TOP_USERS = f"""
    SELECT "key" AS "user", events, last_seen
    FROM (
        SELECT opensentry.user_key("user") AS "key", count(*) AS events, max(received_at) AS last_seen
        FROM opensentry.events
        WHERE {_OF_ISSUE}
        GROUP BY "key"
    ) AS by_user
    WHERE "key" IS NOT NULL
    ORDER BY events DESC, "key"
    LIMIT %(limit)s
"""


def event(
    connection: Connection,
    project_id: UUID,
    fingerprint: UUID,
    batch_id: UUID | None = None,
    position: int | None = None,
) -> Event | None:
    """Return an event of an issue, by default the latest; None if there is none."""
    values: dict[str, Any] = {"project_id": project_id, "fingerprint": fingerprint}
    values |= {"batch_id": batch_id, "position": position}
    rows = fetch(connection, _LATEST if batch_id is None else _EVENT, values)
    if not rows:
        return None
    values |= {name: rows[0][name] for name in ("received_at", "batch_id", "position")}
    as_json = rows[0].pop("json")
    beside = {row["side"]: (row["batch_id"], row["position"]) for row in fetch(connection, _BESIDE, values)}
    return Event(rows[0], as_json, beside.get("previous"), beside.get("next"))


_LATEST = """
    SELECT *, row_to_json(e)::text AS json
    FROM opensentry.events AS e
    WHERE project_id = %(project_id)s AND fingerprint = %(fingerprint)s
    ORDER BY received_at DESC, batch_id DESC, position DESC
    LIMIT 1
"""

_EVENT = """
    SELECT *, row_to_json(e)::text AS json
    FROM opensentry.events AS e
    WHERE project_id = %(project_id)s AND batch_id = %(batch_id)s AND position = %(position)s
        AND fingerprint = %(fingerprint)s
"""


# The bound on received_at alone is what prunes partitions and finds the place in the index.
def _beside(side: str, comparison: str, order: str) -> str:
    return f"""
        SELECT '{side}' AS side, batch_id, position
        FROM (
            SELECT batch_id, position
            FROM opensentry.events
            WHERE project_id = %(project_id)s AND fingerprint = %(fingerprint)s
                AND received_at {comparison}= %(received_at)s
                AND (received_at, batch_id, position) {comparison} (%(received_at)s, %(batch_id)s, %(position)s)
            ORDER BY received_at {order}, batch_id {order}, position {order}
            LIMIT 1
        ) AS {side}
    """


_BESIDE = _beside("previous", "<", "DESC") + " UNION ALL " + _beside("next", ">", "ASC")


def events(
    connection: Connection,
    project_id: UUID,
    fingerprint: UUID,
    period: Period,
    *,
    after: str | None = None,
    limit: int = 50,
) -> Page:
    """Return the events of an issue in a period, the latest first.

    Returns:
        Rows with batch_id, position, received_at, timestamp, level, message, user, environment, release and trace_id.
    """
    received_at, batch_id, position = values_of(after, 3)
    values = _one(
        period, project_id, fingerprint,
        received_at=received_at, batch_id=batch_id, position=position, limit=limit + 1,
    )  # fmt: skip
    found = fetch(connection, _EVENTS, values)
    rows = found[:limit]
    last = [rows[-1][name] for name in ("received_at", "batch_id", "position")] if len(found) > limit else None
    return Page(rows, cursor_of(*last) if last else None)


_EVENTS = f"""
    SELECT
        batch_id, position, received_at, timestamp, level, left(exception_value, 255) AS message,
        opensentry.user_key("user") AS "user", environment, release, trace_id
    FROM opensentry.events
    WHERE {_OF_ISSUE}
        AND (%(received_at)s::timestamptz IS NULL OR received_at <= %(received_at)s::timestamptz)
        AND (
            %(received_at)s::timestamptz IS NULL
            OR (received_at, batch_id, position)
                < (%(received_at)s::timestamptz, %(batch_id)s::uuid, %(position)s::integer)
        )
    ORDER BY received_at DESC, batch_id DESC, position DESC
    LIMIT %(limit)s
"""


def _one(period: Period, project_id: UUID, fingerprint: UUID, **values: Any) -> Row:
    return {**period._asdict(), "project_id": project_id, "fingerprint": fingerprint, **values}
