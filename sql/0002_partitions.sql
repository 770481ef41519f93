-- Retention is dropping a partition, so there are partitions from the first day on: one a month, in UTC.
-- `opensentry-ingest maintain` makes those that follow, with the same functions.

-- Makes the table of the month that begins at `month`, not yet a partition of `parent`; returns its name.
-- Its check lets PostgreSQL attach it without reading its rows.
CREATE FUNCTION opensentry.build_partition(parent name, month timestamptz) RETURNS name
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    partition name := parent || to_char(month, '_YYYY_MM');
BEGIN
    EXECUTE format(
        'CREATE TABLE opensentry.%I (LIKE opensentry.%I INCLUDING ALL, '
        'CONSTRAINT month CHECK (received_at >= %L AND received_at < %L))',
        partition, parent, month, month + interval '1 month'
    );
    RETURN partition;
END
$$;

-- Makes the table of a month a partition of `parent`.
CREATE FUNCTION opensentry.attach_partition(parent name, month timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    partition name := parent || to_char(month, '_YYYY_MM');
BEGIN
    EXECUTE format(
        'ALTER TABLE opensentry.%I ATTACH PARTITION opensentry.%I FOR VALUES FROM (%L) TO (%L)',
        parent, partition, month, month + interval '1 month'
    );
    EXECUTE format('ALTER TABLE opensentry.%I DROP CONSTRAINT month', partition);
END
$$;

REVOKE ALL ON FUNCTION opensentry.build_partition FROM PUBLIC;
REVOKE ALL ON FUNCTION opensentry.attach_partition FROM PUBLIC;

-- A default partition means that a missing one loses nothing.
CREATE TABLE opensentry.events_default PARTITION OF opensentry.events DEFAULT;
CREATE TABLE opensentry.transactions_default PARTITION OF opensentry.transactions DEFAULT;
CREATE TABLE opensentry.spans_default PARTITION OF opensentry.spans DEFAULT;
CREATE TABLE opensentry.ai_generations_default PARTITION OF opensentry.ai_generations DEFAULT;

DO $$
DECLARE
    parent name;
    month timestamptz;
BEGIN
    FOREACH parent IN ARRAY '{events,transactions,spans,ai_generations}'::name[] LOOP
        FOR ahead IN 0..3 LOOP
            month := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => ahead)) AT TIME ZONE 'UTC';
            PERFORM opensentry.build_partition(parent, month), opensentry.attach_partition(parent, month);
        END LOOP;
    END LOOP;
END
$$;
