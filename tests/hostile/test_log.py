"""The log and the answers: no line forged, no key in full, nothing of a request reflected."""

import base64
import json
import re
from pathlib import Path

import pytest

from tests import support
from tests.hostile.wire import exchange, head, statuses
from tests.support import ERROR, MINIMAL, Database

FORGED = "[2026-01-01 00:00:00 +0000] [1] [INFO] forged"

# gunicorn's default logs the query, and with it the key that a beacon sends: this one is SECURITY.md's.
ACCESS_LOG = ("--access-logfile", "-", "--access-logformat", '%(h)s %(t)s "%(m)s %(U)s" %(s)s %(b)s')

LINE_BREAKS = r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]"

OPTIONS = ("--workers", "1", "--threads", "4", "--log-level", "debug")


def attempts(key: str) -> list[bytes]:
    """Return requests that try to begin a line of a log, in every place that a request has."""
    breaks = ["%0a", "%0d%0a", "\n", "\r", "\x0b", "\x85", "\u2028"]
    requests = []
    for line_break in breaks:
        text = line_break + FORGED
        body = json.dumps({**ERROR, "message": text, "level": text, "tags": {text: 1}}).encode()
        for target, header in (
            (f"/v1/ingest{text}?key={key}", ""),
            (f"/v1/ingest?key={text}", ""),
            (f"/v1/ingest?key={key}{text}", ""),
            (f"/v1/ingest?key={key}", f"Origin: {text}\r\n"),
            (f"/v1/ingest?key={key}", f"User-Agent: {text}\r\n"),
            (f"/v1/ingest?key={key}", f"Referer: {text}\r\n"),
            ("/v1/ingest", f"X-Open-Sentry-Key: {text}\r\n"),
            (f"/v1/ingest?key={key}", f"Idempotency-Key: {text}\r\n"),
            (f"/v1/ingest?key={key}", f"Content-Encoding: {text}\r\n"),
            (f"/v1/ingest?key={key}", f"X-{text}: a\r\n"),
            (f"/v1/ingest?key={key}", "Accept: application/problem+json\r\n"),
        ):
            request = f"POST {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{header}"
            requests.append(request.encode("utf-8") + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return requests


@pytest.mark.parametrize("access_log", [False, True])
def test_no_request_can_forge_a_line_of_the_log(access_log: bool, database: Database, tmp_path: Path) -> None:
    options = (*OPTIONS, *(ACCESS_LOG if access_log else ()))
    with support.gunicorn(database.service, tmp_path / "log", *options) as server:
        for request in attempts(database.key):
            assert all(status < 500 for status in statuses(exchange(server, request)))
        log = server.log.read_text()
    # Of the attempts some reach the log, in quotes.
    assert "forged" in log
    assert not [line for line in re.split(LINE_BREAKS, log) if line.startswith("[2026-01-01")]


@pytest.mark.parametrize("access_log", [False, True])
def test_no_key_is_in_the_log_in_full(access_log: bool, database: Database, tmp_path: Path) -> None:
    options = (*OPTIONS, *(ACCESS_LOG if access_log else ()))
    conninfo = f"host=127.0.0.1 port={support.free_port()} dbname=away"
    valid, credentials = json.dumps(MINIMAL).encode(), base64.b64encode(f"{database.key}:".encode()).decode()
    for database_url in (database.service, conninfo):
        environ = {"OPENSENTRY_DATABASE_TIMEOUT": "0.5"}
        with support.gunicorn(database_url, tmp_path / "log", *options, environ=environ) as server:
            for body in (valid, b"{", b"{}", b"[" * 100_000, bytes(300_000)):
                for target, header in (
                    (f"/v1/ingest?key={database.key}", ""),
                    (f"/elsewhere?key={database.key}", ""),
                    ("/v1/ingest", f"X-Open-Sentry-Key: {database.key}\r\n"),
                    ("/v1/ingest", f"X-Sentry-Clone-Key: {database.key}\r\n"),
                    ("/v1/ingest", f"Authorization: Basic {credentials}\r\n"),
                ):
                    request = f"POST {target} HTTP/1.1\r\nHost: a\r\n{header}Content-Length: {len(body)}\r\n\r\n"
                    assert len(statuses(exchange(server, request.encode() + body))) == 1
            log = server.log.read_text()
        assert "POST /v1/ingest" in log
        assert database.key not in log
        assert credentials not in log


def test_what_a_database_error_quotes_begins_no_line_of_the_log(database: Database, tmp_path: Path) -> None:
    # A constraint that the JSON Schema does not promise is what a bug looks like. PostgreSQL quotes the row.
    database.fetch("TRUNCATE opensentry.events")
    database.fetch("ALTER TABLE opensentry.events ALTER release SET NOT NULL")
    body = json.dumps({**MINIMAL, "message": f"\n{FORGED}\n", "environment": "\r" + FORGED}).encode()
    try:
        with support.gunicorn(database.service, tmp_path / "log") as server:
            answer = exchange(server, head(database, f"Content-Length: {len(body)}"), body)
            assert statuses(answer) == [500]
            log = server.log.read_bytes().decode()
    finally:
        database.fetch("ALTER TABLE opensentry.events ALTER release DROP NOT NULL")
    assert b"forged" not in answer
    assert "NotNullViolation" in log
    assert FORGED in log
    lines = re.split(r"[\n\r]", log)
    assert not [line for line in lines if line.startswith("[2026-01-01")]


def test_no_answer_of_the_service_reflects_a_request(database: Database, tmp_path: Path) -> None:
    marker = "<b>reflected</b>"
    item = {**ERROR, "level": marker, "timestamp": marker, marker: marker, "exception": marker}
    with support.gunicorn(database.service, tmp_path / "log") as server:
        for accept in ("", "Accept: application/problem+json\r\n"):
            for method in ("POST", "GET", "PUT", "OPTIONS"):
                for target in (f"/{marker}", f"/v1/ingest?key={marker}", f"/v1/ingest?key={database.key}&a={marker}"):
                    for body in (json.dumps(item).encode(), marker.encode(), b"[" + marker.encode()):
                        request = (
                            f"{method} {target} HTTP/1.1\r\nHost: {marker}\r\nX-Open-Sentry-Key: {marker}\r\n{accept}"
                        )
                        if database.key in target:
                            request = request.replace(f"X-Open-Sentry-Key: {marker}\r\n", "")
                        request += f"Referer: {marker}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                        answer = exchange(server, request.encode() + body)
                        assert len(statuses(answer)) == 1
                        assert b"reflected" not in answer
                        assert b"X-Content-Type-Options: nosniff\r\n" in answer
                        assert b"Cache-Control: no-store\r\n" in answer
                        assert b"Set-Cookie" not in answer
