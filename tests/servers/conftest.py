"""The database of an application that embeds the service."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from opensentry_ingest import admin
from tests.support import Database


@pytest.fixture(scope="session")
def shop_database(postgres: str) -> Iterator[Database]:
    """A database of an application, whose role is no superuser, runs the migrations and serves."""
    name = f"shop_{secrets.token_hex(4)}"
    password = conninfo_to_dict(postgres).get("password")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN" + (f" PASSWORD '{password}'" if password else ""))
        connection.execute(f"CREATE DATABASE {name} OWNER {name}")
    conninfo = make_conninfo(postgres, dbname=name, user=name)
    migrate = [sys.executable, "-m", "opensentry_ingest", "migrate"]
    subprocess.run(migrate, env={**os.environ, "DATABASE_URL": conninfo}, check=True, capture_output=True)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        project = admin.create_project(connection, "shop")
    yield Database(conninfo, conninfo, project["id"], project["public_key"])
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute(f"DROP ROLE {name}")
