-- The indexes that reading needs: the events of an issue, newest first, and what belongs to a trace.
--
-- ON ONLY makes the index of the partitioned table alone, at once and without blocking ingest. New partitions get theirs
-- when they are made; `migrate` then builds those of the existing partitions concurrently (indexes.py).
CREATE INDEX events_issue ON ONLY opensentry.events (project_id, fingerprint, received_at);
CREATE INDEX events_trace ON ONLY opensentry.events (project_id, trace_id) WHERE trace_id IS NOT NULL;
CREATE INDEX transactions_trace ON ONLY opensentry.transactions (project_id, trace_id);
CREATE INDEX ai_generations_trace ON ONLY opensentry.ai_generations (project_id, trace_id) WHERE trace_id IS NOT NULL;
