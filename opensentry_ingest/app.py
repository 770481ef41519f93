"""The WSGI application: routes, and every status and header that a client can see.

The order of the checks is the contract's: path, method, origin, key, idempotency key, then what `body`, `payload` and
`store` do. They raise their own errors, and `ANSWERS` alone says what a client hears of each.
"""

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, NamedTuple

from opensentry_ingest import body, cors, faults, keys, logs, metrics, payload, settings, store
from opensentry_ingest.pool import Pool

ANSWERS: dict[type[Exception], tuple[int, str]] = {
    body.TooLarge: (413, "Payload too large"),
    body.UnsupportedEncoding: (415, "Unsupported content encoding"),
    body.Broken: (400, "Invalid JSON"),
    payload.InvalidJSON: (400, "Invalid JSON"),
    payload.InvalidPayload: (400, "Invalid payload"),
    store.Unstorable: (400, "Invalid payload"),
    store.UnknownKey: (403, "Invalid DSN key"),
    store.Unavailable: (503, "Service unavailable"),
    Exception: (500, "Internal server error"),
}

HEADERS: dict[int, list[tuple[str, str]]] = {
    415: [("Accept-Encoding", "gzip, deflate")],
    503: [("Retry-After", "5")],
}
"""Headers that belong to a status."""

ALWAYS = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]

METHODS = {
    "/health": ("GET", "HEAD", "OPTIONS"),
    "/metrics": ("GET", "HEAD", "OPTIONS"),
    "/ready": ("GET", "HEAD", "OPTIONS"),
    "/v1/ingest": ("POST", "OPTIONS"),
}

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Response(NamedTuple):
    """An answer: status, a body (None: none), the headers that are its own, and the reason of a refusal."""

    status: int
    content: dict[str, Any] | bytes | None = None
    headers: Iterable[tuple[str, str]] = ()
    media_type: str = "application/json"
    reason: str = ""


class Refusal(Exception):
    """An answer that ends a request early, before its body was read."""

    def __init__(self, status: int, reason: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        self.status, self.reason, self.headers = status, reason, headers


class Application:
    """The ingest service as a WSGI callable (PEP 3333). Two of them in one process share nothing.

    Args:
        config: the settings; `create_app()` makes them from arguments and the environment.
    """

    def __init__(self, config: settings.Settings) -> None:
        self.settings = config
        metrics.start()
        self.store = store.Store(Pool(config.database_url, config.pool_size, config.database_timeout))

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        """Answer one request. Nothing but a stop of the process is ever raised."""
        fresh_id = keys.uuid7()
        request_id = logs.request_id(environ, fresh_id)
        try:
            response = self._respond(environ, fresh_id)
        except Exception as error:
            response = _refuse(environ, request_id, error)
        path = environ.get("PATH_INFO", "")
        metrics.answered(path if path in METHODS else "other", response.status, response.reason)
        content = response.content or b""
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        headers = [*response.headers, *cors.headers(environ, self.settings.allowed_origins), *ALWAYS]
        headers.append(("X-Request-Id", request_id))
        if response.content is not None:
            headers += [("Content-Type", response.media_type), ("Content-Length", str(len(content)))]
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else content]

    def close(self) -> None:
        """Close the connections of this process, for a host that lives on without the application."""
        self.store.close()

    def _respond(self, environ: dict[str, Any], fresh_id: str) -> Response:
        path = environ.get("PATH_INFO", "")
        method = environ["REQUEST_METHOD"]
        allowed = METHODS.get(path)
        if method == "OPTIONS":
            self._check_origin(environ)
            return Response(204, None, [("Allow", ", ".join(allowed or ("OPTIONS",))), *cors.PREFLIGHT])
        if not allowed:
            raise Refusal(404, "Not found")
        if method not in allowed:
            raise Refusal(405, "Method not allowed", [("Allow", ", ".join(allowed))])
        if path == "/v1/ingest":
            return Response(202, {"id": self._ingest(environ, fresh_id)})
        if path == "/metrics":
            text = metrics.exposition(several=environ["wsgi.multiprocess"])
            if text is None:
                raise Refusal(404, "Not found")
            return Response(200, text, media_type=metrics.MEDIA_TYPE)
        if path == "/ready":
            self.store.check()
        return Response(200, {"status": "ok"})

    def _ingest(self, environ: dict[str, Any], batch_id: str) -> str:
        """Take a batch from the request to a committed transaction; return the id that it has there."""
        self._check_origin(environ)
        public_key = keys.public_key(environ)
        if not public_key:
            raise Refusal(401, "Missing auth key")
        idempotency_key = environ.get("HTTP_IDEMPOTENCY_KEY")
        if idempotency_key is not None and not keys.is_idempotency_key(idempotency_key):
            raise Refusal(400, "Invalid idempotency key")
        data = metrics.timed("read", body.read, environ)
        text, value = metrics.timed("parse", payload.parse, data)
        metrics.timed("validate", payload.validate, value)
        stored_id = metrics.timed("store", self.store.ingest, public_key, batch_id, text, idempotency_key)
        metrics.accepted(value, len(data))
        return stored_id

    def _check_origin(self, environ: dict[str, Any]) -> None:
        if not cors.allows(environ, self.settings.allowed_origins):
            raise Refusal(403, "Origin not allowed")


def create_app(
    database_url: str | None = None,
    *,
    allowed_origins: Iterable[str] | None = None,
    pool_size: int | None = None,
    database_timeout: float | None = None,
) -> Application:
    """Make the WSGI application. What is not given is read from the environment.

    Args:
        database_url: the PostgreSQL to store in (`DATABASE_URL`).
        allowed_origins: the web origins that may post (`OPENSENTRY_ALLOWED_ORIGINS`; default: any).
        pool_size: connections for each process, at most (`OPENSENTRY_POOL_SIZE`; default: 4).
        database_timeout: seconds that a request waits for the database (`OPENSENTRY_DATABASE_TIMEOUT`; default: 5).

    Raises:
        SettingsError: a setting is missing or makes no sense.
    """
    return Application(
        settings.load(
            database_url=database_url,
            allowed_origins=None if allowed_origins is None else list(allowed_origins),
            pool_size=pool_size,
            database_timeout=database_timeout,
        )
    )


def _refuse(environ: dict[str, Any], request_id: str, error: Exception) -> Response:
    """Log a refusal and return its answer: the contract's body, or problem details for a client that asks for them."""
    cause = None
    if isinstance(error, Refusal):
        body.drain(environ)
        status, reason, headers = error.status, error.reason, error.headers
    else:
        cause = error
        status, reason = next(answer for kind, answer in ANSWERS.items() if isinstance(error, kind))
        headers = HEADERS.get(status, ())
    logs.refused(environ, request_id, status, reason, cause)
    if "application/problem+json" not in environ.get("HTTP_ACCEPT", "").lower():
        return Response(status, {"error": reason}, headers, reason=reason)
    return Response(status, faults.problem(status, reason, cause), headers, "application/problem+json", reason)
