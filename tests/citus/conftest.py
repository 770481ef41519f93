"""The fixtures of the other tests, on a cluster: they run here unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from opensentry_ingest import distribution, embedded
from tests import support
from tests.citus import nodes
from tests.databases import clusters
from tests.databases.conftest import start  # noqa: F401


@pytest.fixture(scope="session")
def cluster() -> Iterator[nodes.Nodes]:
    """A coordinator, two workers, and a server that is none yet."""
    with nodes.running() as running:
        yield running


def distribute(conninfo: str) -> list[str]:
    said: list[str] = []
    with psycopg.connect(conninfo, autocommit=True) as connection:
        distribution.distribute(connection, said.append)
    return said


@contextmanager
def distributed(cluster: nodes.Nodes) -> Iterator[support.Database]:
    with nodes.database(cluster) as owner:
        migrated = clusters.migrated(owner)
        embedded.viewer_conninfo(owner)
        distribute(owner)
        yield migrated


@pytest.fixture(scope="module")
def database(cluster: nodes.Nodes) -> Iterator[support.Database]:
    """A distributed database with one project."""
    with distributed(cluster) as database:
        yield database


@pytest.fixture
def fresh(cluster: nodes.Nodes) -> Iterator[support.Database]:
    """A distributed database that a test has for itself."""
    with distributed(cluster) as database:
        yield database
