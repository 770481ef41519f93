-- What calls of language models cost. A client may send the cost; for the others it is computed from their tokens and
-- the prices here, whenever it is read. So a price that changes changes what is shown of all calls that it is valid for.

-- Providers have several names. This is the one table of them: it has OpenTelemetry's name for each that clients, the
-- price list of LiteLLM (litellm_provider) and older conventions use. Any other name stands for itself, in lower case.
CREATE FUNCTION opensentry.model_provider(provider text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT coalesce('{
        "az.ai.inference": "azure.ai.inference", "azure_ai": "azure.ai.inference",
        "az.ai.openai": "azure.ai.openai", "azure": "azure.ai.openai", "azure_text": "azure.ai.openai",
        "aws": "aws.bedrock", "aws_bedrock": "aws.bedrock", "bedrock": "aws.bedrock",
        "bedrock_converse": "aws.bedrock", "bedrock_mantle": "aws.bedrock", "cohere_chat": "cohere",
        "fireworks_ai": "fireworks", "fireworks_ai-embedding-models": "fireworks", "gemini": "gcp.gemini",
        "google": "gcp.gemini", "google_ai_studio": "gcp.gemini", "google_genai": "gcp.gemini",
        "mistral": "mistral_ai", "mistralai": "mistral_ai", "text-completion-openai": "openai",
        "together": "together_ai", "togetherai": "together_ai", "google_vertexai": "gcp.vertex_ai",
        "vertex_ai": "gcp.vertex_ai", "vertexai": "gcp.vertex_ai", "watsonx": "ibm.watsonx.ai", "xai": "x_ai"
    }'::jsonb ->> lower(provider), lower(provider))
$$;

-- In US dollars for a million tokens. A null price of cached or cache-write tokens is that of input tokens. A model is
-- a name, or a pattern in which each * stands for any characters; the provider * is any.
CREATE TABLE opensentry.model_prices (
    provider text NOT NULL CHECK (provider <> '' AND length(provider) <= 200),
    model text NOT NULL CHECK (model <> '' AND length(model) <= 200),
    valid_from timestamptz NOT NULL DEFAULT '-infinity'
        CHECK (valid_from = '-infinity' OR valid_from BETWEEN '1970-01-01 00:00Z' AND '9998-12-31 00:00Z'),
    input_usd numeric NOT NULL CHECK (input_usd BETWEEN 0 AND 1000000000 AND scale(input_usd) <= 20),
    cached_input_usd numeric CHECK (cached_input_usd BETWEEN 0 AND 1000000000 AND scale(cached_input_usd) <= 20),
    cache_write_usd numeric CHECK (cache_write_usd BETWEEN 0 AND 1000000000 AND scale(cache_write_usd) <= 20),
    output_usd numeric NOT NULL CHECK (output_usd BETWEEN 0 AND 1000000000 AND scale(output_usd) <= 20),
    PRIMARY KEY (provider, model, valid_from),
    -- A price under another name would apply to no call.
    CHECK (provider = opensentry.model_provider(provider))
);

CREATE INDEX model_prices_patterns ON opensentry.model_prices (provider) WHERE model LIKE '%*%';

-- Whether a price is one of a model: of its name as it is, of its name without the date or "latest" at its end, or of a
-- pattern.
CREATE FUNCTION opensentry.is_price_of(price_provider text, price_model text, provider text, model text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT price_provider IN (opensentry.model_provider(provider), '*') AND (
        price_model IN (model, regexp_replace(model, '[-@](20[0-9]{2}-?[0-9]{2}-?[0-9]{2}|latest)$', ''))
        OR (
            price_model LIKE '%*%'
            AND model LIKE replace(
                replace(replace(replace(price_model, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%'
            )
        )
    )
$$;

-- How specific such a price is; the least is used. The provider's own price comes before one for any provider; then the
-- name as it is, the other name, and the pattern with most characters that are not *.
CREATE FUNCTION opensentry.price_rank(price_provider text, price_model text, model text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT
        4000 * (price_provider = '*')::integer + 2000 * (price_model <> model)::integer
        + 1000 * (price_model LIKE '%*%')::integer - length(replace(price_model, '*', ''))
$$;

-- What a model cost over time: a row for each period with one price, none if it has no price. A less specific price
-- applies until a more specific one is valid.
CREATE FUNCTION opensentry.price_history(provider text, model text)
RETURNS TABLE (
    valid_from timestamptz, valid_until timestamptz, input_usd numeric, cached_input_usd numeric,
    cache_write_usd numeric, output_usd numeric
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        r.valid_from,
        lead(r.valid_from, 1, 'infinity') OVER (ORDER BY r.valid_from),
        r.input_usd,
        coalesce(r.cached_input_usd, r.input_usd),
        coalesce(r.cache_write_usd, r.input_usd),
        r.output_usd
    FROM (
        SELECT p.*, p.rank = min(p.rank) OVER (ORDER BY p.valid_from, p.rank) AS applies
        FROM (
            SELECT
                m.*,
                dense_rank() OVER (ORDER BY opensentry.price_rank(m.provider, m.model, $2), m.model) AS rank
            FROM opensentry.model_prices AS m
            WHERE opensentry.is_price_of(m.provider, m.model, $1, $2)
        ) AS p
    ) AS r
    WHERE r.applies
$$;

-- The definition of what a call cost is in the next five functions; everything else uses them. First, what its client
-- sent.
CREATE FUNCTION opensentry.sent_cost_usd(total_cost_usd numeric, input_cost_usd numeric, output_cost_usd numeric)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT coalesce(total_cost_usd, input_cost_usd + output_cost_usd)
$$;

-- Second, the input tokens that are neither from nor for the cache. A client that counts those beside its input tokens
-- is taken at its word: there are not less than none.
CREATE FUNCTION opensentry.plain_input_tokens(input_tokens bigint, cached_input_tokens bigint, cache_write_tokens bigint)
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT greatest(input_tokens - coalesce(cached_input_tokens, 0) - coalesce(cache_write_tokens, 0), 0)
$$;

-- Third, tokens times prices, without rounding. The tokens are those of a call, or sums over calls of one price.
CREATE FUNCTION opensentry.token_cost_usd(
    plain_input_tokens numeric, cached_input_tokens numeric, cache_write_tokens numeric, output_tokens numeric,
    input_usd numeric, cached_input_usd numeric, cache_write_usd numeric, output_usd numeric
)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT trim_scale(0.000001 * (
        plain_input_tokens * input_usd + coalesce(cached_input_tokens, 0) * cached_input_usd
        + coalesce(cache_write_tokens, 0) * cache_write_usd + coalesce(output_tokens, 0) * output_usd
    ))
$$;

-- Whether a client said how many tokens a call used. Without a number of output tokens, a call that has input tokens has
-- no output, as that of an embedding; one that has none did not say.
CREATE FUNCTION opensentry.has_tokens(input_tokens bigint, output_tokens bigint) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT output_tokens IS NOT NULL OR input_tokens > 0
$$;

-- What a call cost by its tokens; null if they, or the prices, are not known.
CREATE FUNCTION opensentry.computed_cost_usd(
    input_tokens bigint, cached_input_tokens bigint, cache_write_tokens bigint, output_tokens bigint,
    input_usd numeric, cached_input_usd numeric, cache_write_usd numeric, output_usd numeric
)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN opensentry.has_tokens(input_tokens, output_tokens) THEN opensentry.token_cost_usd(
        opensentry.plain_input_tokens(input_tokens, cached_input_tokens, cache_write_tokens),
        cached_input_tokens, cache_write_tokens, output_tokens,
        input_usd, cached_input_usd, cache_write_usd, output_usd
    ) END
$$;

-- Each call with its cost. A price is that which was valid when the call was received: the server's clock, because a
-- client's may be wrong by years, and because periods are cut by it.
--
-- The view looks prices up for each row, so a condition on the project, the trace or the batch reads those calls alone.
-- It takes the price of one moment from what price_history() returns, without calling it, which Citus could not.
CREATE VIEW opensentry.ai_generation_costs AS
SELECT
    a.project_id, p.name AS project, a.batch_id, a.position, a.received_at, a.provider, a.model, a.status,
    a.input_tokens, a.cached_input_tokens, a.cache_write_tokens, a.output_tokens, a.total_tokens,
    a.latency_ms, a.time_to_first_token_ms, a.timestamp, a.trace_id, a.span_id, a.environment, a.release, a.tags,
    opensentry.user_key(a."user") AS "user",
    coalesce(
        opensentry.sent_cost_usd(a.total_cost_usd, a.input_cost_usd, a.output_cost_usd),
        opensentry.computed_cost_usd(
            a.input_tokens, a.cached_input_tokens, a.cache_write_tokens, a.output_tokens,
            h.input_usd, h.cached_input_usd, h.cache_write_usd, h.output_usd
        )
    ) AS cost_usd,
    CASE
        WHEN opensentry.sent_cost_usd(a.total_cost_usd, a.input_cost_usd, a.output_cost_usd) IS NOT NULL THEN 'sent'
        WHEN opensentry.has_tokens(a.input_tokens, a.output_tokens) AND h.input_usd IS NOT NULL THEN 'computed'
        ELSE 'unknown'
    END AS cost_source
FROM opensentry.ai_generations AS a
LEFT JOIN LATERAL (
    SELECT
        m.input_usd,
        coalesce(m.cached_input_usd, m.input_usd) AS cached_input_usd,
        coalesce(m.cache_write_usd, m.input_usd) AS cache_write_usd,
        m.output_usd
    FROM opensentry.model_prices AS m
    WHERE opensentry.is_price_of(m.provider, m.model, a.provider, a.model) AND m.valid_from <= a.received_at
    ORDER BY opensentry.price_rank(m.provider, m.model, a.model), m.model, m.valid_from DESC
    LIMIT 1
) AS h ON true
LEFT JOIN opensentry.projects AS p ON p.id = a.project_id;

-- The prices of all models of a period with calls whose clients sent no cost; null if there are none.
CREATE FUNCTION opensentry.ai_generation_prices(
    since timestamptz, until timestamptz, only_project_id uuid DEFAULT NULL
)
RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT jsonb_agg(m)
    FROM (
        SELECT a.provider, a.model, h.*
        FROM (
            SELECT DISTINCT provider, model
            FROM opensentry.ai_generations
            WHERE received_at >= since AND received_at < until
                AND (only_project_id IS NULL OR project_id = only_project_id)
                AND opensentry.sent_cost_usd(total_cost_usd, input_cost_usd, output_cost_usd) IS NULL
        ) AS a, LATERAL opensentry.price_history(a.provider, a.model) AS h
    ) AS m
$$;

-- The calls of a period, with prices that were looked up once, for all. They are a value and not a subquery, because
-- PostgreSQL then joins them in parallel, and not at all if they are null.
CREATE FUNCTION opensentry.ai_generation_costs_at(
    since timestamptz, until timestamptz, prices jsonb, only_project_id uuid DEFAULT NULL
)
RETURNS SETOF opensentry.ai_generation_costs
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        a.project_id, p.name, a.batch_id, a.position, a.received_at, a.provider, a.model, a.status,
        a.input_tokens, a.cached_input_tokens, a.cache_write_tokens, a.output_tokens, a.total_tokens,
        a.latency_ms, a.time_to_first_token_ms, a.timestamp, a.trace_id, a.span_id, a.environment, a.release, a.tags,
        opensentry.user_key(a."user"),
        coalesce(
            opensentry.sent_cost_usd(a.total_cost_usd, a.input_cost_usd, a.output_cost_usd),
            opensentry.computed_cost_usd(
                a.input_tokens, a.cached_input_tokens, a.cache_write_tokens, a.output_tokens,
                h.input_usd, h.cached_input_usd, h.cache_write_usd, h.output_usd
            )
        ),
        CASE
            WHEN opensentry.sent_cost_usd(a.total_cost_usd, a.input_cost_usd, a.output_cost_usd) IS NOT NULL THEN 'sent'
            WHEN opensentry.has_tokens(a.input_tokens, a.output_tokens) AND h.input_usd IS NOT NULL THEN 'computed'
            ELSE 'unknown'
        END
    FROM opensentry.ai_generations AS a
    LEFT JOIN jsonb_to_recordset(prices) AS h (
        provider text, model text, valid_from timestamptz, valid_until timestamptz, input_usd numeric,
        cached_input_usd numeric, cache_write_usd numeric, output_usd numeric
    ) ON prices IS NOT NULL AND h.provider = a.provider AND h.model = a.model
        AND a.received_at >= h.valid_from AND a.received_at < h.valid_until
    LEFT JOIN opensentry.projects AS p ON p.id = a.project_id
    WHERE a.received_at >= since AND a.received_at < until
        AND (only_project_id IS NULL OR a.project_id = only_project_id)
$$;

CREATE FUNCTION opensentry.ai_generation_costs(since timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS SETOF opensentry.ai_generation_costs
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT *
    FROM opensentry.ai_generation_costs_at(since, until, opensentry.ai_generation_prices(since, until))
$$;

-- Sums by project, model and part of the period, for views and pages. Calls are grouped first, also by whether their
-- clients sent a cost, or tokens, and by the moments at which any price begins; so prices are looked up for a few
-- groups. That is one key, in microseconds after the start of the part: of several, PostgreSQL would expect as many
-- groups as there are rows, and sort all of them. The column clock_timestamp() keeps it from flattening the subquery,
-- which leads it to the same.
CREATE FUNCTION opensentry.ai_generation_sums(
    since timestamptz, until timestamptz, step interval, only_project_id uuid DEFAULT NULL
)
RETURNS TABLE (
    project_id uuid, start timestamptz, provider text, model text, calls bigint, errors bigint,
    input_tokens numeric, cached_input_tokens numeric, cache_write_tokens numeric, output_tokens numeric,
    total_tokens numeric, cost_usd numeric, computed_cost_usd numeric, calls_without_cost bigint,
    calls_without_price bigint, tokens_without_price numeric
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    WITH
        sums AS MATERIALIZED (
            SELECT
                a.project_id, a.part, a.provider, a.model,
                min(a.received_at) AS moment,
                bool_and(a.has_tokens) AS has_tokens,
                count(*) AS calls,
                count(*) FILTER (WHERE a.status = 'error') AS errors,
                sum(a.input_tokens) AS input_tokens,
                sum(a.plain_input_tokens) AS plain_input_tokens,
                sum(a.cached_input_tokens) AS cached_input_tokens,
                sum(a.cache_write_tokens) AS cache_write_tokens,
                sum(a.output_tokens) AS output_tokens,
                sum(a.total_tokens) AS total_tokens,
                sum(a.sent_usd) AS sent_usd
            FROM (
                SELECT
                    c.project_id, c.provider, c.model,
                    date_bin(step, c.received_at, '2000-01-03 00:00Z') + interval '1 microsecond' * (
                        4 * coalesce(width_bucket(c.received_at, (
                            SELECT array_agg(DISTINCT m.valid_from ORDER BY m.valid_from)
                            FROM opensentry.model_prices AS m
                            WHERE m.valid_from > since AND m.valid_from < until
                        )), 0)
                        + CASE
                            WHEN opensentry.sent_cost_usd(c.total_cost_usd, c.input_cost_usd, c.output_cost_usd)
                                IS NOT NULL THEN 2
                            WHEN opensentry.has_tokens(c.input_tokens, c.output_tokens) THEN 1
                            ELSE 0
                        END
                    ) AS part,
                    opensentry.has_tokens(c.input_tokens, c.output_tokens) AS has_tokens,
                    c.received_at, c.status, c.input_tokens,
                    opensentry.plain_input_tokens(c.input_tokens, c.cached_input_tokens, c.cache_write_tokens)
                        AS plain_input_tokens,
                    c.cached_input_tokens, c.cache_write_tokens, c.output_tokens, c.total_tokens,
                    opensentry.sent_cost_usd(c.total_cost_usd, c.input_cost_usd, c.output_cost_usd) AS sent_usd,
                    clock_timestamp()
                FROM opensentry.ai_generations AS c
                WHERE c.received_at >= since AND c.received_at < until
                    AND (only_project_id IS NULL OR c.project_id = only_project_id)
            ) AS a
            GROUP BY a.part, a.model, a.provider, a.project_id
        ),
        prices AS MATERIALIZED (
            SELECT m.provider, m.model, h.*
            FROM (SELECT DISTINCT s.provider, s.model FROM sums AS s WHERE s.sent_usd IS NULL) AS m,
                LATERAL opensentry.price_history(m.provider, m.model) AS h
        )
    SELECT
        s.project_id, s.start, s.provider, s.model, sum(s.calls)::bigint, sum(s.errors)::bigint,
        sum(s.input_tokens), sum(s.cached_input_tokens), sum(s.cache_write_tokens), sum(s.output_tokens),
        sum(s.total_tokens),
        sum(coalesce(s.sent_usd, s.computed_usd)),
        sum(s.computed_usd),
        coalesce(sum(s.calls) FILTER (WHERE s.sent_usd IS NULL AND s.computed_usd IS NULL), 0)::bigint,
        coalesce(sum(s.calls) FILTER (WHERE s.sent_usd IS NULL AND NOT s.has_price), 0)::bigint,
        sum(s.total_tokens) FILTER (WHERE s.sent_usd IS NULL AND NOT s.has_price)
    FROM (
        SELECT
            g.*,
            date_bin(step, g.part, '2000-01-03 00:00Z') AS start,
            h.input_usd IS NOT NULL AS has_price,
            CASE WHEN g.has_tokens AND g.sent_usd IS NULL THEN opensentry.token_cost_usd(
                g.plain_input_tokens, g.cached_input_tokens, g.cache_write_tokens, g.output_tokens,
                h.input_usd, h.cached_input_usd, h.cache_write_usd, h.output_usd
            ) END AS computed_usd
        FROM sums AS g
        LEFT JOIN prices AS h ON h.provider = g.provider AND h.model = g.model
            AND g.moment >= h.valid_from AND g.moment < h.valid_until
    ) AS s
    GROUP BY s.project_id, s.start, s.provider, s.model
$$;

-- As in 0007, with what is computed from prices in its costs. PostgreSQL cannot add columns to a function, so it is made
-- anew, and the view is pointed to the new one. A view that somebody has built on the old function keeps that.
ALTER FUNCTION opensentry.ai_generation_days RENAME TO ai_generation_days_0007;

CREATE FUNCTION opensentry.ai_generation_days(since timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS TABLE (
    project_id uuid, project text, day timestamptz, provider text, model text, calls bigint, errors bigint,
    input_tokens numeric, cached_input_tokens numeric, cache_write_tokens numeric, output_tokens numeric,
    total_tokens numeric, cache_hit_rate double precision, cost_usd numeric, calls_without_cost bigint,
    p50_latency_ms bigint, p95_latency_ms bigint, p50_time_to_first_token_ms bigint, p95_time_to_first_token_ms bigint,
    computed_cost_usd numeric
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        a.project_id,
        p.name,
        a.start,
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
        l.latency_ms[1],
        l.latency_ms[2],
        l.time_to_first_token_ms[1],
        l.time_to_first_token_ms[2],
        a.computed_cost_usd
    FROM opensentry.ai_generation_sums(since, until, '1 day') AS a
    JOIN (
        SELECT
            c.project_id,
            date_bin('1 day', c.received_at, '2000-01-03 00:00Z') AS start,
            c.provider,
            c.model,
            percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY c.latency_ms) AS latency_ms,
            percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY c.time_to_first_token_ms) AS time_to_first_token_ms
        FROM opensentry.ai_generations AS c
        WHERE c.received_at >= since AND c.received_at < until
        GROUP BY 2, 4, 3, 1
    ) AS l USING (project_id, start, provider, model)
    JOIN opensentry.projects AS p ON p.id = a.project_id
$$;

CREATE OR REPLACE FUNCTION opensentry.ai_generation_days_0007(since timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS TABLE (
    project_id uuid, project text, day timestamptz, provider text, model text, calls bigint, errors bigint,
    input_tokens numeric, cached_input_tokens numeric, cache_write_tokens numeric, output_tokens numeric,
    total_tokens numeric, cache_hit_rate double precision, cost_usd numeric, calls_without_cost bigint,
    p50_latency_ms bigint, p95_latency_ms bigint, p50_time_to_first_token_ms bigint, p95_time_to_first_token_ms bigint
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        a.project_id, a.project, a.day, a.provider, a.model, a.calls, a.errors, a.input_tokens, a.cached_input_tokens,
        a.cache_write_tokens, a.output_tokens, a.total_tokens, a.cache_hit_rate, a.cost_usd, a.calls_without_cost,
        a.p50_latency_ms, a.p95_latency_ms, a.p50_time_to_first_token_ms, a.p95_time_to_first_token_ms
    FROM opensentry.ai_generation_days(since, until) AS a
$$;

-- What was spent. A call with several tags is in a row of spend_tags for each of them.
CREATE FUNCTION opensentry.spend_days(since timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS TABLE (
    project_id uuid, project text, day timestamptz, calls bigint, total_tokens numeric, cost_usd numeric, computed_cost_usd numeric,
    calls_without_cost bigint
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        a.project_id, p.name, a.start, sum(a.calls)::bigint, sum(a.total_tokens), sum(a.cost_usd),
        sum(a.computed_cost_usd), coalesce(sum(a.calls_without_cost), 0)::bigint
    FROM opensentry.ai_generation_sums(since, until, '1 day') AS a
    JOIN opensentry.projects AS p ON p.id = a.project_id
    GROUP BY a.project_id, p.name, a.start
$$;

CREATE FUNCTION opensentry.spend_months(since timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS TABLE (
    project_id uuid, project text, month timestamptz, calls bigint, total_tokens numeric, cost_usd numeric, computed_cost_usd numeric,
    calls_without_cost bigint
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        a.project_id, p.name, date_trunc('month', a.start, 'UTC'), sum(a.calls)::bigint, sum(a.total_tokens), sum(a.cost_usd),
        sum(a.computed_cost_usd), coalesce(sum(a.calls_without_cost), 0)::bigint
    FROM opensentry.ai_generation_sums(since, until, '1 day') AS a
    JOIN opensentry.projects AS p ON p.id = a.project_id
    GROUP BY a.project_id, p.name, date_trunc('month', a.start, 'UTC')
$$;

CREATE FUNCTION opensentry.spend_tags(since timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS TABLE (
    project_id uuid, project text, key text, value text, calls bigint, total_tokens numeric, cost_usd numeric, computed_cost_usd numeric,
    calls_without_cost bigint
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        a.project_id, a.project, t.key, t.value,
        count(*), sum(a.total_tokens), sum(a.cost_usd),
        sum(a.cost_usd) FILTER (WHERE a.cost_source = 'computed'), count(*) - count(a.cost_usd)
    FROM opensentry.ai_generation_costs(since, until) AS a,
        LATERAL jsonb_each_text(CASE WHEN jsonb_typeof(a.tags) = 'object' THEN a.tags END) AS t
    GROUP BY a.project_id, a.project, t.key, t.value
$$;

CREATE FUNCTION opensentry.spend_users(since timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS TABLE (
    project_id uuid, project text, "user" text, calls bigint, total_tokens numeric, cost_usd numeric, computed_cost_usd numeric,
    calls_without_cost bigint
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        a.project_id, a.project, a."user",
        count(*), sum(a.total_tokens), sum(a.cost_usd),
        sum(a.cost_usd) FILTER (WHERE a.cost_source = 'computed'), count(*) - count(a.cost_usd)
    FROM opensentry.ai_generation_costs(since, until) AS a
    GROUP BY a.project_id, a.project, a."user"
$$;

CREATE FUNCTION opensentry.models_without_price(since timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS TABLE (project_id uuid, project text, provider text, model text, calls bigint, total_tokens numeric)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT a.project_id, p.name, a.provider, a.model, sum(a.calls_without_price)::bigint, sum(a.tokens_without_price)
    FROM opensentry.ai_generation_sums(since, until, '1 day') AS a
    JOIN opensentry.projects AS p ON p.id = a.project_id
    WHERE a.calls_without_price > 0
    GROUP BY a.project_id, p.name, a.provider, a.model
$$;

REVOKE ALL ON FUNCTION opensentry.model_provider FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.is_price_of FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.price_rank FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.price_history FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.sent_cost_usd FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.plain_input_tokens FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.token_cost_usd FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.has_tokens FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.computed_cost_usd FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.ai_generation_prices FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.ai_generation_costs_at FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.ai_generation_costs FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.ai_generation_sums FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.ai_generation_days FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.spend_days FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.spend_months FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.spend_tags FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.spend_users FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.models_without_price FROM PUBLIC;

CREATE OR REPLACE VIEW opensentry.ai_generation_days AS SELECT * FROM opensentry.ai_generation_days('-infinity');

DO $$
BEGIN
    IF NOT EXISTS (
        SELECT
        FROM pg_depend
        WHERE refclassid = 'pg_proc'::regclass AND refobjid = 'opensentry.ai_generation_days_0007'::regproc
    ) THEN
        DROP FUNCTION opensentry.ai_generation_days_0007;
    END IF;
END
$$;

CREATE VIEW opensentry.spend_days AS SELECT * FROM opensentry.spend_days('-infinity');
CREATE VIEW opensentry.spend_months AS SELECT * FROM opensentry.spend_months('-infinity');
CREATE VIEW opensentry.spend_tags AS SELECT * FROM opensentry.spend_tags('-infinity');
CREATE VIEW opensentry.spend_users AS SELECT * FROM opensentry.spend_users('-infinity');
CREATE VIEW opensentry.models_without_price AS SELECT * FROM opensentry.models_without_price('-infinity');

COMMENT ON VIEW opensentry.ai_generation_costs IS 'Each AI generation with its cost, and where the cost is from. Filter by project_id and trace_id or batch_id; for a period, use the function.';
COMMENT ON COLUMN opensentry.ai_generation_costs.project_id IS 'The id of the project.';
COMMENT ON COLUMN opensentry.ai_generation_costs.project IS 'The name of the project.';
COMMENT ON COLUMN opensentry.ai_generation_costs.batch_id IS 'The id of the batch that it came in.';
COMMENT ON COLUMN opensentry.ai_generation_costs.position IS 'The place of the item in its batch, from 0.';
COMMENT ON COLUMN opensentry.ai_generation_costs.received_at IS 'When it was received; its price is the one valid at that moment.';
COMMENT ON COLUMN opensentry.ai_generation_costs.provider IS 'Who served the model.';
COMMENT ON COLUMN opensentry.ai_generation_costs.model IS 'The model.';
COMMENT ON COLUMN opensentry.ai_generation_costs.status IS 'ok or error.';
COMMENT ON COLUMN opensentry.ai_generation_costs.input_tokens IS 'Input tokens, those from and for the cache included.';
COMMENT ON COLUMN opensentry.ai_generation_costs.cached_input_tokens IS 'Input tokens that were read from the cache; null if its client did not say.';
COMMENT ON COLUMN opensentry.ai_generation_costs.cache_write_tokens IS 'Input tokens that were written to the cache; null if its client did not say.';
COMMENT ON COLUMN opensentry.ai_generation_costs.output_tokens IS 'Output tokens; null if its client did not say.';
COMMENT ON COLUMN opensentry.ai_generation_costs.total_tokens IS 'Input and output tokens.';
COMMENT ON COLUMN opensentry.ai_generation_costs.latency_ms IS 'How long it took, in milliseconds; null if its client did not say.';
COMMENT ON COLUMN opensentry.ai_generation_costs.time_to_first_token_ms IS 'The time to the first token, in milliseconds; null if its client did not say.';
COMMENT ON COLUMN opensentry.ai_generation_costs.timestamp IS 'When it ended, by the client''s clock.';
COMMENT ON COLUMN opensentry.ai_generation_costs.trace_id IS 'The id of the trace that it belongs to.';
COMMENT ON COLUMN opensentry.ai_generation_costs.span_id IS 'The span that it is.';
COMMENT ON COLUMN opensentry.ai_generation_costs.environment IS 'Where it ran, such as production.';
COMMENT ON COLUMN opensentry.ai_generation_costs.release IS 'The release that made it.';
COMMENT ON COLUMN opensentry.ai_generation_costs.tags IS 'Its tags, as a map of strings.';
COMMENT ON COLUMN opensentry.ai_generation_costs."user" IS 'Its user, by id, email, username or ip_address, whichever comes first.';
COMMENT ON COLUMN opensentry.ai_generation_costs.cost_usd IS 'What it cost, in US dollars: as its client sent it, else computed from its tokens and the prices; null if neither is known.';
COMMENT ON COLUMN opensentry.ai_generation_costs.cost_source IS 'Where cost_usd is from: sent, computed or unknown.';

COMMENT ON VIEW opensentry.spend_days IS 'One row for each day with what its AI generations cost.';
COMMENT ON COLUMN opensentry.spend_days.project_id IS 'The id of the project.';
COMMENT ON COLUMN opensentry.spend_days.project IS 'The name of the project.';
COMMENT ON COLUMN opensentry.spend_days.day IS 'The beginning of the day (UTC) on which the calls were received.';
COMMENT ON COLUMN opensentry.spend_days.calls IS 'How many calls were received.';
COMMENT ON COLUMN opensentry.spend_days.total_tokens IS 'Input and output tokens.';
COMMENT ON COLUMN opensentry.spend_days.cost_usd IS 'What the calls cost, in US dollars: as their clients sent it, else computed from prices; null if no cost is known.';
COMMENT ON COLUMN opensentry.spend_days.computed_cost_usd IS 'The part of cost_usd that was computed from tokens and prices; null if there is none.';
COMMENT ON COLUMN opensentry.spend_days.calls_without_cost IS 'How many calls have no known cost, and are not part of cost_usd.';

COMMENT ON VIEW opensentry.spend_months IS 'One row for each month with what its AI generations cost.';
COMMENT ON COLUMN opensentry.spend_months.project_id IS 'The id of the project.';
COMMENT ON COLUMN opensentry.spend_months.project IS 'The name of the project.';
COMMENT ON COLUMN opensentry.spend_months.month IS 'The beginning of the month (UTC) in which the calls were received.';
COMMENT ON COLUMN opensentry.spend_months.calls IS 'How many calls were received.';
COMMENT ON COLUMN opensentry.spend_months.total_tokens IS 'Input and output tokens.';
COMMENT ON COLUMN opensentry.spend_months.cost_usd IS 'What the calls cost, in US dollars: as their clients sent it, else computed from prices; null if no cost is known.';
COMMENT ON COLUMN opensentry.spend_months.computed_cost_usd IS 'The part of cost_usd that was computed from tokens and prices; null if there is none.';
COMMENT ON COLUMN opensentry.spend_months.calls_without_cost IS 'How many calls have no known cost, and are not part of cost_usd.';

COMMENT ON VIEW opensentry.spend_tags IS 'One row for each tag with what the AI generations that have it cost. A call with several tags is in a row of each.';
COMMENT ON COLUMN opensentry.spend_tags.project_id IS 'The id of the project.';
COMMENT ON COLUMN opensentry.spend_tags.project IS 'The name of the project.';
COMMENT ON COLUMN opensentry.spend_tags.key IS 'The name of the tag.';
COMMENT ON COLUMN opensentry.spend_tags.value IS 'The value of the tag.';
COMMENT ON COLUMN opensentry.spend_tags.calls IS 'How many calls were received.';
COMMENT ON COLUMN opensentry.spend_tags.total_tokens IS 'Input and output tokens.';
COMMENT ON COLUMN opensentry.spend_tags.cost_usd IS 'What the calls cost, in US dollars: as their clients sent it, else computed from prices; null if no cost is known.';
COMMENT ON COLUMN opensentry.spend_tags.computed_cost_usd IS 'The part of cost_usd that was computed from tokens and prices; null if there is none.';
COMMENT ON COLUMN opensentry.spend_tags.calls_without_cost IS 'How many calls have no known cost, and are not part of cost_usd.';

COMMENT ON VIEW opensentry.spend_users IS 'One row for each user with what his or her AI generations cost.';
COMMENT ON COLUMN opensentry.spend_users.project_id IS 'The id of the project.';
COMMENT ON COLUMN opensentry.spend_users.project IS 'The name of the project.';
COMMENT ON COLUMN opensentry.spend_users."user" IS 'The user, by id, email, username or ip_address, whichever comes first; null for calls without one.';
COMMENT ON COLUMN opensentry.spend_users.calls IS 'How many calls were received.';
COMMENT ON COLUMN opensentry.spend_users.total_tokens IS 'Input and output tokens.';
COMMENT ON COLUMN opensentry.spend_users.cost_usd IS 'What the calls cost, in US dollars: as their clients sent it, else computed from prices; null if no cost is known.';
COMMENT ON COLUMN opensentry.spend_users.computed_cost_usd IS 'The part of cost_usd that was computed from tokens and prices; null if there is none.';
COMMENT ON COLUMN opensentry.spend_users.calls_without_cost IS 'How many calls have no known cost, and are not part of cost_usd.';

COMMENT ON VIEW opensentry.models_without_price IS 'One row for each provider and model with calls whose clients sent no cost, and for which no price was valid.';
COMMENT ON COLUMN opensentry.models_without_price.project_id IS 'The id of the project.';
COMMENT ON COLUMN opensentry.models_without_price.project IS 'The name of the project.';
COMMENT ON COLUMN opensentry.models_without_price.provider IS 'The provider, as clients name it.';
COMMENT ON COLUMN opensentry.models_without_price.model IS 'The model, as clients name it.';
COMMENT ON COLUMN opensentry.models_without_price.calls IS 'How many such calls were received.';
COMMENT ON COLUMN opensentry.models_without_price.total_tokens IS 'Input and output tokens of them.';

COMMENT ON COLUMN opensentry.ai_generation_days.cost_usd IS 'What the calls cost, in US dollars: as their clients sent it, else computed from prices; null if no cost is known.';
COMMENT ON COLUMN opensentry.ai_generation_days.calls_without_cost IS 'How many calls have no known cost, and are not part of cost_usd.';
COMMENT ON COLUMN opensentry.ai_generation_days.computed_cost_usd IS 'The part of cost_usd that was computed from tokens and prices; null if there is none.';

COMMENT ON TABLE opensentry.model_prices IS 'What models cost, in US dollars for a million tokens. See docs/costs.md.';
COMMENT ON COLUMN opensentry.model_prices.provider IS 'OpenTelemetry''s name of the provider; * is any.';
COMMENT ON COLUMN opensentry.model_prices.model IS 'The name of the model, or a pattern in which each * stands for any characters.';
COMMENT ON COLUMN opensentry.model_prices.valid_from IS 'When this price began to apply; -infinity: always.';
COMMENT ON COLUMN opensentry.model_prices.input_usd IS 'The price of a million input tokens.';
COMMENT ON COLUMN opensentry.model_prices.cached_input_usd IS 'The price of a million input tokens that are read from the cache; null: that of input tokens.';
COMMENT ON COLUMN opensentry.model_prices.cache_write_usd IS 'The price of a million input tokens that are written to the cache; null: that of input tokens.';
COMMENT ON COLUMN opensentry.model_prices.output_usd IS 'The price of a million output tokens.';

-- The role is missing if the migration that makes it may not create roles.
DO $$
BEGIN
    GRANT SELECT ON
        opensentry.model_prices, opensentry.ai_generation_costs, opensentry.ai_generation_days, opensentry.spend_days,
        opensentry.spend_months, opensentry.spend_tags, opensentry.spend_users, opensentry.models_without_price
        TO opensentry_reader;
    GRANT EXECUTE ON FUNCTION
        opensentry.model_provider, opensentry.is_price_of, opensentry.price_rank, opensentry.price_history,
        opensentry.sent_cost_usd, opensentry.plain_input_tokens, opensentry.token_cost_usd, opensentry.has_tokens,
        opensentry.computed_cost_usd, opensentry.ai_generation_prices, opensentry.ai_generation_costs_at,
        opensentry.ai_generation_costs, opensentry.ai_generation_sums,
        opensentry.ai_generation_days, opensentry.spend_days, opensentry.spend_months, opensentry.spend_tags,
        opensentry.spend_users, opensentry.models_without_price
        TO opensentry_reader;
EXCEPTION WHEN undefined_object OR insufficient_privilege THEN
    RAISE WARNING 'there is no role opensentry_reader yet; once it exists, run: GRANT SELECT ON opensentry.model_prices, opensentry.ai_generation_costs, opensentry.ai_generation_days, opensentry.spend_days, opensentry.spend_months, opensentry.spend_tags, opensentry.spend_users, opensentry.models_without_price TO opensentry_reader; GRANT EXECUTE ON FUNCTION opensentry.model_provider, opensentry.is_price_of, opensentry.price_rank, opensentry.price_history, opensentry.sent_cost_usd, opensentry.plain_input_tokens, opensentry.token_cost_usd, opensentry.has_tokens, opensentry.computed_cost_usd, opensentry.ai_generation_prices, opensentry.ai_generation_costs_at, opensentry.ai_generation_costs, opensentry.ai_generation_sums, opensentry.ai_generation_days, opensentry.spend_days, opensentry.spend_months, opensentry.spend_tags, opensentry.spend_users, opensentry.models_without_price TO opensentry_reader;';
END
$$;
