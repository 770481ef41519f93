-- The views that people build on, and the role that reads them. Their columns are public: a later version may add some
-- at the end, and renames or removes none.

-- Who a user is: the first of these members that the client sent.
CREATE FUNCTION opensentry.user_key("user" jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT coalesce("user" ->> 'id', "user" ->> 'email', "user" ->> 'username', "user" ->> 'ip_address')
$$;

REVOKE ALL ON FUNCTION opensentry.user_key FROM PUBLIC;

-- Each view but trace_items is a function of a period too: opensentry.issue_totals(now() - interval '7 days'). The
-- function reads only that period; a condition on a column of the view would read everything. PostgreSQL inlines the
-- function, so that conditions on the project or the name still reach the tables.

-- Users and releases are subqueries of their own, because they take several times as long as the rest: a query that
-- does not name them does not compute them.
CREATE FUNCTION opensentry.issue_totals(since timestamptz, until timestamptz DEFAULT 'infinity')
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
            SELECT count(DISTINCT opensentry.user_key(u."user"))
            FROM opensentry.events AS u
            WHERE u.project_id = i.project_id AND u.fingerprint = i.fingerprint
                AND u.received_at >= since AND u.received_at < until
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

-- The groups below begin with the time, which is compared fastest when they are sorted.
CREATE FUNCTION opensentry.issue_hours(since timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS TABLE (
    project_id uuid, project text, fingerprint uuid, title text, status text, hour timestamptz, events bigint
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT e.project_id, p.name, e.fingerprint, i.title, i.status, e.hour, e.events
    FROM (
        SELECT
            date_bin('1 hour', received_at, '2000-01-01 00:00Z') AS hour, fingerprint, project_id, count(*) AS events
        FROM opensentry.events
        WHERE received_at >= since AND received_at < until
        GROUP BY 1, 2, 3
    ) AS e
    JOIN opensentry.issues AS i ON i.project_id = e.project_id AND i.fingerprint = e.fingerprint
    JOIN opensentry.projects AS p ON p.id = e.project_id
$$;

CREATE FUNCTION opensentry.transaction_hours(since timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS TABLE (
    project_id uuid, project text, name text, hour timestamptz, count bigint, failed bigint,
    failure_rate double precision, total_ms numeric, p50_ms bigint, p95_ms bigint, p99_ms bigint
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        t.project_id,
        p.name,
        t.name,
        t.hour,
        t.count,
        t.failed,
        t.failed::double precision / t.count,
        t.total_ms,
        t.percentiles_ms[1],
        t.percentiles_ms[2],
        t.percentiles_ms[3]
    FROM (
        SELECT
            date_bin('1 hour', received_at, '2000-01-01 00:00Z') AS hour,
            name,
            project_id,
            count(*) AS count,
            count(*) FILTER (WHERE status = 'error') AS failed,
            sum(duration_ms) AS total_ms,
            percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY duration_ms) AS percentiles_ms
        FROM opensentry.transactions
        WHERE received_at >= since AND received_at < until
        GROUP BY 1, 2, 3
    ) AS t
    JOIN opensentry.projects AS p ON p.id = t.project_id
$$;

CREATE FUNCTION opensentry.ai_generation_days(since timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS TABLE (
    project_id uuid, project text, day timestamptz, provider text, model text, calls bigint, errors bigint,
    input_tokens numeric, cached_input_tokens numeric, cache_write_tokens numeric, output_tokens numeric,
    total_tokens numeric, cache_hit_rate double precision, cost_usd numeric, calls_without_cost bigint,
    p50_latency_ms bigint, p95_latency_ms bigint, p50_time_to_first_token_ms bigint, p95_time_to_first_token_ms bigint
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        a.project_id,
        p.name,
        a.day,
        a.provider,
        a.model,
        a.calls,
        a.errors,
        a.input_tokens,
        a.cached_input_tokens,
        a.cache_write_tokens,
        a.output_tokens,
        a.total_tokens,
        (a.cached_input_tokens / nullif(a.input_tokens, 0))::double precision,
        a.cost_usd,
        a.calls_without_cost,
        a.latency_ms[1],
        a.latency_ms[2],
        a.time_to_first_token_ms[1],
        a.time_to_first_token_ms[2]
    FROM (
        SELECT
            date_bin('1 day', received_at, '2000-01-01 00:00Z') AS day,
            model,
            provider,
            project_id,
            count(*) AS calls,
            count(*) FILTER (WHERE status = 'error') AS errors,
            sum(input_tokens) AS input_tokens,
            sum(cached_input_tokens) AS cached_input_tokens,
            sum(cache_write_tokens) AS cache_write_tokens,
            sum(output_tokens) AS output_tokens,
            sum(total_tokens) AS total_tokens,
            sum(coalesce(total_cost_usd, input_cost_usd + output_cost_usd)) AS cost_usd,
            count(*) FILTER (WHERE coalesce(total_cost_usd, input_cost_usd + output_cost_usd) IS NULL)
                AS calls_without_cost,
            percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY latency_ms) AS latency_ms,
            percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY time_to_first_token_ms) AS time_to_first_token_ms
        FROM opensentry.ai_generations
        WHERE received_at >= since AND received_at < until
        GROUP BY 1, 2, 3, 4
    ) AS a
    JOIN opensentry.projects AS p ON p.id = a.project_id
$$;

REVOKE ALL ON FUNCTION opensentry.issue_totals FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.issue_hours FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.transaction_hours FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.ai_generation_days FROM PUBLIC;

CREATE VIEW opensentry.issue_totals AS SELECT * FROM opensentry.issue_totals('-infinity');
CREATE VIEW opensentry.issue_hours AS SELECT * FROM opensentry.issue_hours('-infinity');
CREATE VIEW opensentry.transaction_hours AS SELECT * FROM opensentry.transaction_hours('-infinity');
CREATE VIEW opensentry.ai_generation_days AS SELECT * FROM opensentry.ai_generation_days('-infinity');

-- A timestamp is when a thing was reported, which is its end. A client may send any duration, so the start is bounded:
-- it is never more than a year before. The condition on the length is that of the indexes.
CREATE VIEW opensentry.trace_items AS
SELECT
    project_id, trace_id, 'error' AS kind, batch_id, position, NULL::integer AS span_index, received_at,
    timestamp AS started_at, NULL::bigint AS duration_ms, level AS status,
    span_id, NULL AS parent_span_id, NULL AS op,
    opensentry.issue_title(exception_type, exception_value) AS name
FROM opensentry.events
WHERE length(trace_id) <= 200
UNION ALL
SELECT
    project_id, trace_id, 'transaction', batch_id, position, NULL, received_at,
    timestamp - least(duration_ms, 31536000000) * interval '1 millisecond', duration_ms, status,
    span_id, parent_span_id, op, name
FROM opensentry.transactions
WHERE length(trace_id) <= 200
UNION ALL
SELECT
    t.project_id, t.trace_id, 'span', s.batch_id, s.position, s.span_index, s.received_at,
    t.timestamp
        + (least(s.start_ms, 31536000000) - least(t.duration_ms, 31536000000)) * interval '1 millisecond', s.duration_ms, s.status,
    s.span_id, s.parent_span_id, s.op, coalesce(s.description, s.op)
FROM opensentry.transactions AS t
JOIN opensentry.spans AS s USING (project_id, batch_id, position, received_at)
WHERE length(t.trace_id) <= 200
UNION ALL
SELECT
    project_id, trace_id, 'ai_generation', batch_id, position, NULL, received_at,
    timestamp - least(coalesce(latency_ms, 0), 31536000000) * interval '1 millisecond', latency_ms, status,
    span_id, NULL, provider, model
FROM opensentry.ai_generations
WHERE length(trace_id) <= 200;

COMMENT ON VIEW opensentry.issue_totals IS 'One row for each issue that has events, with numbers over all that is stored.';
COMMENT ON COLUMN opensentry.issue_totals.project_id IS 'The id of the project.';
COMMENT ON COLUMN opensentry.issue_totals.project IS 'The name of the project.';
COMMENT ON COLUMN opensentry.issue_totals.fingerprint IS 'The id of the issue: events with the same fingerprint are one issue.';
COMMENT ON COLUMN opensentry.issue_totals.title IS 'The type and the first line of the message of the first event.';
COMMENT ON COLUMN opensentry.issue_totals.culprit IS 'The function and file that raised the first event; null without a stack trace.';
COMMENT ON COLUMN opensentry.issue_totals.level IS 'The level of the first event: fatal, error, warning, info or debug.';
COMMENT ON COLUMN opensentry.issue_totals.status IS 'What people said of it: open, resolved or ignored.';
COMMENT ON COLUMN opensentry.issue_totals.regressed IS 'Whether it was seen after it was resolved.';
COMMENT ON COLUMN opensentry.issue_totals.events IS 'How many events it has.';
COMMENT ON COLUMN opensentry.issue_totals.users IS 'How many different users had it, by id, email, username or ip_address, whichever comes first.';
COMMENT ON COLUMN opensentry.issue_totals.first_seen IS 'When its first event was received.';
COMMENT ON COLUMN opensentry.issue_totals.last_seen IS 'When its last event was received.';
COMMENT ON COLUMN opensentry.issue_totals.resolved_at IS 'When it was resolved; null if its status is not resolved.';
COMMENT ON COLUMN opensentry.issue_totals.first_release IS 'The release of its first event.';
COMMENT ON COLUMN opensentry.issue_totals.releases IS 'All releases in which it was seen.';

COMMENT ON VIEW opensentry.issue_hours IS 'One row for each issue and each hour in which it was seen.';
COMMENT ON COLUMN opensentry.issue_hours.project_id IS 'The id of the project.';
COMMENT ON COLUMN opensentry.issue_hours.project IS 'The name of the project.';
COMMENT ON COLUMN opensentry.issue_hours.fingerprint IS 'The id of the issue.';
COMMENT ON COLUMN opensentry.issue_hours.title IS 'The type and the first line of the message of its first event.';
COMMENT ON COLUMN opensentry.issue_hours.status IS 'What people said of it: open, resolved or ignored.';
COMMENT ON COLUMN opensentry.issue_hours.hour IS 'The beginning of the hour (UTC) in which the events were received.';
COMMENT ON COLUMN opensentry.issue_hours.events IS 'How many events were received in the hour.';

COMMENT ON VIEW opensentry.transaction_hours IS 'One row for each name of a transaction and each hour in which it was received.';
COMMENT ON COLUMN opensentry.transaction_hours.project_id IS 'The id of the project.';
COMMENT ON COLUMN opensentry.transaction_hours.project IS 'The name of the project.';
COMMENT ON COLUMN opensentry.transaction_hours.name IS 'The name of the transaction, such as a route.';
COMMENT ON COLUMN opensentry.transaction_hours.hour IS 'The beginning of the hour (UTC) in which the transactions were received.';
COMMENT ON COLUMN opensentry.transaction_hours.count IS 'How many transactions were received.';
COMMENT ON COLUMN opensentry.transaction_hours.failed IS 'How many of them have the status error.';
COMMENT ON COLUMN opensentry.transaction_hours.failure_rate IS 'The share of them that have the status error, from 0 to 1.';
COMMENT ON COLUMN opensentry.transaction_hours.total_ms IS 'How long all of them took together, in milliseconds.';
COMMENT ON COLUMN opensentry.transaction_hours.p50_ms IS 'The median of their durations, in milliseconds.';
COMMENT ON COLUMN opensentry.transaction_hours.p95_ms IS 'The 95th percentile of their durations, in milliseconds.';
COMMENT ON COLUMN opensentry.transaction_hours.p99_ms IS 'The 99th percentile of their durations, in milliseconds.';

COMMENT ON VIEW opensentry.ai_generation_days IS 'One row for each day, provider and model of AI generations.';
COMMENT ON COLUMN opensentry.ai_generation_days.project_id IS 'The id of the project.';
COMMENT ON COLUMN opensentry.ai_generation_days.project IS 'The name of the project.';
COMMENT ON COLUMN opensentry.ai_generation_days.day IS 'The beginning of the day (UTC) on which the calls were received.';
COMMENT ON COLUMN opensentry.ai_generation_days.provider IS 'Who served the model.';
COMMENT ON COLUMN opensentry.ai_generation_days.model IS 'The model.';
COMMENT ON COLUMN opensentry.ai_generation_days.calls IS 'How many calls were received.';
COMMENT ON COLUMN opensentry.ai_generation_days.errors IS 'How many of them have the status error.';
COMMENT ON COLUMN opensentry.ai_generation_days.input_tokens IS 'Input tokens of all calls, those from and for the cache included.';
COMMENT ON COLUMN opensentry.ai_generation_days.cached_input_tokens IS 'Input tokens that were read from the cache; null if no client said.';
COMMENT ON COLUMN opensentry.ai_generation_days.cache_write_tokens IS 'Input tokens that were written to the cache; null if no client said.';
COMMENT ON COLUMN opensentry.ai_generation_days.output_tokens IS 'Output tokens; null if no client said.';
COMMENT ON COLUMN opensentry.ai_generation_days.total_tokens IS 'Input and output tokens.';
COMMENT ON COLUMN opensentry.ai_generation_days.cache_hit_rate IS 'The share of the input tokens that was read from the cache, from 0 to 1; null if no client said.';
COMMENT ON COLUMN opensentry.ai_generation_days.cost_usd IS 'What the calls cost, in US dollars, as their clients said; null if none did.';
COMMENT ON COLUMN opensentry.ai_generation_days.calls_without_cost IS 'How many calls came without a cost, and are not part of cost_usd.';
COMMENT ON COLUMN opensentry.ai_generation_days.p50_latency_ms IS 'The median of their latencies, in milliseconds; null if no client said.';
COMMENT ON COLUMN opensentry.ai_generation_days.p95_latency_ms IS 'The 95th percentile of their latencies, in milliseconds.';
COMMENT ON COLUMN opensentry.ai_generation_days.p50_time_to_first_token_ms IS 'The median of the time to the first token, in milliseconds; null if no client said.';
COMMENT ON COLUMN opensentry.ai_generation_days.p95_time_to_first_token_ms IS 'The 95th percentile of the time to the first token, in milliseconds.';

COMMENT ON VIEW opensentry.trace_items IS 'Everything that belongs to a trace: errors, transactions, their spans and AI generations. Filter by project_id and trace_id. Trace ids of over 200 characters are left out.';
COMMENT ON COLUMN opensentry.trace_items.project_id IS 'The id of the project.';
COMMENT ON COLUMN opensentry.trace_items.trace_id IS 'The id of the trace.';
COMMENT ON COLUMN opensentry.trace_items.kind IS 'error, transaction, span or ai_generation.';
COMMENT ON COLUMN opensentry.trace_items.batch_id IS 'The id of the batch that it came in.';
COMMENT ON COLUMN opensentry.trace_items.position IS 'The place of the item in its batch, from 0; a span has that of its transaction.';
COMMENT ON COLUMN opensentry.trace_items.span_index IS 'The place of a span in its transaction, from 0; null for the other kinds.';
COMMENT ON COLUMN opensentry.trace_items.received_at IS 'When it was received.';
COMMENT ON COLUMN opensentry.trace_items.started_at IS 'When it began, by the client''s clock; null for a span whose start its client did not send.';
COMMENT ON COLUMN opensentry.trace_items.duration_ms IS 'How long it took, in milliseconds; null for an error.';
COMMENT ON COLUMN opensentry.trace_items.status IS 'How it ended (ok, error, cancelled), or the level of an error; null if its client did not say.';
COMMENT ON COLUMN opensentry.trace_items.span_id IS 'Its own span; of an error, the span in which it happened.';
COMMENT ON COLUMN opensentry.trace_items.parent_span_id IS 'The span that it is a part of.';
COMMENT ON COLUMN opensentry.trace_items.op IS 'What kind of operation it was; of an AI generation, the provider.';
COMMENT ON COLUMN opensentry.trace_items.name IS 'The title of an error, the name of a transaction, the description of a span, or the model.';

-- The group role of those who look: it may read what came in and set the status of an issue, and nothing else. An
-- operator makes login roles that are members of it.
DO $$
BEGIN
    -- Roles belong to the whole cluster: another database's migration may have made it, or be making it now.
    IF to_regrole('opensentry_reader') IS NULL THEN
        BEGIN
            CREATE ROLE opensentry_reader NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    GRANT USAGE ON SCHEMA opensentry TO opensentry_reader;
    GRANT SELECT ON
        opensentry.projects, opensentry.project_keys, opensentry.events, opensentry.transactions, opensentry.spans,
        opensentry.ai_generations, opensentry.issues, opensentry.issue_totals, opensentry.issue_hours,
        opensentry.transaction_hours, opensentry.ai_generation_days, opensentry.trace_items
        TO opensentry_reader;
    GRANT EXECUTE ON FUNCTION
        opensentry.user_key, opensentry.issue_title, opensentry.culprit, opensentry.set_issue_status,
        opensentry.issue_totals, opensentry.issue_hours, opensentry.transaction_hours, opensentry.ai_generation_days
        TO opensentry_reader;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'may not create the role opensentry_reader; as a superuser run: CREATE ROLE opensentry_reader NOLOGIN; GRANT USAGE ON SCHEMA opensentry TO opensentry_reader; GRANT SELECT ON opensentry.projects, opensentry.project_keys, opensentry.events, opensentry.transactions, opensentry.spans, opensentry.ai_generations, opensentry.issues, opensentry.issue_totals, opensentry.issue_hours, opensentry.transaction_hours, opensentry.ai_generation_days, opensentry.trace_items TO opensentry_reader; GRANT EXECUTE ON FUNCTION opensentry.user_key, opensentry.issue_title, opensentry.culprit, opensentry.set_issue_status, opensentry.issue_totals, opensentry.issue_hours, opensentry.transaction_hours, opensentry.ai_generation_days TO opensentry_reader;';
END
$$;
