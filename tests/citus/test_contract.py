"""What tests/test_contract.py holds of one PostgreSQL, on a cluster."""

from tests.test_contract import *  # noqa: F403
