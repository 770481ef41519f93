-- The indexes that reading needs: the events of an issue, newest first; what belongs to a trace; and what came in during
-- a period. The last are block ranges (BRIN), which cost an insert next to nothing: rows lie in the order of arrival.
--
-- If a table has rows, ONLY makes the index of the partitioned table alone, at once and without blocking ingest;
-- `migrate` then builds those of its partitions concurrently (indexes.py).
--
-- A btree entry has at most about 2,700 bytes, so trace ids of over 200 characters, which no client makes, are left
-- out: an insert of one would fail. A query must repeat the condition.
DO $$
DECLARE
    wanted record;
    filled boolean;
BEGIN
    FOR wanted IN
        VALUES
            ('events', 'issue', '(project_id, fingerprint, received_at)'),
            ('events', 'trace', '(project_id, trace_id) WHERE length(trace_id) <= 200'),
            ('events', 'period', 'USING brin (received_at) WITH (autosummarize = on)'),
            ('transactions', 'trace', '(project_id, trace_id) WHERE length(trace_id) <= 200'),
            ('transactions', 'period', 'USING brin (received_at) WITH (autosummarize = on)'),
            ('ai_generations', 'trace', '(project_id, trace_id) WHERE length(trace_id) <= 200'),
            ('ai_generations', 'period', 'USING brin (received_at) WITH (autosummarize = on)')
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM opensentry.%I)', wanted.column1) INTO filled;
        EXECUTE format(
            'CREATE INDEX %I ON %s opensentry.%I %s',
            wanted.column1 || '_' || wanted.column2, CASE WHEN filled THEN 'ONLY' ELSE '' END,
            wanted.column1, wanted.column3
        );
    END LOOP;
END
$$;
