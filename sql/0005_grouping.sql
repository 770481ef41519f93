-- Grouping: which events are one issue, and what joins errors, transactions and AI generations to a trace.
--
-- New columns are nullable and have no default, so that adding them rewrites nothing.

ALTER TABLE opensentry.events
    ADD COLUMN fingerprint uuid,
    ADD COLUMN client_fingerprint jsonb,
    ADD COLUMN trace_id text,
    ADD COLUMN span_id text;

ALTER TABLE opensentry.transactions
    ADD COLUMN span_id text,
    ADD COLUMN parent_span_id text,
    ADD COLUMN op text,
    ADD COLUMN tags jsonb,
    ADD COLUMN "user" jsonb;

ALTER TABLE opensentry.spans
    ADD COLUMN start_ms bigint CHECK (start_ms >= 0),
    ADD COLUMN status text CHECK (status IN ('ok', 'error', 'cancelled'));

-- One row for each issue, inserted with its first event and changed only by a person. Counts, users and the last time
-- are computed when somebody looks: a counter here would be a row that all requests wait for.
CREATE TABLE opensentry.issues (
    project_id uuid NOT NULL,
    fingerprint uuid NOT NULL,
    title text NOT NULL,
    culprit text,
    level text NOT NULL CHECK (level IN ('fatal', 'error', 'warning', 'info', 'debug')),
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'resolved', 'ignored')),
    first_seen timestamptz NOT NULL,
    resolved_at timestamptz,
    first_release text,
    PRIMARY KEY (project_id, fingerprint),
    CHECK ((status = 'resolved') = (resolved_at IS NOT NULL))
);

