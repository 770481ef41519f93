"""What a team would otherwise write, for `make bench-peers`: FastAPI, Pydantic and asyncpg, with one INSERT.

It takes the requests of `/v1/ingest`, checks the same shapes, and answers 202 after the commit. It has no grouping,
costs, partitions, compression, idempotency, metrics or CORS. It is tuned: Pydantic parses the bytes itself, PostgreSQL
gets them as they came, the key is looked up by the INSERT, and asyncpg prepares it and resets no connection.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal
from uuid import uuid4

import asyncpg
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

LIMIT_BYTES = 262_144
INSERT = """
    INSERT INTO peer.items (project_id, batch_id, position, type, happened_at, item)
    SELECT project_id, $2, position - 1, item ->> 'type', coalesce((item ->> 'timestamp')::timestamptz, now()), item
    FROM opensentry.project_keys, jsonb_array_elements($3::jsonb) WITH ORDINALITY AS items (item, position)
    WHERE public_key = $1 AND revoked_at IS NULL
"""

Line = Annotated[int, Field(ge=1 - 2**53, lt=2**53)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Cost = Annotated[float, Field(ge=0, lt=2**53)]
Name = Annotated[str, Field(min_length=1)]
# PostgreSQL refuses a day that does not exist.
_TIME = r"([01]\d|2[0-3]):[0-5]\d(:([0-5]\d|60)(\.\d{1,9})?)?(Z|[+-](0\d|1[0-4])(:?[0-5]\d)?)?"
Timestamp = Annotated[str, Field(pattern=rf"(?-u)^\d{{4}}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(T{_TIME})?$")]


class Shape(BaseModel):
    """A part of an item. A member has a default if it is optional; none may be null."""

    model_config = ConfigDict(strict=True)


class _Frame(Shape):
    filename: str = ""
    function: str = ""
    module: str = ""
    absPath: str = ""
    lineno: Line = 0
    colno: Line = 0
    inApp: bool = False
    contextLine: str = ""
    preContext: list[str] = []
    postContext: list[str] = []


class _Stacktrace(Shape):
    frames: list[_Frame] = []


class _Exception(Shape):
    type: str = ""
    value: str = ""
    stacktrace: _Stacktrace = _Stacktrace()


class _Breadcrumb(Shape):
    category: str = ""
    message: str = ""
    level: str = ""
    timestamp: str = ""
    type: str = ""
    data: dict[str, Any] = {}


class _Span(Shape):
    spanId: str
    op: str
    description: str = ""
    durationMs: Count
    startMs: Count = 0
    status: Literal["ok", "error", "cancelled"] = "ok"
    parentSpanId: str = ""


class _Item(Shape):
    tags: dict[str, str] = {}
    user: dict[str, str] = {}
    environment: str = ""
    release: str = ""
    timestamp: Timestamp = ""


class _Error(_Item):
    type: Literal["error"]
    exception: _Exception
    message: str = ""
    level: Literal["fatal", "error", "warning", "info", "debug"] = "error"
    breadcrumbs: list[_Breadcrumb] = []
    traceId: str = ""
    spanId: str = ""
    fingerprint: Annotated[list[str], Field(min_length=1, max_length=20)] = [""]


class _Transaction(_Item):
    type: Literal["transaction"]
    name: str
    traceId: str
    spanId: str = ""
    parentSpanId: str = ""
    op: str = ""
    durationMs: Count
    status: Literal["ok", "error", "cancelled"] = "ok"
    spans: list[_Span] = []


class _AiGeneration(_Item):
    type: Literal["ai_generation"]
    provider: Name
    model: Name
    inputTokens: Count
    outputTokens: Count = 0
    totalTokens: Count = 0
    cachedInputTokens: Count = 0
    cacheWriteTokens: Count = 0
    inputCostUsd: Cost = 0
    outputCostUsd: Cost = 0
    totalCostUsd: Cost = 0
    latencyMs: Count = 0
    timeToFirstTokenMs: Count = 0
    status: Literal["ok", "error"] = "ok"
    traceId: str = ""
    spanId: str = ""
    metadata: dict[str, Any] = {}


Item = Annotated[_Error | _Transaction | _AiGeneration, Field(discriminator="type")]
PAYLOAD: TypeAdapter[Any] = TypeAdapter(Item | Annotated[list[Item], Field(min_length=1, max_length=20)])


async def _no_reset(connection: Any) -> None:
    """Leave a returned connection as it is: nothing here changes its state."""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=4, max_size=4, reset=_no_reset
    ) as app.state.pool:
        yield


def _answer(status: int, name: str, value: object) -> Response:
    return Response(f'{{"{name}": "{value}"}}', status, media_type="application/json")


async def health() -> Response:
    """Answer without a query."""
    return _answer(200, "status", "ok")


async def ingest(request: Request) -> Response:
    """Store one item or a batch."""
    key = request.headers.get("x-open-sentry-key") or request.query_params.get("key")
    if not key:
        return _answer(401, "error", "Missing auth key")
    body = await request.body()
    if len(body) > LIMIT_BYTES:
        return _answer(413, "error", "Payload too large")
    batch_id = uuid4()
    try:
        text = body.decode() if isinstance(PAYLOAD.validate_json(body), list) else f"[{body.decode()}]"
        stored = await request.app.state.pool.execute(INSERT, key, batch_id, text, timeout=5)
    except (ValidationError, asyncpg.DataError):
        return _answer(400, "error", "Invalid payload")
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return _answer(503, "error", "Service unavailable")
    return _answer(403, "error", "Invalid DSN key") if stored == "INSERT 0 0" else _answer(202, "id", batch_id)


app = FastAPI(lifespan=_lifespan)
app.add_api_route("/health", health, methods=["GET"])
app.add_api_route("/v1/ingest", ingest, methods=["POST"])
