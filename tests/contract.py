"""The contract over real HTTP: a table of requests and exact answers, for any server that runs the service.

The rules that hold here: the server is known only by its URL; only what a client can see is compared; and all requests
use one connection, so that a body left unread by a refusal would spoil the next answer.
"""

import gzip
import http.client
import json
import re
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from tests.support import AI_GENERATION, ERROR, MINIMAL, TABLES, TRANSACTION, Database

ACCEPTED = re.compile(rb'\{"id": "([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})"\}')

ORIGIN = {"Origin": "https://app.example.com"}

LIMIT = 262_144


@dataclass(frozen=True)
class Case:
    """A request and its answer."""

    name: str
    status: int
    answer: bytes
    """The exact body; empty for a 202, where `stored` says what must be in the database."""
    method: str = "POST"
    target: str = "/v1/ingest"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunked: bool = False
    stored: int = 0
    """Rows that the batch has in all tables."""
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer. Each appears once."""


@dataclass(frozen=True)
class Answer:
    """An answer. `headers` has the values of each header by its name in lower case."""

    status: int
    headers: dict[str, list[str]]
    body: bytes


def check(url: str, database: Database, *, chunked: bool = True) -> None:
    """Send every request of the contract and compare every answer, and what is stored at the end.

    Args:
        url: the URL of the service without a trailing slash; it may be mounted under a path.
        database: its database. Nothing else may store there meanwhile.
        chunked: whether the server accepts chunked bodies; WSGI does not require it.

    Raises:
        AssertionError: an answer differs from the contract. The message names every such request.
    """
    before = sum(database.counts().values())
    faults = []
    table = [case for case in cases(database.key) if chunked or not case.chunked]
    with Client(url) as client:
        for case in table:
            try:
                answer = client.send(case)
            except (OSError, http.client.HTTPException) as error:
                faults.append(f"{case.name}: no answer: {error!r}")
                continue
            faults += [f"{case.name}: {fault}" for fault in _faults(case, answer, database)]
        faults += _idempotency_faults(client, database)
    stored = sum(case.stored for case in table) + 1
    if not faults and (now := sum(database.counts().values())) != before + stored:
        faults.append(f"{now - before} rows are stored, but {stored} were promised")
    assert not faults, "\n".join(faults)


class Client:
    """An HTTP client that sends exactly what it is given, on one connection if the server keeps it open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(str(parts.hostname), parts.port, timeout=30)
        self._prefix = parts.path

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, case: Case) -> Answer:
        """Send one request and return its answer.

        Raises:
            OSError, http.client.HTTPException: there was no answer. The next request opens a new connection.
        """
        connection = self._connection
        try:
            connection.putrequest(case.method, self._prefix + case.target, skip_accept_encoding=True)
            for name, value in case.headers.items():
                connection.putheader(name, value)
            if case.chunked:
                connection.putheader("Transfer-Encoding", "chunked")
                pieces = [case.body[start : start + 50_000] for start in range(0, len(case.body), 50_000)]
                connection.endheaders(pieces, encode_chunked=True)
            else:
                if case.body or case.method == "POST":
                    connection.putheader("Content-Length", str(len(case.body)))
                connection.endheaders(case.body)
            response = connection.getresponse()
            headers: dict[str, list[str]] = {}
            for name, value in response.getheaders():
                headers.setdefault(name.lower(), []).append(value)
            return Answer(response.status, headers, response.read())
        except (OSError, http.client.HTTPException):
            connection.close()
            raise