-- The text that two events of one issue have in common, if their client does not say it: the type of the exception, and
-- the file and function of each in-app frame, or of each frame if none is in-app. Without frames it is the type and the
-- message, in which a UUID, a hexadecimal number and a number each count as the same.
--
-- This and the next function are single expressions of immutable functions, so that PostgreSQL inlines them: as calls
-- they would cost a third of the rate of ingest(). concat_ws(), for one, is only STABLE.
CREATE FUNCTION opensentry.default_grouping(exception_type text, message text, frames jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT coalesce(exception_type, '') || E'\n' || CASE
        WHEN jsonb_array_length(frames) > 0 THEN CASE
            WHEN frames @> '[{"inApp": true}]' THEN
                jsonb_path_query_array(frames, '$[*] ? (@.inApp == true).filename')::text
                || jsonb_path_query_array(frames, '$[*] ? (@.inApp == true).function')::text
            ELSE
                jsonb_path_query_array(frames, '$[*].filename')::text
                || jsonb_path_query_array(frames, '$[*].function')::text
        END
        -- The first thousand characters, because a regular expression takes its time over 256 KiB.
        ELSE regexp_replace(
            left(coalesce(message, ''), 1000),
            '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|0x[0-9a-f]+|\m(?=[a-f]*[0-9])[0-9a-f]{8,}\M|[0-9]+',
            '#', 'gi'
        )
    END
$$;

-- The fingerprint of an event, which names its issue. `client` is the array of strings that the client grouped it by, if
-- it did: "{{ default }}" in it stands for the default grouping.
CREATE FUNCTION opensentry.fingerprint(
    project_id uuid, exception_type text, message text, frames jsonb, client jsonb
) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT md5(project_id::text || CASE
        WHEN client IS NULL THEN opensentry.default_grouping(exception_type, message, frames)
        ELSE replace(
            regexp_replace(client::text, '"\{\{ ?default ?\}\}"', '"{{default}}"', 'g'),
            '"{{default}}"',
            '"{{default}}' || opensentry.default_grouping(exception_type, message, frames) || '"'
        )
    END)::uuid
$$;

-- The first line of what people call an issue by.
CREATE FUNCTION opensentry.issue_title(exception_type text, message text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT left(
        split_part(
            coalesce(nullif(exception_type, '') || ': ' || nullif(message, ''), nullif(exception_type, ''),
                nullif(message, ''), '(no message)'),
            E'\n', 1
        ),
        255
    )
$$;

-- Where it was raised: the first in-app frame, else the first frame. The frame that raised comes first.
CREATE FUNCTION opensentry.culprit(frames jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT left(coalesce(
        frame ->> 'function' || ' in ' || coalesce(frame ->> 'filename', frame ->> 'module', frame ->> 'absPath'),
        frame ->> 'function', frame ->> 'filename', frame ->> 'module', frame ->> 'absPath'
    ), 255)
    FROM (SELECT coalesce(jsonb_path_query_first(frames, '$[*] ? (@.inApp == true)'), frames -> 0)) AS first (frame)
$$;

-- What people do to an issue. Returns whether there is such an issue.
CREATE FUNCTION opensentry.set_issue_status(project_id uuid, fingerprint uuid, status text) RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE opensentry.issues AS i
    SET status = set_issue_status.status,
        resolved_at = CASE set_issue_status.status WHEN 'resolved' THEN clock_timestamp() END
    WHERE i.project_id = set_issue_status.project_id AND i.fingerprint = set_issue_status.fingerprint;
    RETURN FOUND;
END
$$;

REVOKE ALL ON FUNCTION opensentry.default_grouping FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.fingerprint FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.issue_title FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.culprit FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.set_issue_status FROM PUBLIC;

-- The one call of the hot path: it finds the project, takes the request's JSON apart and inserts every row.
-- One statement is one transaction, so a batch is stored whole or not at all.
--
-- items is one item or an array of them, and has passed the JSON Schema: every cast here is safe but for days
-- that do not exist, which come back as an error of SQLSTATE class 22. Integers go through numeric, because 245.0 is
-- an integer in JSON. idempotency_key, where it is given, makes a repeated request return the first one's batch.
-- Returns the id of the batch, or null where no project has this public key or the key is revoked.
--
-- SECURITY DEFINER lets the service store events with a role that can do nothing else, hence the pinned search_path.
-- The time zone is pinned because a timestamp without an offset is UTC.
CREATE OR REPLACE FUNCTION opensentry.ingest(
    public_key text,
    batch_id uuid,
    items jsonb,
    idempotency_key text DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    project uuid;
    earlier_batch uuid;
    has_new_issue boolean;
    batch jsonb := CASE jsonb_typeof(items) WHEN 'array' THEN items ELSE jsonb_build_array(items) END;
BEGIN
    SELECT k.project_id
    INTO project
    FROM opensentry.project_keys AS k
    WHERE k.public_key = ingest.public_key AND k.revoked_at IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    -- Two requests with one key meet here: the second waits for the first to commit, then finds its batch. It
    -- goes round again where the first rolled back, or its row was just forgotten for its age.
    WHILE idempotency_key IS NOT NULL LOOP
        INSERT INTO opensentry.idempotency_keys (project_id, key, batch_id)
        VALUES (project, idempotency_key, ingest.batch_id)
        ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND;

        SELECT k.batch_id
        INTO earlier_batch
        FROM opensentry.idempotency_keys AS k
        WHERE k.project_id = project AND k.key = idempotency_key;
        IF FOUND THEN
            RETURN earlier_batch;
        END IF;
    END LOOP;

    -- The subquery with OFFSET 0 is a fence: PostgreSQL inlines a function only if its arguments are plain columns.
    IF batch @> '[{"type": "error"}]' THEN
        WITH stored AS (
            INSERT INTO opensentry.events (
                project_id, batch_id, position, received_at, timestamp, level,
                exception_type, exception_value, frames, message,
                breadcrumbs, tags, "user", environment, release, extra,
                fingerprint, client_fingerprint, trace_id, span_id
            )
            SELECT
                project, ingest.batch_id, place - 1, now(), coalesce((item ->> 'timestamp')::timestamptz, now()),
                coalesce(item ->> 'level', 'error'),
                exception_type, exception_value, frames, item ->> 'message',
                item -> 'breadcrumbs', item -> 'tags', item -> 'user', item ->> 'environment', item ->> 'release',
                nullif(
                    item - (
                        '{type,exception,message,level,breadcrumbs,tags,user,environment,release,timestamp,'
                        'fingerprint,traceId,spanId}'
                    )::text[]
                    || CASE
                        WHEN exception_extra = '{}' AND stacktrace_extra = '{}' THEN '{}'
                        WHEN stacktrace_extra = '{}' THEN jsonb_build_object('exception', exception_extra)
                        ELSE jsonb_build_object(
                            'exception', exception_extra || jsonb_build_object('stacktrace', stacktrace_extra)
                        )
                    END,
                    '{}'
                ),
                opensentry.fingerprint(project, exception_type, exception_value, frames, client_fingerprint),
                client_fingerprint, item ->> 'traceId', item ->> 'spanId'
            FROM (
                SELECT
                    item, place,
                    item #>> '{exception,type}' AS exception_type,
                    coalesce(item #>> '{exception,value}', item ->> 'message') AS exception_value,
                    item #> '{exception,stacktrace,frames}' AS frames,
                    item -> 'fingerprint' AS client_fingerprint,
                    (item -> 'exception') - '{type,value,stacktrace}'::text[] AS exception_extra,
                    coalesce((item #> '{exception,stacktrace}') - 'frames', '{}') AS stacktrace_extra
                FROM jsonb_array_elements(batch) WITH ORDINALITY AS items_of_batch (item, place)
                WHERE item ->> 'type' = 'error'
                OFFSET 0
            ) AS errors
            RETURNING events.fingerprint
        )
        SELECT bool_or(i.fingerprint IS NULL)
        INTO has_new_issue
        FROM stored AS s
        LEFT JOIN opensentry.issues AS i ON i.project_id = project AND i.fingerprint = s.fingerprint;

        -- In the order of fingerprints, so that no two batches wait for each other's issues.
        IF has_new_issue THEN
            INSERT INTO opensentry.issues (project_id, fingerprint, title, culprit, level, first_seen, first_release)
            SELECT DISTINCT ON (e.fingerprint)
                project, e.fingerprint, opensentry.issue_title(e.exception_type, e.exception_value),
                opensentry.culprit(e.frames), e.level, e.received_at, e.release
            FROM opensentry.events AS e
            WHERE e.project_id = project AND e.batch_id = ingest.batch_id AND e.received_at = now()
            ORDER BY e.fingerprint, e.position
            ON CONFLICT DO NOTHING;
        END IF;
    END IF;

    IF batch @> '[{"type": "transaction"}]' THEN
        INSERT INTO opensentry.transactions (
            project_id, batch_id, position, received_at, timestamp,
            name, trace_id, duration_ms, status, environment, release, extra,
            span_id, parent_span_id, op, tags, "user"
        )
        SELECT
            project, ingest.batch_id, place - 1, now(), coalesce((item ->> 'timestamp')::timestamptz, now()),
            item ->> 'name', item ->> 'traceId', (item ->> 'durationMs')::numeric, coalesce(item ->> 'status', 'ok'),
            item ->> 'environment', item ->> 'release',
            nullif(
                item - (
                    '{type,name,traceId,durationMs,status,spans,environment,release,timestamp,'
                    'spanId,parentSpanId,op,tags,user}'
                )::text[],
                '{}'
            ),
            item ->> 'spanId', item ->> 'parentSpanId', item ->> 'op', item -> 'tags', item -> 'user'
        FROM jsonb_array_elements(batch) WITH ORDINALITY AS items_of_batch (item, place)
        WHERE item ->> 'type' = 'transaction';

        INSERT INTO opensentry.spans (
            project_id, batch_id, position, span_index, received_at,
            span_id, parent_span_id, op, description, duration_ms, extra, start_ms, status
        )
        SELECT
            project, ingest.batch_id, place - 1, span_place - 1, now(),
            span ->> 'spanId', span ->> 'parentSpanId', span ->> 'op', span ->> 'description',
            (span ->> 'durationMs')::numeric,
            nullif(span - '{spanId,parentSpanId,op,description,durationMs,startMs,status}'::text[], '{}'),
            (span ->> 'startMs')::numeric, span ->> 'status'
        FROM jsonb_array_elements(batch) WITH ORDINALITY AS items_of_batch (item, place),
            jsonb_array_elements(item -> 'spans') WITH ORDINALITY AS spans_of_item (span, span_place)
        WHERE item ->> 'type' = 'transaction';
    END IF;

    IF batch @> '[{"type": "ai_generation"}]' THEN
        INSERT INTO opensentry.ai_generations (
            project_id, batch_id, position, received_at, timestamp,
            provider, model, input_tokens, output_tokens, total_tokens, cached_input_tokens, cache_write_tokens,
            input_cost_usd, output_cost_usd, total_cost_usd, latency_ms, time_to_first_token_ms,
            status, trace_id, span_id, tags, "user", metadata, environment, release, extra
        )
        SELECT
            project, ingest.batch_id, place - 1, now(), coalesce((item ->> 'timestamp')::timestamptz, now()),
            item ->> 'provider', item ->> 'model',
            (item ->> 'inputTokens')::numeric, (item ->> 'outputTokens')::numeric,
            coalesce(
                (item ->> 'totalTokens')::numeric,
                (item ->> 'inputTokens')::numeric + coalesce((item ->> 'outputTokens')::numeric, 0)
            ),
            (item ->> 'cachedInputTokens')::numeric, (item ->> 'cacheWriteTokens')::numeric,
            (item ->> 'inputCostUsd')::numeric, (item ->> 'outputCostUsd')::numeric, (item ->> 'totalCostUsd')::numeric,
            (item ->> 'latencyMs')::numeric, (item ->> 'timeToFirstTokenMs')::numeric,
            coalesce(item ->> 'status', 'ok'), item ->> 'traceId', item ->> 'spanId',
            item -> 'tags', item -> 'user', item -> 'metadata', item ->> 'environment', item ->> 'release',
            nullif(
                item - (
                    '{type,provider,model,inputTokens,outputTokens,totalTokens,cachedInputTokens,cacheWriteTokens,'
                    'inputCostUsd,outputCostUsd,totalCostUsd,latencyMs,timeToFirstTokenMs,status,traceId,spanId,'
                    'tags,user,metadata,environment,release,timestamp}'
                )::text[],
                '{}'
            )
        FROM jsonb_array_elements(batch) WITH ORDINALITY AS items_of_batch (item, place)
        WHERE item ->> 'type' = 'ai_generation';
    END IF;

    RETURN ingest.batch_id;
END
$$;
