-- The roles and the database. A superuser creates them once: `psql -f deploy/database.sql`.
-- The roles have no password: over the local socket, PostgreSQL on Debian identifies a client by its system user.

-- Owns the tables. Nobody logs in as this role; a superuser switches to it to migrate and to manage projects and keys.
CREATE ROLE opensentry_owner NOLOGIN;

-- May store events and nothing else. The migration grants it that right.
CREATE ROLE opensentry_ingest NOLOGIN;

-- May read events and issues, and set an issue's status, but not store. The migration grants it these rights.
CREATE ROLE opensentry_reader NOLOGIN;

-- The service logs in as this role, from the system user of the same name.
CREATE ROLE opensentry LOGIN IN ROLE opensentry_ingest;

CREATE DATABASE opensentry OWNER opensentry_owner;
