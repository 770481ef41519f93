"""The store: the one call that stores a batch.

The rules that hold here: one statement for a request, so one round trip and one transaction; and what PostgreSQL
refuses is told apart into the client's fault, an outage and a bug.
"""

import time

import psycopg

from opensentry_ingest.keys import uuid7
from opensentry_ingest.pool import Pool

INGEST = "SELECT opensentry.ingest($1, $2, $3, $4)"

# Readiness makes the same call with a key that no project can have: when it answers, the function, its tables and the
# right to call it are there. A standby would answer too, but could store nothing.
READY = "SELECT current_setting('transaction_read_only')::boolean OR opensentry.ingest('', $1, '[]') IS NOT NULL"


class UnknownKey(Exception):
    """No project has this public key, or it is revoked."""


class Unstorable(Exception):
    """The payload is valid by the schema, but PostgreSQL refuses a value in it, as a 30th of February."""


class Unavailable(Exception):
    """The database is away, or no connection was free in time."""


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
            public_key: what the client names its project by.
            batch_id: a new UUID of version 7.
            items: the JSON text of one item or an array of them, valid by the schema.
            idempotency_key: makes a repeated request return the first one's id, and store nothing.

        Returns:
            The id of the batch, which is committed: the first one's where the key was there before.

        Raises:
            UnknownKey: no project has this key, or it is revoked.
            Unstorable: PostgreSQL cannot hold a value.
            Unavailable: the database is away or too slow.
        """
        # PostgreSQL takes no NUL; the character that stands in for it is in no stored key either.
        public_key = public_key.replace("\0", "\ufffd")
        stored_id = self._call(INGEST, public_key, batch_id, items, idempotency_key)
        if not stored_id:
            raise UnknownKey
        return stored_id

    def check(self) -> None:
        """Return if a batch could be stored now.

        Raises:
            Unavailable: it could not, or a batch found no room on the disk in the last five seconds.
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
            # 22: a value that a type cannot hold; 23514: one that a CHECK refuses, as -1e-400, which is -0.0 to the
            # schema; 54: nested too deep for the parser of jsonb, or too large.
            state = error.sqlstate or ""
            if state.startswith(("22", "23514", "54")):
                raise Unstorable("a value that the database cannot hold, as a day that does not exist") from error
            # The schema promises what the other constraints demand, so breaking one is a bug and no outage.
            if isinstance(error, psycopg.IntegrityError):
                raise
            # 53: no disk, no memory. Only a write shows whether there is room again, and readiness makes none.
            if state.startswith("53"):
                self._full_until = time.monotonic() + 5
            raise Unavailable(str(error).partition("\n")[0]) from error
