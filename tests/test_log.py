"""The log: one line for each refused request, none for an accepted one, and no way for a client to forge one."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import webtest

from opensentry_ingest import Application, create_app, logs
from tests import support
from tests.support import ERROR, Database

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """What the service logs, at INFO and above."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    logs.logger.addHandler(handler)
    logs.logger.setLevel(logging.INFO)
    yield records
    logs.logger.removeHandler(handler)
    logs.logger.setLevel(logging.NOTSET)


@pytest.fixture
def client(app: Application) -> webtest.TestApp:
    return webtest.TestApp(app, lint=False)


def test_an_accepted_request_is_not_logged(
    client: webtest.TestApp, database: Database, lines: list[logging.LogRecord]
) -> None:
    assert support.post(client, database.key, ERROR).status_int == 202
    assert client.get("/health").status_int == client.get("/ready").status_int == 200
    assert not lines


@pytest.mark.parametrize(
    ("body", "key", "line"),
    [
        (b"{", "{key}", 'status=400 reason="Invalid JSON" detail="not JSON at line 1, column 2" method=POST'),
        (b'[{"type": "error"}]', "{key}", 'status=400 reason="Invalid payload" detail="/0/exception is required"'),
        (b"x" * 262_145, "{key}", 'status=413 reason="Payload too large" detail=""'),
        (b"{}", "", 'status=401 reason="Missing auth key" detail="" method=POST path="/v1/ingest" key=""'),
        (b'{"type": "error", "exception": {}}', "unknown-unknown-unknown", 'status=403 reason="Invalid DSN key"'),
    ],
)
def test_a_refused_request_is_logged_with_its_reason_and_id(
    client: webtest.TestApp, database: Database, lines: list[logging.LogRecord], body: bytes, key: str, line: str
) -> None:
    headers = {"X-Open-Sentry-Key": key.format(key=database.key)}
    response = client.post("/v1/ingest", body, headers, expect_errors=True)
    (record,) = lines
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith("refused: " + line)
    assert record.getMessage().endswith(f"request_id={response.headers['X-Request-Id']}")


def test_refusals_are_not_logged_unless_logging_is_configured(database: Database, tmp_path: Path) -> None:
    with support.gunicorn(database.service, tmp_path / "log") as server:
        assert not support.answers(server.url + "/elsewhere")
        assert "refused" not in server.log.read_text()


def test_the_deployed_configuration_logs_refusals(database: Database, tmp_path: Path) -> None:
    options = ("--config", "deploy/gunicorn.conf.py", "--workers", "1")
    with support.gunicorn(database.service, tmp_path / "log", *options) as server:
        assert not support.answers(server.url + "/elsewhere")
        lines = [line for line in server.log.read_text().splitlines() if "refused: " in line]
        assert len(lines) == 1
        assert re.match(r'\[.*\] \[\d+\] \[INFO\] refused: status=404 reason="Not found" ', lines[0])


@pytest.mark.parametrize("given", ["abc-123", "4bf92f3577b34da6a3ce929d0e0e4736", "Root=1-67891233-ab", "x" * 128])
def test_a_valid_request_id_is_kept(client: webtest.TestApp, given: str) -> None:
    for path in ("/health", "/elsewhere", "/v1/ingest"):
        response = client.get(path, headers={"X-Request-Id": given}, expect_errors=True)
        assert response.headers.getall("X-Request-Id") == [given]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\nb", "a\n", 'a"', "é", "<b>"])
