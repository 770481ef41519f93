"""The whole stack: a client, TLS, nginx, a Unix socket, gunicorn, PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import stack
from tests.support import Database


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="module")
def service(folder: Path, database: Database) -> Iterator[stack.Service]:
    with stack.service(folder, database.service) as running:
        yield running


@pytest.fixture(scope="module")
def url(folder: Path, service: stack.Service) -> Iterator[str]:
    """Where clients reach the service."""
    with pytest.MonkeyPatch.context() as patch, stack.nginx(folder, service.path) as url:
        patch.setenv("SSL_CERT_FILE", str(folder / "certificate.pem"))
        yield url
