"""Regrouping: the fingerprints of stored events, recomputed by the rule of this version.

The rules that hold here: a step is one transaction, so it happens whole or not at all; what is cut short goes on at the
next run; ingest, which only inserts, waits for nothing; and no step runs beside one of `maintain`, which moves rows to
other partitions, where an UPDATE beside it would miss them.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from opensentry_ingest import migrations

Connection = psycopg.Connection[Any]

STEP_EVENTS = 2_000
"""The events that one step looks at."""

PROGRESS_SECONDS = 5.0
"""The time between two reports of progress."""

# Steps go from old to new. A new issue takes over the status of the issue that its oldest event belonged to; so does
# one that ingest made just now, unless somebody has changed its status since. `extra` has the fingerprint of a client
# that was ahead of the schema.
_STEP = """
    WITH step AS MATERIALIZED (
        SELECT
            batch_id, position, received_at, level, exception_type, exception_value, frames, release, fingerprint,
            opensentry.fingerprint(
                project_id, exception_type, exception_value, frames,
                coalesce(
                    client_fingerprint,
                    CASE jsonb_typeof(extra -> 'fingerprint') WHEN 'array' THEN extra -> 'fingerprint' END
                )
            ) AS new_fingerprint
        FROM opensentry.events
        WHERE project_id = %(project_id)s AND (batch_id, position) > (%(batch_id)s, %(position)s)
        ORDER BY batch_id, position
        LIMIT %(limit)s
    ), moved AS (
        SELECT * FROM step WHERE fingerprint IS DISTINCT FROM new_fingerprint
    ), made AS (
        INSERT INTO opensentry.issues AS i (
            project_id, fingerprint, title, culprit, level, status, first_seen, resolved_at, first_release
        )
        SELECT DISTINCT ON (m.new_fingerprint)
            %(project_id)s, m.new_fingerprint, opensentry.issue_title(m.exception_type, m.exception_value),
            opensentry.culprit(m.frames), m.level, coalesce(o.status, 'open'), m.received_at, o.resolved_at, m.release
        FROM moved AS m
        LEFT JOIN opensentry.issues AS o ON o.project_id = %(project_id)s AND o.fingerprint = m.fingerprint
        ORDER BY m.new_fingerprint, m.received_at, m.batch_id, m.position
        ON CONFLICT (project_id, fingerprint) DO UPDATE SET
            status = CASE i.status WHEN 'open' THEN excluded.status ELSE i.status END,
            resolved_at = CASE i.status WHEN 'open' THEN excluded.resolved_at ELSE i.resolved_at END,
            first_seen = excluded.first_seen,
            first_release = excluded.first_release
        WHERE excluded.first_seen < i.first_seen
    ), updated AS (
        UPDATE opensentry.events AS e
        SET fingerprint = m.new_fingerprint
        FROM moved AS m
        WHERE e.project_id = %(project_id)s AND e.batch_id = m.batch_id AND e.position = m.position
            AND e.received_at = m.received_at
        RETURNING 1
    )
    SELECT
        (SELECT count(*) FROM step), (SELECT count(*) FROM updated), last.batch_id, last.position
    FROM (SELECT batch_id, position FROM step ORDER BY batch_id DESC, position DESC LIMIT 1) AS last
"""


def regroup(connection: Connection, say: Callable[[str], object]) -> None:
    """Recompute the fingerprint of every event, in steps. It may run at any time, and again after it was cut short.

    Args:
        connection: a connection in autocommit mode, of the role that owns the tables.
        say: is called with each line about what was done.
    """
    on_wait = partial(say, "waiting for a `maintain` or `migrate` to finish")
    seen = moved = 0
    reported = time.monotonic()
    for (project_id,) in connection.execute("SELECT id FROM opensentry.projects ORDER BY created_at, id").fetchall():
        place: dict[str, Any] = {"batch_id": "00000000-0000-0000-0000-000000000000", "position": -1}
        while True:
            with migrations.exclusive_transaction(connection, on_wait):
                row = connection.execute(_STEP, {"project_id": project_id, "limit": STEP_EVENTS, **place}).fetchone()
            if not row:
                break
            seen, moved = seen + row[0], moved + row[1]
            place = {"batch_id": row[2], "position": row[3]}
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                say(f"regrouped {moved:,} of the first {seen:,} events")
    if moved:
        say(f"regrouped {moved:,} of {seen:,} events")
