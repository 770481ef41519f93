"""Our own protocol, `POST /v1/ingest`: the body is an item or an array of them, and PostgreSQL gets it as it came."""

from typing import Any

from opensentry_ingest import body, credentials, metrics, payload
from opensentry_ingest.errors import MissingKey
from opensentry_ingest.protocols import Batch


def read(environ: dict[str, Any], batch_id: str, keep_prompts: bool = False) -> Batch:
    """Make a batch of a WSGI request."""
    public_key = credentials.public_key(environ)
    if not public_key:
        raise MissingKey
    idempotency_key = credentials.idempotency_key(environ)
    data = metrics.timed("read", body.read, environ)
    text, value = metrics.timed("parse", payload.parse, data)
    metrics.timed("validate", payload.validate, value)
    return Batch(public_key, batch_id, text, value, len(data), idempotency_key)


def answer(batch: Batch, stored_id: str) -> tuple[int, bytes]:
    """Return the status and the JSON body of an accepted batch."""
    return 202, f'{{"id": "{stored_id}"}}'.encode()
