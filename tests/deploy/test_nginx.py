"""Clients see the same answers through nginx as without it, and nginx's own errors look like the service's."""

import base64
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import contract, support
from tests.contract import ORIGIN, Case, Client, basic, error
from tests.deploy import stack
from tests.support import ERROR, Database

READABLE = {
    "access-control-allow-origin": [ORIGIN["Origin"]],
    "access-control-allow-credentials": ["true"],
    "access-control-expose-headers": ["Retry-After"],
    "cache-control": ["no-store"],
    "content-type": ["application/json"],
    "vary": ["Origin"],
    "x-content-type-options": ["nosniff"],
}

EVENT = json.dumps(ERROR).encode()


def test_the_contract_holds_through_nginx(url: str, database: Database) -> None:
    contract.check(url, database)


def test_http_is_redirected_to_https_with_its_method(folder: Path, url: str) -> None:
    plain = (folder / "site.conf").read_text().split("listen 127.0.0.1:")[1].split(";")[0]
    with closing(HTTPConnection("127.0.0.1", int(plain))) as connection:
        connection.request("POST", "/v1/ingest?key=x", b"{}", {"Host": "ingest.example.com"})
        response = connection.getresponse()
    assert (response.status, response.headers["Location"]) == (308, "https://ingest.example.com/v1/ingest?key=x")


@pytest.mark.parametrize(("size", "status"), [(100, 202), (262_145, 413), (2_000_000, 413)])
def test_http_2_gets_the_same_answers(
    certificate: Path, tmp_path: Path, url: str, database: Database, size: int, status: int
) -> None:
    body = tmp_path / "body"
    body.write_bytes(contract.padded(size))
    command = [support.tool("curl"), "--silent", "--http2", "--cacert", str(certificate)]
    command += ["--write-out", "\n%{http_version} %{http_code}", "--data-binary", f"@{body}"]
    # The DSN in the form that a user would paste.
    answer = subprocess.run(
        [*command, url.replace("://", f"://{database.key}@") + "/v1/ingest"], capture_output=True, text=True, check=True
    ).stdout
    text, _, seen = answer.rpartition("\n")
    assert seen == f"2 {status}"
    assert status == 202 or text == '{"error": "Payload too large"}'


def test_the_access_log_holds_no_key(folder: Path, url: str, database: Database) -> None:
    with Client(url) as client:
        assert client.send(request(query=f"?key={database.key}")).status == 202
    log = folder / "access.log"
    support.wait_until(lambda: '"POST /v1/ingest HTTP/1.1" 202' in log.read_text())
    assert database.key not in log.read_text()


def test_slow_clients_occupy_no_thread_of_the_service(url: str, database: Database) -> None:
    threads = 2 * 4
    head = f"POST /v1/ingest?key={database.key} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(EVENT)}\r\n\r\n".encode()
    with ExitStack() as opened, Client(url) as client:
        slow = [opened.enter_context(connect(url)) for _ in range(4 * threads)]
        for sock in slow:
            sock.sendall(head + EVENT[:10])
        # Several, because the first could overtake what the slow clients sent.
        event = Case("", 202, b"", headers={"X-Open-Sentry-Key": database.key}, body=EVENT)
        assert [client.send(event).status for _ in range(20)] == [202] * 20
        for sock in slow:
            sock.sendall(EVENT[10:])
        assert {sock.recv(12) for sock in slow} == {b"HTTP/1.1 202"}


INSIDE, OUTSIDE = "127.0.0.1", "127.0.0.2"


def test_ready_can_be_read_on_the_machine_itself(url: str) -> None:
    assert ask(url, "GET", "/ready", source=INSIDE) == (200, b'{"status": "ok"}')


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    ["/ready", "/metrics", "//ready", "/%72eady", "/metrics?x", "/x/../metrics", "/x/%2e%2e/metrics", "/./metrics"],
)
def test_ready_and_metrics_cannot_be_read_from_outside(url: str, method: str, path: str) -> None:
    answer = b"" if method == "HEAD" else error("Not found")
    assert ask(url, method, path, source=OUTSIDE) == (404, answer)


