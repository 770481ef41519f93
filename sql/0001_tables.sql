-- The tables. Every one that holds items leads with project_id, so that a distributed engine can shard by it,
-- and refers to no other table: a foreign key to projects would lock that project's one row for every event.
-- Rows come in through opensentry.ingest() alone, which takes project_id from a key that it has just found.
-- The schema itself is made by the migration command, which keeps its own record there.

CREATE TABLE opensentry.projects (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Several for a project, so that a key can be rotated without a gap.
CREATE TABLE opensentry.project_keys (
    public_key text PRIMARY KEY CHECK (public_key ~ '^[A-Za-z0-9_-]{1,64}$'),
    project_id uuid NOT NULL REFERENCES opensentry.projects (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

CREATE INDEX ON opensentry.project_keys (project_id);

-- batch_id is a version 7 UUID: it grows with time, so inserts go to the right edge of the primary key, and
-- ORDER BY batch_id DESC within a project reads the newest first from it.
-- received_at is in the key because PostgreSQL wants the column that partitions there.
CREATE TABLE opensentry.events (
    project_id uuid NOT NULL,
    batch_id uuid NOT NULL,
    position integer NOT NULL CHECK (position >= 0),
    received_at timestamptz NOT NULL,
    timestamp timestamptz NOT NULL,
    level text NOT NULL CHECK (level IN ('fatal', 'error', 'warning', 'info', 'debug')),
    exception_type text,
    exception_value text,
    frames jsonb,
    message text,
    breadcrumbs jsonb,
    tags jsonb,
    "user" jsonb,
    environment text,
    release text,
    extra jsonb,
    PRIMARY KEY (project_id, batch_id, position, received_at)
) PARTITION BY RANGE (received_at);

CREATE TABLE opensentry.transactions (
    project_id uuid NOT NULL,
    batch_id uuid NOT NULL,
    position integer NOT NULL CHECK (position >= 0),
    received_at timestamptz NOT NULL,
    timestamp timestamptz NOT NULL,
    name text NOT NULL,
    trace_id text NOT NULL,
    duration_ms bigint NOT NULL CHECK (duration_ms >= 0),
    status text NOT NULL CHECK (status IN ('ok', 'error', 'cancelled')),
    environment text,
    release text,
    extra jsonb,
    PRIMARY KEY (project_id, batch_id, position, received_at)
) PARTITION BY RANGE (received_at);

CREATE TABLE opensentry.spans (
    project_id uuid NOT NULL,
    batch_id uuid NOT NULL,
    position integer NOT NULL CHECK (position >= 0),
    span_index integer NOT NULL CHECK (span_index >= 0),
    received_at timestamptz NOT NULL,
    span_id text NOT NULL,
    parent_span_id text,
    op text NOT NULL,
    description text,
    duration_ms bigint NOT NULL CHECK (duration_ms >= 0),
    extra jsonb,
    PRIMARY KEY (project_id, batch_id, position, span_index, received_at)
) PARTITION BY RANGE (received_at);

-- Costs are numeric without a scale, so that they stay exactly as they were written.
CREATE TABLE opensentry.ai_generations (
    project_id uuid NOT NULL,
    batch_id uuid NOT NULL,
    position integer NOT NULL CHECK (position >= 0),
    received_at timestamptz NOT NULL,
    timestamp timestamptz NOT NULL,
    provider text NOT NULL CHECK (provider <> ''),
    model text NOT NULL CHECK (model <> ''),
    input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
    output_tokens bigint CHECK (output_tokens >= 0),
    total_tokens bigint NOT NULL CHECK (total_tokens >= 0),
    cached_input_tokens bigint CHECK (cached_input_tokens >= 0),
    cache_write_tokens bigint CHECK (cache_write_tokens >= 0),
    input_cost_usd numeric CHECK (input_cost_usd >= 0),
    output_cost_usd numeric CHECK (output_cost_usd >= 0),
    total_cost_usd numeric CHECK (total_cost_usd >= 0),
    latency_ms bigint CHECK (latency_ms >= 0),
    time_to_first_token_ms bigint CHECK (time_to_first_token_ms >= 0),
    status text NOT NULL CHECK (status IN ('ok', 'error')),
    trace_id text,
    span_id text,
    tags jsonb,
    "user" jsonb,
    metadata jsonb,
    environment text,
    release text,
    extra jsonb,
    PRIMARY KEY (project_id, batch_id, position, received_at)
) PARTITION BY RANGE (received_at);

-- Only requests that carry an Idempotency-Key have a row here.
CREATE TABLE opensentry.idempotency_keys (
    project_id uuid NOT NULL,
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, key)
);

-- What forgets old keys finds them by age.
CREATE INDEX ON opensentry.idempotency_keys (received_at);
