"""A Citus cluster on loopback: a coordinator and workers, each a PostgreSQL of its own."""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.conftest import execute
from tests.databases import clusters

SETTINGS = (
    "shared_preload_libraries=citus",
    "wal_level=logical",
    "max_prepared_transactions=100",
    "max_connections=200",
    # Of a cluster without TLS.
    "citus.node_conninfo=sslmode=disable",
    # Fewer than the 32 by default, so that a test does not wait for hundreds of empty tables.
    "citus.shard_count=4",
    # A worker that was killed is noticed within the time of a test.
    "citus.node_connection_timeout=2000",
    "citus.recover_2pc_interval=2s",
)


def programs() -> Path:
    """Return the folder of the programs of a PostgreSQL with Citus; skip the test if there is none."""
    found = os.environ.get("TEST_CITUS_BIN")
    if not found:
        pytest.skip("TEST_CITUS_BIN is not set: no package registry has Citus; see README.md")
    return Path(found)


@dataclass
class Nodes:
    """The servers of a cluster. The first is the coordinator."""

    servers: list[clusters.Cluster]
    spare: clusters.Cluster
    """One that runs and belongs to no database yet."""

    @property
    def coordinator(self) -> clusters.Cluster:
        return self.servers[0]

    @property
    def workers(self) -> Sequence[clusters.Cluster]:
        return self.servers[1:]


@contextmanager
def running(workers: int = 2) -> Iterator[Nodes]:
    """Run a coordinator, its workers, and one more server."""
    path = programs()
    with clusters.folder() as folder, ExitStack() as stack:
        servers = []
        for _ in range(workers + 2):
            servers.append(clusters.Cluster(path, folder))
            stack.callback(servers[-1].stop)
            servers[-1].start(*SETTINGS)
        yield Nodes(servers[:-1], servers[-1])


def join(nodes: Nodes, owner: str) -> None:
    """Make the servers nodes of one database."""
    name = conninfo_to_dict(owner)["dbname"]
    for worker in [*nodes.workers, nodes.spare]:
        execute(make_conninfo(worker.conninfo, dbname=name), "CREATE EXTENSION IF NOT EXISTS citus")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("SELECT citus_set_coordinator_host('127.0.0.1', %s)", (nodes.coordinator.port,))
        for worker in nodes.workers:
            connection.execute("SELECT citus_add_node('127.0.0.1', %s)", (worker.port,))


@contextmanager
def database(nodes: Nodes, citus: bool = True) -> Iterator[str]:
    """Yield the connection string of the owner of a new database on every server.

    Args:
        nodes: the servers.
        citus: whether it spans the cluster already.
    """
    name = f"test_{secrets.token_hex(4)}"
    everywhere = [*nodes.servers, nodes.spare]
    for server in everywhere:
        # Partitions are by month in UTC, whatever the time zone of a session is.
        execute(server.conninfo, f"CREATE DATABASE {name}", f"ALTER DATABASE {name} SET timezone = 'America/New_York'")
    owner = make_conninfo(nodes.coordinator.conninfo, dbname=name)
    if citus:
        execute(owner, "CREATE EXTENSION citus")
        join(nodes, owner)
    try:
        yield owner
    finally:
        for server in everywhere:
            execute(server.conninfo, f"DROP DATABASE {name} WITH (FORCE)")
