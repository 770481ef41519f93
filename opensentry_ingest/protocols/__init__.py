"""The protocols that clients speak: each is one module that makes a batch of a request, and an answer of a stored id.

The rules that hold here: a protocol has no SQL, and no status but those of `errors` and of its answer; the items that
it makes are items of our schema, and pass the same validation; and what is the same for all protocols (routes, CORS,
metrics, logs, problem details) is in `app`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol


class Batch(NamedTuple):
    """What a request asks to be stored."""

    public_key: str
    id: str
    """The id that the batch will have: a UUID."""
    text: str
    """The items as PostgreSQL gets them: the JSON text of an array, valid by the schema."""
    value: Any
    """The same items, parsed: an item or an array of them."""
    length: int
    """The bytes of the request, unpacked."""
    idempotency_key: str | None = None
    skipped: Mapping[str, int] = {}
    """How many parts of the request are not stored, by kind. There are few kinds, and no client can add one."""
    media_type: str = "application/json"
    """What the answer is in."""


class Adapter(Protocol):
    """What `app` needs of a module of this package."""

    def read(self, environ: dict[str, Any], batch_id: str, keep_prompts: bool = False) -> Batch:
        """Make a batch of a WSGI request.

        Args:
            environ: the WSGI environment (PEP 3333).
            batch_id: a new UUID of version 7, for a batch whose request gives it none.
            keep_prompts: whether to store what a model was asked and what it answered, where a protocol knows it.

        Raises:
            RequestError: the request is refused.
        """

    def answer(self, batch: Batch, stored_id: str) -> tuple[int, bytes]:
        """Return the status and the body that tell a client that its batch is committed, under this id."""