def test_any_other_request_id_is_replaced(client: webtest.TestApp, given: str | None) -> None:
    environ = {} if given is None else {"HTTP_X_REQUEST_ID": given}
    ids = {client.get("/health", extra_environ=environ).headers["X-Request-Id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(UUID7.fullmatch(made) for made in ids)


def test_a_request_without_an_id_gets_that_of_its_batch(client: webtest.TestApp, database: Database) -> None:
    path = f"/v1/ingest?key={database.key}"
    answer = client.post_json(path, ERROR)
    assert answer.headers["X-Request-Id"] == answer.json["id"]
    given = answer.headers["X-Request-Id"]
    again = client.post_json(path, ERROR, headers={"X-Request-Id": given})
    assert again.headers["X-Request-Id"] == given != again.json["id"]


def test_a_page_may_send_and_read_the_request_id(client: webtest.TestApp) -> None:
    response = client.options("/v1/ingest", headers={"Origin": "https://app.example.com"})
    assert "X-Request-Id" in response.headers["Access-Control-Allow-Headers"].split(", ")
    assert "X-Request-Id" in response.headers["Access-Control-Expose-Headers"].split(", ")
    assert UUID7.fullmatch(response.headers["X-Request-Id"])


@pytest.mark.parametrize("evil", ["\n", "\r", "\x85", "\x0b", "\x1b[2J", '" status=202 "'])
def test_no_input_can_forge_a_line(client: webtest.TestApp, lines: list[logging.LogRecord], evil: str) -> None:
    forged = f"x{evil}refused: status=200 y"
    environ = {
        "PATH_INFO": "/" + forged,
        "REQUEST_METHOD": "GET" + forged,
        "HTTP_X_OPEN_SENTRY_KEY": forged,
        "HTTP_X_REQUEST_ID": forged,
    }
    client.request("/", environ=environ, expect_errors=True)
    (record,) = lines
    line = record.getMessage()
    assert line.isascii()
    assert line.isprintable()
    assert line.count('"') == 8


def test_a_member_name_cannot_forge_a_line(
    client: webtest.TestApp, database: Database, lines: list[logging.LogRecord]
) -> None:
    item = {**ERROR, "tags": {"x\nrefused: status=200\u2028": 1}}
    assert support.post(client, database.key, item, expect_errors=True).status_int == 400
    (record,) = lines
    assert r"x\nrefused: status=200\u2028" in record.getMessage()
    assert record.getMessage().isprintable()


def test_a_traceback_cannot_forge_a_line(
    database: Database, lines: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("x\n2026-01-01 refused: status=200")

    application = create_app(database.service)
    monkeypatch.setattr(application.store, "ingest", broken)
    client = webtest.TestApp(application)
    assert support.post(client, database.key, ERROR, expect_errors=True).status_int == 500
    (record,) = lines
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("refused: status=500 ")
    assert record.exc_info
    traceback = str(record.exc_text).splitlines()
    assert traceback[-2:] == ["  RuntimeError: x", "  2026-01-01 refused: status=200"]
    assert all(line.startswith("  ") for line in traceback)


def test_no_key_is_logged_in_full(client: webtest.TestApp, database: Database, lines: list[logging.LogRecord]) -> None:
    for key in (database.key, "short", "e" * 16):
        client.post("/v1/ingest", "{", {"X-Open-Sentry-Key": key}, expect_errors=True)
        client.post(f"/v1/ingest?key={key}", "{", expect_errors=True)
    assert len(lines) == 6
    text = "".join(record.getMessage() for record in lines)
    assert f'key="{database.key[:4]}..."' in text
    assert database.key not in text
    assert "short" not in text
    assert "e" * 16 not in text


def test_an_outage_is_logged_as_a_warning_from_time_to_time(
    lines: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_warned", float("-inf"))
    application = create_app(f"host=127.0.0.1 port={support.free_port()} user=x", database_timeout=0.1)
    client = webtest.TestApp(application)
    for _ in range(5):
        client.post_json("/v1/ingest?key=x", ERROR, expect_errors=True)
    application.close()
    levels = [record.levelno for record in lines]
    assert len(levels) == 5
    assert levels[0] == logging.WARNING
    assert 1 <= levels.count(logging.WARNING) < 5
    assert set(levels) == {logging.WARNING, logging.INFO}
