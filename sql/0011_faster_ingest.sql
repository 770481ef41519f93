-- What makes storing cheaper. Nothing that is stored changes.
--
-- PostgreSQL parses and prepares each CHECK anew for every statement, so a table has one, and a list of values is a
-- constant in it. The position of an item is counted by ingest() and needs none. NOT VALID, because the rows that are
-- there satisfied the same before, and reading them again would stop ingest. Citus adds a constraint in a statement of
-- its own alone.

ALTER TABLE opensentry.events
    DROP CONSTRAINT events_position_check,
    DROP CONSTRAINT events_level_check;
ALTER TABLE opensentry.events
    ADD CONSTRAINT events_values CHECK (level = ANY ('{fatal,error,warning,info,debug}')) NOT VALID;

ALTER TABLE opensentry.transactions
    DROP CONSTRAINT transactions_position_check,
    DROP CONSTRAINT transactions_duration_ms_check,
    DROP CONSTRAINT transactions_status_check;
ALTER TABLE opensentry.transactions
    ADD CONSTRAINT transactions_values CHECK (duration_ms >= 0 AND status = ANY ('{ok,error,cancelled}')) NOT VALID;

ALTER TABLE opensentry.spans
    DROP CONSTRAINT spans_position_check,
    DROP CONSTRAINT spans_span_index_check,
    DROP CONSTRAINT spans_duration_ms_check,
    DROP CONSTRAINT spans_start_ms_check,
    DROP CONSTRAINT spans_status_check;
ALTER TABLE opensentry.spans
    ADD CONSTRAINT spans_values
        CHECK (least(duration_ms, start_ms) >= 0 AND status = ANY ('{ok,error,cancelled}')) NOT VALID;

ALTER TABLE opensentry.ai_generations
    DROP CONSTRAINT ai_generations_position_check,
    DROP CONSTRAINT ai_generations_provider_check,
    DROP CONSTRAINT ai_generations_model_check,
    DROP CONSTRAINT ai_generations_input_tokens_check,
    DROP CONSTRAINT ai_generations_output_tokens_check,
    DROP CONSTRAINT ai_generations_total_tokens_check,
    DROP CONSTRAINT ai_generations_cached_input_tokens_check,
    DROP CONSTRAINT ai_generations_cache_write_tokens_check,
    DROP CONSTRAINT ai_generations_input_cost_usd_check,
    DROP CONSTRAINT ai_generations_output_cost_usd_check,
    DROP CONSTRAINT ai_generations_total_cost_usd_check,
    DROP CONSTRAINT ai_generations_latency_ms_check,
    DROP CONSTRAINT ai_generations_time_to_first_token_ms_check,
    DROP CONSTRAINT ai_generations_status_check;
ALTER TABLE opensentry.ai_generations
    ADD CONSTRAINT ai_generations_values CHECK (
        provider <> '' AND model <> '' AND status = ANY ('{ok,error}')
        AND least(
            input_tokens, output_tokens, total_tokens, cached_input_tokens, cache_write_tokens,
            latency_ms, time_to_first_token_ms
        ) >= 0
        AND least(input_cost_usd, output_cost_usd, total_cost_usd) >= 0
    ) NOT VALID;

-- Where the server was built with lz4, an event of 8 kB takes a third less space than with pglz, and less time. What is
-- stored stays as it is.
-- A partition that is made later takes this over from its table.
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format(
            'ALTER TABLE %s %s',
            member.relid::regclass,
            string_agg(format('ALTER COLUMN %I SET COMPRESSION lz4', a.attname), ', ' ORDER BY a.attnum)
        )
        FROM unnest('{events,transactions,spans,ai_generations}'::name[]) AS parent
        CROSS JOIN pg_partition_tree(format('opensentry.%I', parent)::regclass) AS member
        JOIN pg_attribute AS a ON a.attrelid = member.relid
        WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attstorage = 'x' AND EXISTS (
            SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
        )
        GROUP BY member.relid
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;

-- The fingerprint of an event, which names its issue. `client` is the array of strings that the client grouped it by, if
-- it did: "{{ default }}" in it stands for the default grouping. That is inlined once, where a character stands for it
-- that the text of a jsonb never has.
CREATE OR REPLACE FUNCTION opensentry.fingerprint(
    project_id uuid, exception_type text, message text, frames jsonb, client jsonb
) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT md5(project_id::text || replace(
        coalesce(
            replace(
                regexp_replace(client::text, '"\{\{ ?default ?\}\}"', '"{{default}}"', 'g'),
                '"{{default}}"',
                E'"{{default}}\x01"'
            ),
            E'\x01'
        ),
        E'\x01',
        opensentry.default_grouping(exception_type, message, frames)
    ))::uuid
$$;

-- The one call of the hot path: it finds the project, takes the request's JSON apart and inserts every row.
-- One statement is one transaction, so a batch is stored whole or not at all.
--
-- items is one item or an array of them, and has passed the JSON Schema: every cast here is safe but for days
-- that do not exist, which come back as an error of SQLSTATE class 22. Integers go through numeric, because 245.0 is
-- an integer in JSON. idempotency_key, where it is given, makes a repeated request return the first one's batch.
-- Returns the id of the batch, or null where no project has this public key or the key is revoked.
--
-- SECURITY DEFINER lets the service store events with a role that can do nothing else, hence the pinned search_path.
-- The time is taken once: where a statement runs on another node, now() is that of its transaction.
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
    received timestamptz := now();
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
                project, ingest.batch_id, place - 1, received, coalesce((item ->> 'timestamp')::timestamptz, received),
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
        SELECT true
        INTO has_new_issue
        FROM stored AS s
        LEFT JOIN opensentry.issues AS i ON i.project_id = project AND i.fingerprint = s.fingerprint
        WHERE i.fingerprint IS NULL
        LIMIT 1;

        -- In the order of fingerprints, so that no two batches wait for each other's issues.
        IF has_new_issue THEN
            INSERT INTO opensentry.issues (project_id, fingerprint, title, culprit, level, first_seen, first_release)
            SELECT DISTINCT ON (e.fingerprint)
                project, e.fingerprint, opensentry.issue_title(e.exception_type, e.exception_value),
                opensentry.culprit(e.frames), e.level, e.received_at, e.release
            FROM opensentry.events AS e
            WHERE e.project_id = project AND e.batch_id = ingest.batch_id AND e.received_at = received
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
            project, ingest.batch_id, place - 1, received, coalesce((item ->> 'timestamp')::timestamptz, received),
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
            project, ingest.batch_id, place - 1, span_place - 1, received,
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
            project, ingest.batch_id, place - 1, received, coalesce((item ->> 'timestamp')::timestamptz, received),
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
