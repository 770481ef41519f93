-- What Citus asks of statements on distributed tables, in a form that PostgreSQL alone executes just as well.

-- The time is taken before the UPDATE, because on a distributed table every node would compute its own.
CREATE OR REPLACE FUNCTION opensentry.set_issue_status(project_id uuid, fingerprint uuid, status text) RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    resolution timestamptz := CASE set_issue_status.status WHEN 'resolved' THEN clock_timestamp() END;
BEGIN
    UPDATE opensentry.issues AS i
    SET status = set_issue_status.status, resolved_at = resolution
    WHERE i.project_id = set_issue_status.project_id AND i.fingerprint = set_issue_status.fingerprint;
    RETURN FOUND;
END
$$;
