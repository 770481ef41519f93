"""The WSGI application: routes, and every status and header that a client can see.

The order of the checks is the contract's: path, method, origin, key, idempotency key, then what `body`, `payload` and
`store` do. They raise their own errors, and `ANSWERS` alone says what a client hears of each.
"""

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, NamedTuple

from opensentry_ingest import body, faults, keys, payload, settings, store
from opensentry_ingest.logs import logger
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
    "/ready": ("GET", "HEAD", "OPTIONS"),
    "/v1/ingest": ("POST", "OPTIONS"),
}

# In credentials mode, which a beacon is in, "*" is no wildcard (Fetch standard), so all is named.
PREFLIGHT = [
    ("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS"),
    (
        "Access-Control-Allow-Headers",
        "Accept, Authorization, Content-Encoding, Content-Type, Idempotency-Key, X-Open-Sentry-Key, X-Sentry-Clone-Key",
    ),
    ("Access-Control-Max-Age", "86400"),
]

MOST_FAULTS = 20
"""Faults of a payload that problem details name."""

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Response(NamedTuple):
    """An answer: status, a body that becomes JSON (None: no body), and the headers that are its own."""

    status: int
    content: dict[str, Any] | None = None
    headers: Iterable[tuple[str, str]] = ()
    media_type: str = "application/json"


class Refusal(Exception):
    """An answer that ends a request early, before its body was read."""

    def __init__(self, status: int, error: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        self.status, self.error, self.headers = status, error, headers


class Application:
    """The ingest service as a WSGI callable (PEP 3333). Two of them in one process share nothing.

    Args:
        config: the settings; `create_app()` makes them from arguments and the environment.
    """

    def __init__(self, config: settings.Settings) -> None:
        self.settings = config
        self.store = store.Store(Pool(config.database_url, config.pool_size, config.database_timeout))

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        """Answer one request. Nothing but a stop of the process is ever raised."""
        try:
            response = self._respond(environ)
        except Refusal as refusal:
            body.drain(environ)
            response = _error(environ, refusal.status, refusal.error, refusal.headers)
        except Exception as error:
            status, text = next(answer for kind, answer in ANSWERS.items() if isinstance(error, kind))
            if status == 500:
                logger.exception("a bug: the request was answered 500")
            elif status == 503:
                logger.warning("storage: %s", error)
            response = _error(environ, status, text, HEADERS.get(status, ()), error)
        content = b"" if response.content is None else json.dumps(response.content).encode()
        headers = [*response.headers, *self._cors(environ), *ALWAYS]
        if response.content is not None:
            headers += [("Content-Type", response.media_type), ("Content-Length", str(len(content)))]
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else content]

    def close(self) -> None:
        """Close the connections of this process, for a host that lives on without the application."""
        self.store.close()

    def _respond(self, environ: dict[str, Any]) -> Response:
        path = environ.get("PATH_INFO", "")
        method = environ["REQUEST_METHOD"]
        allowed = METHODS.get(path)
        if method == "OPTIONS":
            self._check_origin(environ)
            return Response(204, None, [("Allow", ", ".join(allowed or ("OPTIONS",))), *PREFLIGHT])
        if not allowed:
            raise Refusal(404, "Not found")
        if method not in allowed:
            raise Refusal(405, "Method not allowed", [("Allow", ", ".join(allowed))])
        if path == "/v1/ingest":
            return Response(202, {"id": self._ingest(environ)})
        if path == "/ready":
            self.store.check()
        return Response(200, {"status": "ok"})

    def _ingest(self, environ: dict[str, Any]) -> str:
        """Take a batch from the request to a committed transaction; return its id."""
        self._check_origin(environ)
        public_key = keys.public_key(environ)
        if not public_key:
            raise Refusal(401, "Missing auth key")
        idempotency_key = environ.get("HTTP_IDEMPOTENCY_KEY")
        if idempotency_key is not None and not keys.is_idempotency_key(idempotency_key):
            raise Refusal(400, "Invalid idempotency key")
        text, value = payload.parse(body.read(environ))
        payload.validate(value)
        return self.store.ingest(public_key, text, idempotency_key)

    def _check_origin(self, environ: dict[str, Any]) -> None:
        origin = environ.get("HTTP_ORIGIN")
        if origin and self.settings.allowed_origins and origin not in self.settings.allowed_origins:
            raise Refusal(403, "Origin not allowed")

    def _cors(self, environ: dict[str, Any]) -> list[tuple[str, str]]:
        """Return the headers that let a page of this origin read the answer (Fetch standard)."""
        headers = [("Vary", "Origin")]
        origin = environ.get("HTTP_ORIGIN")
        if origin and (not self.settings.allowed_origins or origin in self.settings.allowed_origins):
            headers += [
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Allow-Credentials", "true"),
                ("Access-Control-Expose-Headers", "Retry-After"),
            ]
        return headers


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


def _error(
    environ: dict[str, Any],
    status: int,
    text: str,
    headers: Iterable[tuple[str, str]],
    cause: Exception | None = None,
) -> Response:
    """Return an error answer: the contract's body, or problem details (RFC 9457) for a client that asks for them."""
    if "application/problem+json" not in environ.get("HTTP_ACCEPT", "").lower():
        return Response(status, {"error": text}, headers)
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": text}
    if isinstance(cause, payload.InvalidPayload):
        problem["errors"] = [fault._asdict() for fault in faults.find(cause.args[0], MOST_FAULTS)]
    elif status == 400 and cause:
        problem["errors"] = [{"pointer": "", "detail": str(cause)}]
    return Response(status, problem, headers, "application/problem+json")
