"""After each test here the next request works, and the log holds no traceback."""

import json
import secrets
from collections.abc import Iterator

import pytest

from tests import support
from tests.hostile.wire import exchange, head, statuses


@pytest.fixture
def served(server: support.Server, database: support.Database) -> Iterator[support.Server]:
    """The server, which must be as good as before afterwards."""
    yield server
    body = json.dumps({**support.MINIMAL, "message": secrets.token_hex(8)}).encode()
    answer = exchange(server, head(database, f"Content-Length: {len(body)}"), body)
    assert statuses(answer) == [202], answer
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()