def basic(user: str, password: str = "") -> dict[str, str]:
    """Return the header that an HTTP client sends for the user name of a URL (RFC 7617)."""
    return {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


def error(text: str) -> bytes:
    """Return the exact body of an error."""
    return b'{"error": "%s"}' % text.encode()


def padded(size: int) -> bytes:
    """Return a payload of `size` bytes."""
    start, end = b'{"type": "error", "exception": {"value": "', b'"}}'
    return start + b"x" * (size - len(start) - len(end)) + end


def cases(key: str) -> Iterator[Case]:
    """Yield the requests of the contract for a project with this public key."""
    yield from _others()
    yield from _ways(key)
    yield from _bodies(key)
    yield from _order(key)
    yield from _cors(key)


def _others() -> Iterator[Case]:
    ok = b'{"status": "ok"}'
    yield Case("health", 200, ok, "GET", "/health")
    yield Case("health with a query", 200, ok, "GET", "/health?x=1")
    yield Case("health by HEAD", 200, b"", "HEAD", "/health", answer_headers={"content-type": "application/json"})
    get = {"allow": "GET, HEAD, OPTIONS"}
    post = {"allow": "POST, OPTIONS"}
    for method in ("POST", "PUT", "DELETE"):
        yield Case(
            f"health by {method}", 405, error("Method not allowed"), method, "/health", body=b"{}", answer_headers=get
        )
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        yield Case(f"ingest by {method}", 405, error("Method not allowed"), method, answer_headers=post)
    yield Case("ingest by HEAD", 405, b"", "HEAD", answer_headers=post)
    for target in ("/", "/v1", "/v1/ingest/", "/v1/ingest/x", "/V1/ingest", "/health/"):
        for method in ("GET", "POST"):
            yield Case(f"{method} {target}", 404, error("Not found"), method, target, body=b"{}")


def _ways(key: str) -> Iterator[Case]:
    """Yield each way to send a key, with a known and an unknown key, and which of two keys is used."""
    ways: dict[str, Callable[[str], tuple[dict[str, str], str]]] = {
        "header": lambda key: ({"X-Open-Sentry-Key": key}, ""),
        "legacy header": lambda key: ({"X-Sentry-Clone-Key": key}, ""),
        "DSN": lambda key: (basic(key), ""),
        "DSN with a password": lambda key: (basic(key, "secret"), ""),
        "query": lambda key: ({}, f"?key={key}"),
        "query, twice": lambda key: ({}, f"?key={key}&key={key}"),
        "query among others": lambda key: ({}, f"?a=b&key={key}&c"),
    }
    for name, way in ways.items():
        for item, rows in ((ERROR, 1), (TRANSACTION, 2), (AI_GENERATION, 1)):
            headers, query = way(key)
            yield _post(202, item, f"{item['type']} by {name}", headers, query, stored=rows)
        headers, query = way("abc123")
        yield _post(403, ERROR, f"unknown key by {name}", headers, query, answer=error("Invalid DSN key"))
        for payload, text in ((b"{", "Invalid JSON"), (b"{}", "Invalid payload")):
            headers, query = way(key)
            yield _post(400, payload, f"{text} by {name}", headers, query, answer=error(text))
        too_large = error("Payload too large")
        yield _post(413, padded(LIMIT + 1), f"too large by {name}", *way(key), answer=too_large)
    missing = error("Missing auth key")
    yield _post(401, ERROR, "no key", answer=missing)
    yield _post(401, ERROR, "empty keys", {"X-Open-Sentry-Key": "", "X-Sentry-Clone-Key": ""}, "?key=", answer=missing)
    yield _post(401, ERROR, "an empty user name", basic("", key), answer=missing)
    yield _post(401, ERROR, "another scheme", {"Authorization": f"Bearer {key}"}, answer=missing)
    known, unknown = {"X-Open-Sentry-Key": key}, {"X-Open-Sentry-Key": "abc123"}
    invalid = error("Invalid DSN key")
    yield _post(202, ERROR, "header before query", known, "?key=abc123", stored=1)
    yield _post(403, ERROR, "header before query, unknown", unknown, f"?key={key}", answer=invalid)
    yield _post(202, ERROR, "header before legacy header", {**known, "X-Sentry-Clone-Key": "abc123"}, stored=1)
    yield _post(202, ERROR, "legacy header before DSN", {"X-Sentry-Clone-Key": key, **basic("abc123")}, stored=1)
    yield _post(202, ERROR, "DSN before query", basic(key), "?key=abc123", stored=1)
    yield _post(202, ERROR, "first key of the query", {}, f"?key={key}&key=abc123", stored=1)


def _bodies(key: str) -> Iterator[Case]:
    known = {"X-Open-Sentry-Key": key}
    for chunked in (False, True):
        how = "chunked" if chunked else "with a length"
        yield _post(202, padded(LIMIT), f"262,144 bytes {how}", known, stored=1, chunked=chunked)
        for size in (LIMIT + 1, 2 * LIMIT, 4 * LIMIT):
            text = error("Payload too large")
            yield _post(413, padded(size), f"{size:,} bytes {how}", known, answer=text, chunked=chunked)
        yield _post(202, ERROR, f"an event {how}", known, stored=1, chunked=chunked)
        yield _post(400, b"", f"no body {how}", known, answer=error("Invalid JSON"), chunked=chunked)
    batch = [MINIMAL] * 18 + [TRANSACTION, AI_GENERATION]
    yield _post(202, batch, "20 items", known, stored=21)
    yield _post(202, [MINIMAL], "1 item", known, stored=1)
    for name, items in {"0 items": [], "21 items": [MINIMAL] * 21, "one bad": [*batch[:-1], {"type": "x"}]}.items():
        yield _post(400, items, name, known, answer=error("Invalid payload"))
    text = json.dumps(ERROR, ensure_ascii=False).encode()
    for name, body in {
        "NaN": b'{"type": "error", "exception": {}, "x": NaN}',
        "a trailing comma": b'{"type": "error", "exception": {},}',
        "bad UTF-8": b'{"type": "error", "exception": {}, "message": "\xff"}',
        "UTF-16": text.decode().encode("utf-16"),
        "200,000 brackets": b"[" * 200_000,
    }.items():
        yield _post(400, body, name, known, answer=error("Invalid JSON"))
    never = {**ERROR, "timestamp": "2026-02-30T12:00:00Z"}
    yield _post(400, never, "February 30th", known, answer=error("Invalid payload"))
    for name, body in {
        "a byte-order mark": b"\xef\xbb\xbf" + text,
        "NUL and a lone surrogate": b'{"type": "error", "exception": {"value": "\\u0000 \\ud800"}}',
        "every plane": json.dumps({**ERROR, "message": "\x01 Grüße 世界 🚀"}, ensure_ascii=False).encode(),
    }.items():
        yield _post(202, body.replace(b"\x01", b"\\u0001"), name, known, stored=1)
    for kind in ("text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "application/octet-stream"):
        yield _post(202, ERROR, kind, {**known, "Content-Type": kind}, stored=1)
    squeezed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    for coding, name, packed in (
        ("gzip", "gzip", gzip.compress(text)),
        ("deflate", "deflate", zlib.compress(text)),
        ("deflate", "deflate without a header", squeezed.compress(text) + squeezed.flush()),
        ("gzip", "262,144 bytes in gzip", gzip.compress(padded(LIMIT))),
    ):
        for chunked in (False, True):
            coded = {**known, "Content-Encoding": coding}
            how = ", chunked" if chunked else ""
            yield _post(202, packed, name + how, coded, stored=1, chunked=chunked)
    coded = {**known, "Content-Encoding": "gzip"}
    bomb = gzip.compress(bytes(50_000_000))
    yield _post(
        413, gzip.compress(padded(LIMIT + 1)), "262,145 bytes in gzip", coded, answer=error("Payload too large")
    )
    yield _post(413, bomb, "50 MB in gzip", coded, answer=error("Payload too large"))
    yield _post(400, gzip.compress(text)[:-9], "gzip that ends early", coded, answer=error("Invalid JSON"))
    problem = {**known, "Accept": "application/problem+json"}
    answer = (
        b'{"type": "about:blank", "title": "Bad Request", "status": 400, "detail": "Invalid payload", '
        b'"errors": [{"pointer": "/0/exception", "detail": "is required"}]}'
    )
    of_problem = {"content-type": "application/problem+json"}
    yield _post(400, [{"type": "error"}], "problem details", problem, answer=answer, answer_headers=of_problem)


def _order(key: str) -> Iterator[Case]:
    """Yield requests with two errors each: the first check decides."""
    known, unknown = {"X-Open-Sentry-Key": key}, {"X-Open-Sentry-Key": "abc123"}
    bad = {"Idempotency-Key": "x" * 256}
    brotli = {"Content-Encoding": "br"}
    accepted = {"accept-encoding": "gzip, deflate"}
    large, small = padded(LIMIT + 1), b"{"
    coding = error("Unsupported content encoding")
    yield Case("path before method", 404, error("Not found"), "PUT", "/x", known, small)
    yield Case("method before key", 405, error("Method not allowed"), "PUT", "/v1/ingest", {}, small)
    yield _post(401, large, "key before idempotency key", bad, answer=error("Missing auth key"))
    yield _post(400, large, "idempotency key before size", {**known, **bad}, answer=error("Invalid idempotency key"))
    yield _post(413, large, "size before coding", {**known, **brotli}, answer=error("Payload too large"))
    yield _post(415, small, "coding before JSON", {**known, **brotli}, answer=coding, answer_headers=accepted)
    yield _post(400, small, "JSON before the key's project", unknown, answer=error("Invalid JSON"))
    yield _post(400, {}, "schema before the key's project", unknown, answer=error("Invalid payload"))


def _cors(key: str) -> Iterator[Case]:
    known = {"X-Open-Sentry-Key": key, **ORIGIN}
    readable = {
        "access-control-allow-origin": ORIGIN["Origin"],
        "access-control-allow-credentials": "true",
        "vary": "Origin",
    }
    yield _post(202, ERROR, "from a page", known, stored=1, answer_headers=readable)
    for status, text, headers, body in (
        (400, "Invalid JSON", known, b"{"),
        (401, "Missing auth key", ORIGIN, b"{}"),
        (403, "Invalid DSN key", {**known, "X-Open-Sentry-Key": "abc123"}, json.dumps(ERROR).encode()),
        (413, "Payload too large", known, padded(LIMIT + 1)),
        (415, "Unsupported content encoding", {**known, "Content-Encoding": "br"}, b"{}"),
    ):
        yield _post(status, body, f"{text}, from a page", headers, answer=error(text), answer_headers=readable)
    not_found = error("Not found")
    yield Case("Not found, from a page", 404, not_found, "GET", "/x", ORIGIN, answer_headers=readable)
    not_allowed = error("Method not allowed")
    yield Case("not allowed, from a page", 405, not_allowed, "GET", headers=ORIGIN, answer_headers=readable)
    yield Case("health, from a page", 200, b'{"status": "ok"}', "GET", "/health", ORIGIN, answer_headers=readable)
    asked = {
        **ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-open-sentry-key",
    }
    granted = {
        **readable,
        "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
        "access-control-max-age": "86400",
        "allow": "POST, OPTIONS",
    }
    for target in ("/v1/ingest", f"/v1/ingest?key={key}"):
        yield Case(f"preflight of {target}", 204, b"", "OPTIONS", target, asked, answer_headers=granted)


def _post(
    status: int,
    payload: Any,
    name: str,
    headers: Mapping[str, str] | None = None,
    query: str = "",
    answer: bytes = b"",
    **more: Any,
) -> Case:
    """Return a post to the ingest endpoint."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    return Case(name, status, answer, "POST", "/v1/ingest" + query, headers, body, **more)


def _faults(case: Case, answer: Answer, database: Database) -> Iterator[str]:
    """Yield the differences from the contract."""
    if answer.status != case.status:
        yield f"{answer.status} {answer.body[:80]!r}, not {case.status}"
        return
    if case.stored:
        accepted = ACCEPTED.fullmatch(answer.body)
        if not accepted:
            yield f"the body is {answer.body!r}"
            return
        rows = sum(len(database.rows(table, accepted[1].decode())) for table in TABLES)
        if rows != case.stored:
            yield f"{rows} rows are stored, not {case.stored}"
    elif answer.body != case.answer:
        yield f"the body is {answer.body!r}, not {case.answer!r}"
    wanted = dict(case.answer_headers)
    if answer.body:
        wanted.setdefault("content-type", "application/json")
        wanted["content-length"] = str(len(answer.body))
    for name, value in wanted.items():
        if answer.headers.get(name) != [value]:
            yield f"{name} is {answer.headers.get(name)}, not {value}"
    if "Origin" not in case.headers and "access-control-allow-origin" in answer.headers:
        yield "Access-Control-Allow-Origin without an Origin"
    if "set-cookie" in answer.headers:
        yield "a cookie is set"


def _idempotency_faults(client: Client, database: Database) -> Iterator[str]:
    """Yield what is wrong with a repeated request, which must be stored once and get the same answer."""
    headers = {"X-Open-Sentry-Key": database.key, "Idempotency-Key": str(uuid4())}
    try:
        first, second = (client.send(_post(202, MINIMAL, "", headers)) for _ in range(2))
    except (OSError, http.client.HTTPException) as error:
        yield f"sent twice: no answer: {error!r}"
        return
    if (first.status, second.status, second.body) != (202, 202, first.body):
        yield f"sent twice: {first.status} {first.body!r}, then {second.status} {second.body!r}"
