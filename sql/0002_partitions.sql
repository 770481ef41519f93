-- Retention is dropping a partition, so there are partitions from the first day on: one a month, in UTC.

-- Makes the partition of one table for the month that holds `day`, unless it is there.
CREATE FUNCTION opensentry.create_partition(parent name, day timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    month timestamptz := date_trunc('month', day);
BEGIN
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS opensentry.%I PARTITION OF opensentry.%I FOR VALUES FROM (%L) TO (%L)',
        parent || to_char(month, '_YYYY_MM'), parent, month, month + interval '1 month'
    );
END
$$;

REVOKE ALL ON FUNCTION opensentry.create_partition FROM PUBLIC;

-- A default partition means that a missing one loses nothing.
CREATE TABLE opensentry.events_default PARTITION OF opensentry.events DEFAULT;
CREATE TABLE opensentry.transactions_default PARTITION OF opensentry.transactions DEFAULT;
CREATE TABLE opensentry.spans_default PARTITION OF opensentry.spans DEFAULT;
CREATE TABLE opensentry.ai_generations_default PARTITION OF opensentry.ai_generations DEFAULT;

SELECT opensentry.create_partition(parent, date_trunc('month', now(), 'UTC') + ahead)
FROM unnest(ARRAY['events', 'transactions', 'spans', 'ai_generations']::name[]) AS parent,
    unnest(ARRAY['0 months', '1 month']::interval[]) AS ahead;
