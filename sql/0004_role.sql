-- The group role of the web processes: it may execute ingest(), which readiness calls too, and nothing else.
-- An operator makes a login role for the service that is a member of it.
DO $$
BEGIN
    -- Roles belong to the whole cluster: another database's migration may have made it, or be making it now.
    IF to_regrole('opensentry_ingest') IS NULL THEN
        BEGIN
            CREATE ROLE opensentry_ingest NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    GRANT USAGE ON SCHEMA opensentry TO opensentry_ingest;
    GRANT EXECUTE ON FUNCTION opensentry.ingest TO opensentry_ingest;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'may not create the role opensentry_ingest; as a superuser run: CREATE ROLE opensentry_ingest NOLOGIN; GRANT USAGE ON SCHEMA opensentry TO opensentry_ingest; GRANT EXECUTE ON FUNCTION opensentry.ingest TO opensentry_ingest;';
END
$$;
