"""The contract over real HTTP, on gunicorn. `tests/servers/` has the other servers."""

from tests import contract
from tests.support import Database, Server


def test_gunicorn_keeps_the_contract(server: Server, database: Database) -> None:
    contract.check(server.url, database)
