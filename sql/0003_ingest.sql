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
CREATE FUNCTION opensentry.ingest(
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

    IF batch @> '[{"type": "error"}]' THEN
        INSERT INTO opensentry.events (
            project_id, batch_id, position, received_at, timestamp, level,
            exception_type, exception_value, frames, message,
            breadcrumbs, tags, "user", environment, release, extra
        )
        SELECT
            project, ingest.batch_id, place - 1, now(), coalesce((item ->> 'timestamp')::timestamptz, now()),
            coalesce(item ->> 'level', 'error'),
            exception ->> 'type', coalesce(exception ->> 'value', item ->> 'message'), stacktrace -> 'frames',
            item ->> 'message',
            item -> 'breadcrumbs', item -> 'tags', item -> 'user', item ->> 'environment', item ->> 'release',
            nullif(
                item - '{type,exception,message,level,breadcrumbs,tags,user,environment,release,timestamp}'::text[]
                || CASE
                    WHEN exception_extra = '{}' AND stacktrace_extra = '{}' THEN '{}'
                    WHEN stacktrace_extra = '{}' THEN jsonb_build_object('exception', exception_extra)
                    ELSE jsonb_build_object(
                        'exception', exception_extra || jsonb_build_object('stacktrace', stacktrace_extra)
                    )
                END,
                '{}'
            )
        FROM jsonb_array_elements(batch) WITH ORDINALITY AS items_of_batch (item, place),
            LATERAL (SELECT item -> 'exception' AS exception, item #> '{exception,stacktrace}' AS stacktrace) AS parts,
            LATERAL (
                SELECT
                    exception - '{type,value,stacktrace}'::text[] AS exception_extra,
                    coalesce(stacktrace - 'frames', '{}') AS stacktrace_extra
            ) AS unknown
        WHERE item ->> 'type' = 'error';
    END IF;

    IF batch @> '[{"type": "transaction"}]' THEN
        INSERT INTO opensentry.transactions (
            project_id, batch_id, position, received_at, timestamp,
            name, trace_id, duration_ms, status, environment, release, extra
        )
        SELECT
            project, ingest.batch_id, place - 1, now(), coalesce((item ->> 'timestamp')::timestamptz, now()),
            item ->> 'name', item ->> 'traceId', (item ->> 'durationMs')::numeric, coalesce(item ->> 'status', 'ok'),
            item ->> 'environment', item ->> 'release',
            nullif(
                item - '{type,name,traceId,durationMs,status,spans,environment,release,timestamp}'::text[],
                '{}'
            )
        FROM jsonb_array_elements(batch) WITH ORDINALITY AS items_of_batch (item, place)
        WHERE item ->> 'type' = 'transaction';

        INSERT INTO opensentry.spans (
            project_id, batch_id, position, span_index, received_at,
            span_id, parent_span_id, op, description, duration_ms, extra
        )
        SELECT
            project, ingest.batch_id, place - 1, span_place - 1, now(),
            span ->> 'spanId', span ->> 'parentSpanId', span ->> 'op', span ->> 'description',
            (span ->> 'durationMs')::numeric,
            nullif(span - '{spanId,parentSpanId,op,description,durationMs}'::text[], '{}')
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

REVOKE ALL ON FUNCTION opensentry.ingest FROM PUBLIC;
