"""The store: the one call that stores a batch.

The rules that hold here: one statement for each request, so one round trip and one transaction; and each error of
PostgreSQL is an invalid payload, an outage or a bug.
"""

import time

import psycopg

from opensentry_ingest.errors import RETRY_AFTER_SECONDS, InvalidPayload, Unavailable, UnknownKey
from opensentry_ingest.pool import Pool
from opensentry_ingest.uuids import uuid7

INGEST = "SELECT opensentry.ingest($1, $2, $3, $4)"

# Readiness makes the same call with a key that no project can have: if it answers, the function, its tables and the
# right to call it are there. A standby would answer too, but could store nothing.
READY = "SELECT current_setting('transaction_read_only')::boolean OR opensentry.ingest('', $1, '[]') IS NOT NULL"


class Store:
    """The events of one database. It is safe to use from several threads.

    Args:
        pool: the connections to it.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._full_until = 0.0

    def ingest(self, public_key: str, batch_id: str, items: str, idempotency_key: str | None = None) -> str:
        """Store a batch, whole or not at all.

        Args:
            public_key: the key that names the project.
            batch_id: a new UUID of version 7.
            items: the JSON text of an array of items, valid by the schema.
            idempotency_key: makes a repeated request return the first one's id, and store nothing.

        Returns:
            The id of the batch, which is committed: the first one's if the idempotency key was used before.

        Raises:
            UnknownKey: no project has this key, or it is revoked.
            InvalidPayload: PostgreSQL cannot hold a value.
            Unavailable: the database is unreachable or too slow.
        """
        # PostgreSQL takes no NUL; no stored key has its replacement character either.
        public_key = public_key.replace("\0", "\ufffd")
        stored_id = self._call(INGEST, public_key, batch_id, items, idempotency_key)
        if not stored_id:
            raise UnknownKey
        return stored_id

    def check(self) -> None:
        """Return if a batch could be stored now.

        Raises:
            Unavailable: it could not, or the disk was too full for a batch within the last `RETRY_AFTER_SECONDS`.
        """
        if time.monotonic() < self._full_until:
            raise Unavailable("PostgreSQL had no room for a batch just now")
        if self._call(READY, uuid7()) == "t":
            raise Unavailable("the database is read-only")

    def close(self) -> None:
        """Close the connections of this process."""
        self._pool.close()

    def _call(self, statement: str, *arguments: str | None) -> str:
        """Execute one statement that returns one value; empty for NULL."""
        try:
            with self._pool.connection() as connection:
                return connection.value(statement, *arguments)
        except psycopg.Error as error:
            # 22: a value that a type cannot hold; 23514: one that a CHECK refuses, such as -1e-400, which is -0.0 to
            # the schema; 54: nested too deep for the parser of jsonb, or too large.
            state = error.sqlstate or ""
            if state.startswith(("22", "23514", "54")):
                raise InvalidPayload("a value that the database cannot hold") from error
            # The schema promises what the other constraints demand, so breaking one is a bug and no outage.
            if isinstance(error, psycopg.IntegrityError):
                raise
            # 53: no disk, no memory. Only a write shows whether there is room again, and readiness makes none.
            if state.startswith("53"):
                self._full_until = time.monotonic() + RETRY_AFTER_SECONDS
            raise Unavailable(str(error).partition("\n")[0]) from error
