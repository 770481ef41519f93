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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A certificate for localhost with its key; Python's TLS trusts it during the run."""
    path = stack.make_certificate(tmp_path_factory.mktemp("certificate"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield path


@pytest.fixture(scope="module")
def url(folder: Path, certificate: Path, service: stack.Service) -> Iterator[str]:
    """The URL of the service for clients."""
    with stack.nginx(folder, certificate, service.path) as url:
        yield url
