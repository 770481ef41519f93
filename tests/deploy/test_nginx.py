"""What a client sees through nginx is what it would see without."""

from tests import contract
from tests.support import Database


def test_the_contract_holds_through_nginx(url: str, database: Database) -> None:
    contract.check(url, database)