# Requests that nginx refuses itself.


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/v1/ingest", "/health", "/x"])
def test_a_body_over_1_mib_is_refused_as_by_the_service(url: str, database: Database, path: str, chunked: bool) -> None:
    headers = {**ORIGIN, "X-Open-Sentry-Key": database.key}
    with Client(url) as client:
        refused = client.send(Case("", 413, b"", "POST", path, headers, bytes(5_000_000), chunked))
    check_error(refused, 413, "Payload too large")


def test_a_content_length_of_gigabytes_is_refused_before_the_body_is_sent(url: str) -> None:
    with connect(url) as sock:
        sock.sendall(b"POST /v1/ingest?key=x HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n")
        answer = read(sock)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert error("Payload too large") in answer


@pytest.mark.parametrize(
    ("request_line", "status", "text"),
    [
        ("GET /health HTTP/1.1\r\nHost: a\r\nHost: b", 400, "Bad request"),
        ("GET /" + "x" * 9000 + " HTTP/1.1\r\nHost: x", 414, "URI too long"),
        ("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + "x" * 9000, 431, "Request header too large"),
        ("TRACE /health HTTP/1.1\r\nHost: x", 405, "Method not allowed"),
        ("POST /v1/ingest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip", 501, "Not implemented"),
    ],
)
def test_a_malformed_request_is_refused_with_json(url: str, request_line: str, status: int, text: str) -> None:
    with connect(url) as sock:
        sock.sendall(request_line.encode() + b"\r\n\r\n")
        answer = read(sock)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nContent-Type: application/json\r\n" in answer
    assert answer.endswith(b"\r\n\r\n" + error(text))


@pytest.mark.parametrize("length", [4095, 8000])
def test_gunicorn_accepts_any_query_that_nginx_accepts(url: str, database: Database, length: int) -> None:
    target = f"/v1/ingest?key={database.key}&x=" + "x" * (length - 80)
    with Client(url) as client:
        assert client.send(Case("", 202, b"", target=target, body=EVENT)).status == 202


def test_a_page_can_read_the_error_if_the_service_is_unreachable(tmp_path: Path, certificate: Path) -> None:
    with stack.nginx(tmp_path, certificate, tmp_path / "nobody.sock") as url:
        check_error(post(url, "x"), 502, "Bad gateway", retry_after="5")


def test_a_page_can_read_the_error_if_the_service_does_not_answer(tmp_path: Path, certificate: Path) -> None:
    silent = socket.socket(socket.AF_UNIX)
    silent.bind(str(tmp_path / "silent.sock"))
    silent.listen()
    words = {"proxy_read_timeout 40s;": "proxy_read_timeout 1s;"}
    with silent, stack.nginx(tmp_path, certificate, tmp_path / "silent.sock", words) as url:
        check_error(post(url, "x"), 504, "Gateway timeout", retry_after="5")


# The rate limit, with smaller numbers, so that a slow machine reaches it too.

BURST = 5

ENOUGH = 3 * BURST
"""Enough requests to reach the limit, unless each takes over a second."""


@pytest.fixture(scope="module")
def limited(certificate: Path, service: stack.Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    words = {"rate=100r/s": "rate=1r/s", "burst=200": f"burst={BURST}"}
    with stack.nginx(tmp_path_factory.mktemp("limited"), certificate, service.path, words) as url:
        yield url


WAYS: dict[str, Callable[[str], dict[str, Any]]] = {
    "header": lambda key: {"headers": {"X-Open-Sentry-Key": key}},
    "legacy header": lambda key: {"headers": {"X-Sentry-Clone-Key": key}},
    "DSN": lambda key: {"headers": basic(key)},
    "query": lambda key: {"query": f"?key={key}"},
    "query, twice": lambda key: {"query": f"?key={key}&key={key}"},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_key_over_its_rate_is_told_when_to_retry(limited: str, way: str) -> None:
    key = "flood-" + way.replace(" ", "-").replace(",", "")
    with Client(limited) as client:
        answers = [client.send(request(**WAYS[way](key))) for _ in range(ENOUGH)]
        another = client.send(request(**WAYS[way]("another-" + key)))
    assert [answer.status for answer in answers[: BURST + 1]] == [403] * (BURST + 1)
    refused = next(answer for answer in answers if answer.status == 429)
    check_error(refused, 429, "Too many requests", retry_after="1")
    assert another.status == 403


def test_a_key_counts_the_same_however_it_is_sent(limited: str) -> None:
    with Client(limited) as client:
        for _ in range(3):
            statuses = [client.send(request(**way("one-key"))).status for way in WAYS.values()]
    assert 429 in statuses


def test_a_429_without_an_origin_has_no_cors_headers(limited: str) -> None:
    with Client(limited) as client:
        for _ in range(ENOUGH):
            answer = client.send(Case("", 429, b"", target="/v1/ingest?key=no-origin", body=EVENT))
    assert answer.status == 429
    assert not [name for name in answer.headers if name == "access-control-allow-origin"]
    assert not [name for name in answer.headers if name == "access-control-allow-credentials"]


def test_a_preflight_does_not_count(limited: str) -> None:
    with Client(limited) as client:
        answers = [
            client.send(Case("", 204, b"", "OPTIONS", "/v1/ingest?key=preflight", ORIGIN)) for _ in range(ENOUGH)
        ]
    assert {answer.status for answer in answers} == {204}


SPELLINGS: list[Callable[[str, int], dict[str, Any]]] = [
    lambda key, i: {"query": f"?KEY=x{i}&key={key}"},
    lambda key, i: {"query": f"?%6bey={key}&key=x{i}"},
    lambda key, i: {"query": f"?key=%{ord(key[0]):x}{key[1:]}&key=x{i}"},
    lambda key, i: {"query": f"?key=&key={key}&x={i}"},
    lambda key, i: {"query": f"?key={key}&key=x{i}"},
    lambda key, i: {"headers": {"X-Open-Sentry-Key": key + "\xa0" * i}},
    lambda key, i: {"headers": {"X-Sentry-Clone-Key": "\xa0" * i + key}},
    lambda key, i: {"headers": {"X-Open-Sentry-Key": "\xa0", "X-Sentry-Clone-Key": key}, "query": f"?key=x{i}"},
    lambda key, i: {"headers": basic(key, f"password {i}"), "query": f"?key=x{i}"},
    lambda key, i: {"headers": {"Authorization": "Basic " + b64(key)}, "query": f"?key=x{i}"},
    lambda key, i: {"headers": {"Authorization": "Basic " + " " * i + b64(key + ":")}, "query": f"?key=x{i}"},
    lambda key, i: {"headers": {"Authorization": f"Bearer &key=x{i}&"}, "query": f"?key={key}"},
    lambda key, i: {"headers": {"Authorization": f"Bearer x{i}"}, "query": f"?key={key}"},
]


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("number", range(len(SPELLINGS)))
def test_no_spelling_of_a_key_evades_the_limit(limited: str, database: Database, number: int) -> None:
    # Each uses an address of its own, because unusual spellings count for the address.
    statuses = []
    for i in range(ENOUGH):
        sent = SPELLINGS[number](database.key, i)
        statuses.append(ask(limited, "POST", "/v1/ingest" + sent.pop("query", ""), f"127.0.1.{number + 1}", **sent)[0])
    assert statuses[0] in (202, 401, 403, 429)
    assert 429 in statuses


# Sentry's SDKs.

ENVELOPE = b'{}\n{"type": "event"}\n{"message": "hello"}\n'
SENTRY_AUTH = "Sentry sentry_version=7, sentry_client=sentry.python/2.1, sentry_key="

SENTRY_WAYS: dict[str, Callable[[str], dict[str, Any]]] = {
    **WAYS,
    "X-Sentry-Auth": lambda key: {"headers": {"X-Sentry-Auth": SENTRY_AUTH + key}},
    "X-Sentry-Auth, key first": lambda key: {
        "headers": {"X-Sentry-Auth": f"Sentry sentry_key={key}, sentry_version=7"}
    },
    "Authorization": lambda key: {"headers": {"Authorization": SENTRY_AUTH + key}},
    "sentry_key": lambda key: {"query": f"?sentry_version=7&sentry_key={key}&sentry_client=sentry.javascript%2F10.1.0"},
}


def from_sdk(headers: dict[str, str] | None = None, query: str = "") -> Case:
    return Case("", 0, b"", "POST", "/api/1/envelope/" + query, {**ORIGIN, **(headers or {})}, ENVELOPE)


@pytest.mark.parametrize("way", SENTRY_WAYS)
def test_a_key_over_its_rate_is_told_so_by_sentrys_ways_too(limited: str, way: str) -> None:
    key = "sdk-" + way.replace(" ", "-").replace(",", "")
    with Client(limited) as client:
        answers = [client.send(from_sdk(**SENTRY_WAYS[way](key))) for _ in range(ENOUGH)]
        another = client.send(from_sdk(**SENTRY_WAYS[way]("another-" + key)))
    assert [answer.status for answer in answers[: BURST + 1]] == [403] * (BURST + 1)
    check_error(next(answer for answer in answers if answer.status == 429), 429, "Too many requests", retry_after="1")
    assert another.status == 403


SENTRY_SPELLINGS: list[Callable[[str, int], dict[str, Any]]] = [
    lambda key, i: {"query": f"?sentry_key={key}&sentry_key=x{i}"},
    lambda key, i: {"query": f"?sentry_key=x{i}&key={key}"},
    lambda key, i: {"query": f"?sentry_key=&sentry_key={key}&x={i}"},
    lambda key, i: {"query": f"?%73entry_key={key}&sentry_key=x{i}"},
    lambda key, i: {"query": f"?sentry_key=x{i}", "headers": {"X-Sentry-Auth": SENTRY_AUTH + key}},
    lambda key, i: {"headers": {"X-Sentry-Auth": f"{SENTRY_AUTH}{key}, sentry_key=x{i}"}},
    lambda key, i: {"headers": {"X-Sentry-Auth": f"Sentry xsentry_key=x{i}, sentry_key={key}"}},
    lambda key, i: {"headers": {"X-Sentry-Auth": SENTRY_AUTH + key, "Authorization": f"Sentry sentry_key=x{i}"}},
    lambda key, i: {"headers": {"X-Sentry-Auth": f"SENTRY sentry_key={' ' * i}{key}"}},
    lambda key, i: {"headers": {**basic(key), "X-Sentry-Auth": f"{SENTRY_AUTH}x{i}"}},
    lambda key, i: {"body": b'{"dsn": "http://%s@h/1"}\n' % key.encode() + ENVELOPE[3:] + b"\n" * i},
]


@pytest.mark.parametrize("number", range(len(SENTRY_SPELLINGS)))
def test_no_spelling_for_sentrys_route_evades_the_limit(limited: str, database: Database, number: int) -> None:
    statuses = []
    for i in range(ENOUGH):
        sent = SENTRY_SPELLINGS[number](database.key, i)
        target = "/api/1/envelope/" + sent.pop("query", "")
        body = sent.pop("body", ENVELOPE)
        statuses.append(ask(limited, "POST", target, f"127.0.2.{number + 1}", body=body, **sent)[0])
    assert statuses[0] in (200, 429)
    assert 429 in statuses


# OpenTelemetry's exporters.


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 413)])
def test_the_limit_of_traces_is_the_services_own(url: str, database: Database, more: int, status: int) -> None:
    headers = {"X-Open-Sentry-Key": database.key, "Content-Type": "application/json"}
    body = b'{"resourceSpans": []}'.ljust(4_194_304 + more)
    with Client(url) as client:
        answer = client.send(Case("", status, b"", "POST", "/v1/traces", headers, body))
    assert answer.status == status
    assert answer.body == (b'{"code": 3, "message": "Payload too large"}' if more else b"{}")


