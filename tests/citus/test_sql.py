"""What tests/test_sql.py holds of one PostgreSQL, on a cluster."""

from tests.test_sql import *  # noqa: F403
