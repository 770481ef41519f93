-- The indexes that reading needs: the events of an issue, newest first, and what belongs to a trace.
--
-- ON ONLY makes the index of the partitioned table alone, at once and without blocking ingest. New partitions get theirs
-- when they are made; `migrate` then builds those of the existing partitions concurrently (indexes.py).
--
-- A btree entry has at most about 2,700 bytes, so longer trace ids, which no client makes, are left out: an insert would
-- fail else. A query must repeat the condition.
CREATE INDEX events_issue ON ONLY opensentry.events (project_id, fingerprint, received_at);
CREATE INDEX events_trace ON ONLY opensentry.events (project_id, trace_id) WHERE length(trace_id) <= 200;
CREATE INDEX transactions_trace ON ONLY opensentry.transactions (project_id, trace_id) WHERE length(trace_id) <= 200;
CREATE INDEX ai_generations_trace ON ONLY opensentry.ai_generations (project_id, trace_id)
WHERE length(trace_id) <= 200;
