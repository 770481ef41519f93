"""The WSGI application: routes, the order of checks, and every header of an answer.

The order of checks is the contract's: path, method, origin, then those of the protocol (key, idempotency key, body,
JSON, schema) and of `store`. Whatever refuses a request raises a `RequestError`, which knows its status and text.
"""

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, NamedTuple

from opensentry_ingest import body, cors, errors, logs, metrics, problems, settings, store, uuids
from opensentry_ingest.pool import Pool
from opensentry_ingest.protocols import Adapter, open_sentry, otlp, sentry

ALWAYS = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]

PROTOCOLS: dict[str, Adapter] = {
    "/v1/ingest": open_sentry,
    otlp.ROUTE: otlp,
    **dict.fromkeys(sentry.ROUTES, sentry),
}

REFUSALS: dict[str, Callable[[dict[str, Any], errors.RequestError], tuple[str, bytes]]] = {otlp.ROUTE: otlp.refusal}
"""How a refusal is worded on the routes that word it in their own way: the media type and the body."""

METHODS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("/health", "/metrics", "/ready"), ("GET", "HEAD", "OPTIONS")),
    **dict.fromkeys(PROTOCOLS, ("POST", "OPTIONS")),
}

STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Response(NamedTuple):
    """An answer: its status, its body, the headers of its own, and for a refusal the text of the error."""

    status: int
    body: bytes | None
    headers: Iterable[tuple[str, str]] = ()
    media_type: str = "application/json"
    reason: str = ""


class Application:
    """The ingest service as a WSGI callable (PEP 3333).

    Two of them in one process share the metrics and the limit on repeated warnings, and nothing else.

    Args:
        config: the settings; `create_app()` makes them from arguments and the environment.
    """

    def __init__(self, config: settings.Settings) -> None:
        self.settings = config
        metrics.start()
        self.store = store.Store(Pool(config.database_url, config.pool_size, config.database_timeout))

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        """Answer one request. Only what stops the process is ever raised."""
        batch_id = uuids.uuid7()
        request_id = logs.request_id(environ, batch_id)
        path = environ.get("PATH_INFO", "")
        route = path if path in METHODS else sentry.route(path)
        try:
            response = self._respond(environ, route, batch_id)
        except Exception as error:
            response = _refuse(environ, route, request_id, error)
        metrics.answered(route or "other", response.status, response.reason)
        headers = [*response.headers, *cors.headers(environ, self.settings.allowed_origins), *ALWAYS]
        headers.append(("X-Request-Id", request_id))
        content = response.body or b""
        if response.body is not None:
            headers += [("Content-Type", response.media_type), ("Content-Length", str(len(content)))]
        start_response(STATUS_LINES[response.status], headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else content]

    def close(self) -> None:
        """Close the connections of this process, for a host that continues without the application."""
        self.store.close()

    def _respond(self, environ: dict[str, Any], route: str, batch_id: str) -> Response:
        method = environ["REQUEST_METHOD"]
        allowed = METHODS.get(route)
        if method == "OPTIONS":
            self._check_origin(environ)
            return Response(204, None, [("Allow", ", ".join(allowed or ("OPTIONS",))), *cors.PREFLIGHT])
        if not allowed:
            raise errors.NotFound
        if method not in allowed:
            raise errors.MethodNotAllowed(allowed)
        if protocol := PROTOCOLS.get(route):
            return self._ingest(environ, batch_id, protocol)
        if route == "/metrics":
            text = metrics.exposition(several=environ["wsgi.multiprocess"])
            if text is None:
                raise errors.NotFound
            return Response(200, text, media_type=metrics.MEDIA_TYPE)
        if route == "/ready":
            self.store.check()
        return Response(200, _json({"status": "ok"}))

    def _ingest(self, environ: dict[str, Any], batch_id: str, protocol: Adapter) -> Response:
        """Take a batch from the request to a committed transaction; return the answer."""
        self._check_origin(environ)
        batch = protocol.read(environ, batch_id, self.settings.keep_prompts)
        stored_id = metrics.timed(
            "store", self.store.ingest, batch.public_key, batch.id, batch.text, batch.idempotency_key
        )
        metrics.accepted(batch.value, batch.length, batch.skipped)
        return Response(*protocol.answer(batch, stored_id), media_type=batch.media_type)

    def _check_origin(self, environ: dict[str, Any]) -> None:
        if not cors.allows(environ, self.settings.allowed_origins):
            raise errors.OriginNotAllowed


def create_app(
    database_url: str | None = None,
    *,
    allowed_origins: Iterable[str] | None = None,
    pool_size: int | None = None,
    database_timeout: float | None = None,
) -> Application:
    """Create the WSGI application. A setting that is not given is read from the environment.

    Args:
        database_url: the PostgreSQL to store in (`DATABASE_URL`).
        allowed_origins: the web origins that may post (`OPENSENTRY_ALLOWED_ORIGINS`; default: any; empty: none).
        pool_size: the most connections of each process (`OPENSENTRY_POOL_SIZE`; default: 4).
        database_timeout: seconds that a request waits for the database (`OPENSENTRY_DATABASE_TIMEOUT`; default: 5).

    Raises:
        SettingsError: a setting is missing or invalid.
    """
    return Application(
        settings.load(
            database_url=database_url,
            allowed_origins=allowed_origins,
            pool_size=pool_size,
            database_timeout=database_timeout,
        )
    )


def _refuse(environ: dict[str, Any], route: str, request_id: str, error: Exception) -> Response:
    """Log a refusal and return its answer: as its route words it, or as problem details if the client asks for them."""
    refusal = error if isinstance(error, errors.RequestError) else errors.InternalError()
    if isinstance(error, errors.EARLY):
        body.drain(environ)
    logs.refused(environ, request_id, refusal, error)
    media_type, content = REFUSALS.get(route, problems.refusal)(environ, refusal)
    return Response(refusal.status, content, refusal.headers, media_type, refusal.reason)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
