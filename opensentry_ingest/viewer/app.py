"""The WSGI application of the viewer: routes, errors, and every header of an answer."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from opensentry_ingest import admin, logs, settings
from opensentry_ingest.app import StartResponse
from opensentry_ingest.viewer import access, database, rendering
from opensentry_ingest.viewer.errors import BadRequest, InternalError, MethodNotAllowed, NotFound, PageError
from opensentry_ingest.viewer.pages import ACTIONS, PAGES
from opensentry_ingest.viewer.request import Request

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

STATIC = {path.name: path.read_bytes() for path in (Path(__file__).parent / "static").iterdir()}

VERSIONS = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in STATIC.items()}
"""What the URL of a static file ends in, so that it can be cached for as long as it is the same."""


class Response(NamedTuple):
    """An answer."""

    status: int
    body: bytes = b""
    media_type: str = "text/html; charset=utf-8"
    headers: Iterable[tuple[str, str]] = ()
    cache: str = "no-store"


class Viewer:
    """The viewer as a WSGI callable (PEP 3333); `create_viewer()` makes one.

    Args:
        config: the settings.
        hosts: the names that the header Host may have; None: any.
    """

    def __init__(self, config: settings.Settings, hosts: Collection[str] | None = None) -> None:
        self._settings, self._hosts = config, hosts
        self._pool = database.pool(config)
        self._templates = rendering.templates()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        """Answer one request. Only what stops the process is ever raised."""
        try:
            response = self._respond(environ)
        except Exception as error:
            response = self._refuse(environ, error)
        headers = [
            *access.HEADERS,
            *response.headers,
            ("Cache-Control", response.cache),
            ("Content-Type", response.media_type),
            ("Content-Length", str(len(response.body))),
        ]
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else response.body]

    def close(self) -> None:
        """Close the connections of this process, for a host that continues without the viewer."""
        self._pool.close()

    def _respond(self, environ: dict[str, Any]) -> Response:
        access.check(environ, self._settings.viewer_password, self._hosts)
        request = Request(environ)
        method = environ["REQUEST_METHOD"]
        if method == "POST":
            return self._act(request)
        if any(_match(action.path, request) for action in ACTIONS):
            raise MethodNotAllowed("POST")
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed("GET, HEAD")
        if request.path.startswith("/static/"):
            return _static(request)
        if request.path in ("", "/"):
            return Response(303, headers=[("Location", request.link("/issues"))])
        return self._page(request)

    def _page(self, request: Request) -> Response:
        for page in PAGES:
            if _match(page.path, request):
                break
        else:
            raise NotFound("No page has this address.")
        with database.connection(self._pool, self._settings) as connection:
            request.projects = admin.projects(connection)
            data = page.data(request, connection)
        if request.wants_json:
            return Response(200, _json(data), "application/json")
        return Response(200, self._render(page.template, request, **data))

    def _act(self, request: Request) -> Response:
        access.check_origin(request.environ)
        for action in ACTIONS:
            if _match(action.path, request):
                break
        else:
            raise MethodNotAllowed("GET, HEAD")
        back = _own_url(request, request.form.get("back", ""))
        with database.connection(self._pool, self._settings, read_only=False) as connection:
            action.run(request, connection)
        return Response(303, headers=[("Location", back)])

    def _render(self, template: str, request: Request, **data: Any) -> bytes:
        text = self._templates.get_template(template).render(
            request=request,
            link=request.link,
            here=request.here,
            static=lambda name: request.url(f"/static/{name}", v=VERSIONS[name]),
            pages=PAGES,
            dsn=lambda public_key: admin.dsn(self._settings.public_url, public_key),
            otlp_endpoint=admin.otlp_endpoint(self._settings.public_url),
            **data,
        )
        return text.encode()

    def _refuse(self, environ: dict[str, Any], error: Exception) -> Response:
        """Log what an operator has to know, and return the page that says what to do."""
        refusal = error if isinstance(error, PageError) else InternalError("The log has its traceback.")
        if refusal.status >= 500:
            logs.logger.log(
                logs.level(refusal.status),
                'viewer: status=%d path="%s" detail="%s"',
                refusal.status,
                logs.plain(environ.get("PATH_INFO", "")),
                logs.plain(str(error.__cause__ or error)),
                exc_info=error if refusal.status == 500 else None,
            )
        if environ.get("PATH_INFO", "").endswith(".json"):
            body, media_type = _json({"error": refusal.heading, "detail": str(refusal)}), "application/json"
        else:
            # The parameters may be what is wrong.
            request = Request({**environ, "QUERY_STRING": ""})
            body, media_type = self._render("error.html", request, error=refusal), Response(0).media_type
        return Response(refusal.status, body, media_type, refusal.headers)


def create_viewer(
    database_url: str | None = None,
    *,
    password: str | None = None,
    public_url: str | None = None,
    database_timeout: float | None = None,
    hosts: Collection[str] | None = None,
) -> Viewer:
    """Create the viewer. A setting that is not given is read from the environment.

    Without a password and without `hosts` it shows everything to whoever reaches it, so it has to be mounted behind a
    login.

    Args:
        database_url: the PostgreSQL to read from, as a member of opensentry_reader (`DATABASE_URL`).
        password: what HTTP Basic authentication has to give, with any user name (`OPENSENTRY_VIEWER_PASSWORD`; default
            and empty: nothing is asked for).
        public_url: where clients reach ingest, for the DSNs on the pages (`OPENSENTRY_PUBLIC_URL`).
        database_timeout: seconds that connecting, and each statement, may take (`OPENSENTRY_DATABASE_TIMEOUT`).
        hosts: the host names by which browsers may reach it, without a port; default: any.

    Raises:
        SettingsError: a setting is missing or invalid.
    """
    config = settings.load(
        database_url=database_url,
        viewer_password=password,
        public_url=public_url,
        database_timeout=database_timeout,
    )
    return Viewer(config, hosts)


def _match(pattern: str, request: Request) -> bool:
    """Return whether a path matches a pattern in which `{name}` stands for one part; tell the request the parts."""
    found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern), request.path)
    if found:
        request.groups = found.groupdict()
    return bool(found)


def _static(request: Request) -> Response:
    name = request.path.removeprefix("/static/")
    if name not in STATIC:
        raise NotFound("No file has this address.")
    # The URL has its version; a week, so that a wrong one that somebody wrote by hand is not kept forever.
    return Response(200, STATIC[name], MEDIA_TYPES[Path(name).suffix], cache="private, max-age=604800")


def _own_url(request: Request, url: str) -> str:
    """Return the URL of one of our pages that a form named, made anew from its path and its parameters."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise BadRequest("The form names no page to go back to.") from None
    back = Request({**request.environ, "PATH_INFO": parts.path, "QUERY_STRING": parts.query})
    if not any(_match(page.path, back) for page in PAGES):
        raise BadRequest("The form names no page to go back to.")
    return back.here(after=back.query.get("after"))


def _json(data: object) -> bytes:
    def plain(value: object) -> str:
        return value.isoformat() if isinstance(value, datetime) else str(value)

    return json.dumps(data, default=plain).encode()