def test_a_key_over_its_rate_is_told_so_for_traces_too(limited: str) -> None:
    case = Case("", 0, b"", "POST", "/v1/traces", {**ORIGIN, "X-Open-Sentry-Key": "traces"}, b"{}")
    with Client(limited) as client:
        answers = [client.send(case) for _ in range(ENOUGH)]
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    check_error(refused[0], 429, "Too many requests", "1")


@pytest.mark.parametrize(
    "target", ["/api/../envelope/", "/api/1/../envelope/", "/api/%2e%2e/store/", "/api//envelope/"]
)
def test_a_path_that_nginx_takes_for_another_is_none_of_the_services(url: str, target: str, database: Database) -> None:
    assert ask(url, "POST", f"{target}?sentry_key={database.key}", INSIDE, body=ENVELOPE)[0] in (400, 404)


@pytest.mark.parametrize(("size", "status"), [(20_971_520, 200), (20_971_521, 413)])
def test_an_envelope_may_have_20_mib(url: str, database: Database, size: int, status: int) -> None:
    start = ENVELOPE + b'{"type": "attachment"}\n'
    target = f"/api/1/envelope/?sentry_key={database.key}"
    with Client(url) as client:
        case = Case("", status, b"", "POST", target, ORIGIN, start + bytes(size - len(start)))
        assert client.send(case).status == status


