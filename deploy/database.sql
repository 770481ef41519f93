-- The roles and the database, made once by a superuser: `psql -f deploy/database.sql`.
-- The roles have no password: over the local socket, PostgreSQL on Debian goes by the name of the system's user.

-- Owns the tables. Nobody logs in as this role; a superuser takes it on to migrate and to manage projects and keys.
CREATE ROLE opensentry_owner NOLOGIN;

-- May store events, and nothing else. The migration grants it that.
CREATE ROLE opensentry_ingest NOLOGIN;

-- What the service logs in as, from the system's user of the same name.
CREATE ROLE opensentry LOGIN IN ROLE opensentry_ingest;

CREATE DATABASE opensentry OWNER opensentry_owner;
