-- The users of issue_totals are found by hashing, because count(DISTINCT) sorts every value. Sorting the releases, of
-- which there are few, was not slower.
--
-- Both are subqueries of their own, because they take several times as long as the rest: a query that does not name
-- them does not compute them.
CREATE OR REPLACE FUNCTION opensentry.issue_totals(since timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS TABLE (
    project_id uuid, project text, fingerprint uuid, title text, culprit text, level text, status text,
    regressed boolean, events bigint, users bigint, first_seen timestamptz, last_seen timestamptz,
    resolved_at timestamptz, first_release text, releases text[]
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        i.project_id,
        p.name,
        i.fingerprint,
        i.title,
        i.culprit,
        i.level,
        i.status,
        i.status = 'resolved' AND e.last_seen > i.resolved_at,
        e.events,
        (
            SELECT count(of_issue."key")
            FROM (
                SELECT DISTINCT opensentry.user_key(u."user") AS "key"
                FROM opensentry.events AS u
                WHERE u.project_id = i.project_id AND u.fingerprint = i.fingerprint
                    AND u.received_at >= since AND u.received_at < until
            ) AS of_issue
        ),
        i.first_seen,
        e.last_seen,
        i.resolved_at,
        i.first_release,
        (
            SELECT array_agg(DISTINCT r.release)
            FROM opensentry.events AS r
            WHERE r.project_id = i.project_id AND r.fingerprint = i.fingerprint AND r.release IS NOT NULL
                AND r.received_at >= since AND r.received_at < until
        )
    FROM opensentry.issues AS i
    JOIN opensentry.projects AS p ON p.id = i.project_id
    JOIN (
        SELECT project_id, fingerprint, count(*) AS events, max(received_at) AS last_seen
        FROM opensentry.events
        WHERE received_at >= since AND received_at < until
        GROUP BY project_id, fingerprint
    ) AS e ON e.project_id = i.project_id AND e.fingerprint = i.fingerprint
$$;