def test_the_access_log_holds_no_key_of_an_sdk(folder: Path, url: str, database: Database) -> None:
    with Client(url) as client:
        assert client.send(from_sdk(query=f"?sentry_key={database.key}")).status == 200
    log = folder / "access.log"
    support.wait_until(lambda: '"POST /api/1/envelope/ HTTP/1.1" 200' in log.read_text())
    assert database.key not in log.read_text()


# Helpers.


def request(headers: dict[str, str] | None = None, query: str = "") -> Case:
    """Return a POST from a page with an unknown key; the limit is checked first."""
    return Case("", 0, b"", "POST", "/v1/ingest" + query, {**ORIGIN, **(headers or {})}, EVENT)


def post(url: str, key: str) -> contract.Answer:
    with Client(url) as client:
        return client.send(request({"X-Open-Sentry-Key": key}))


def check_error(answer: contract.Answer, status: int, text: str, retry_after: str | None = None) -> None:
    """Fail unless an answer looks like an error of the service and a page can read it."""
    assert (answer.status, answer.body) == (status, error(text))
    assert {name: answer.headers.get(name) for name in READABLE} == READABLE
    assert answer.headers.get("retry-after") == (retry_after and [retry_after])


def ask(
    url: str, method: str, path: str, source: str, headers: dict[str, str] | None = None, body: bytes = EVENT
) -> tuple[int, bytes]:
    """Send a request from an address of the loopback network."""
    port = urlsplit(url).port
    connection = HTTPSConnection("127.0.0.1", port, source_address=(source, 0), context=_trusting())
    with closing(connection):
        connection.request(method, path, body if method == "POST" else None, headers or {})
        response = connection.getresponse()
        return response.status, response.read()


def connect(url: str) -> ssl.SSLSocket:
    """Return a TLS connection for HTTP/1.1, for requests that no client would send."""
    return _trusting().wrap_socket(socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=30))


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    return context


def read(sock: ssl.SSLSocket) -> bytes:
    """Return what the server sends, until its answer is complete or it closes the connection."""
    data = b""
    timer = threading.Timer(20, sock.close)
    timer.start()
    while piece := sock.recv(65536):
        data += piece
        head, end, body = data.partition(b"\r\n\r\n")
        length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        if end and length and len(body) >= int(length[0].split(b":")[1]):
            break
    timer.cancel()
    return data
