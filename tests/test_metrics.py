"""The metrics: correct across all processes of a server, and absent without prometheus_client."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import support
from tests.support import AI_GENERATION, ERROR, MINIMAL, ROOT, TRANSACTION, Database, Server

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(url: str) -> Samples:
    """Read the metrics as Prometheus does."""
    with urllib.request.urlopen(url + "/metrics", timeout=10) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = list(text_string_to_metric_families(response.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    assert len({(sample.name, *sorted(sample.labels.items())) for sample in samples}) == len(samples)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"opensentry_ingest_{name}", tuple(sorted(labels.items()))), 0)


def post(server: Server, body: bytes, key: str) -> int:
    request = urllib.request.Request(f"{server.url}/v1/ingest?key={key}", body)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def workers(server: Server) -> set[int]:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return set(map(int, children.split()))


def test_the_metrics_include_all_workers_even_those_that_were_killed(database: Database, tmp_path: Path) -> None:
    batch = json.dumps([ERROR, ERROR, TRANSACTION, AI_GENERATION]).encode()
    # The real configuration, with its hook for workers that exit.
    options = ("--config", "deploy/gunicorn.conf.py", "--workers", "2", "--threads", "4")
    environ = {"RUNTIME_DIRECTORY": str(tmp_path)}
    with support.gunicorn(database.service, tmp_path / "log", *options, environ=environ) as server:

        def send(times: int) -> None:
            for _ in range(times):
                assert post(server, batch, database.key) == 202
                assert post(server, b"{", database.key) == 400
                assert post(server, batch, "abc123") == 403

        def check(times: int) -> None:
            # Either worker may answer a scrape.
            for _ in range(6):
                samples = scrape(server.url)
                ingest = {"path": "/v1/ingest"}
                assert value(samples, "requests_total", **ingest, status="202", reason="") == times
                assert value(samples, "requests_total", **ingest, status="400", reason="Invalid JSON") == times
                assert value(samples, "requests_total", **ingest, status="403", reason="Invalid DSN key") == times
                assert value(samples, "items_total", type="error") == 2 * times
                assert value(samples, "items_total", type="transaction") == times
                assert value(samples, "items_total", type="ai_generation") == times
                assert value(samples, "bytes_total") == len(batch) * times
                assert value(samples, "stage_seconds_count", stage="read") == 3 * times
                assert value(samples, "stage_seconds_count", stage="parse") == 3 * times
                assert value(samples, "stage_seconds_count", stage="validate") == 2 * times
                assert value(samples, "stage_seconds_count", stage="store") == 2 * times
                assert value(samples, "stage_seconds_sum", stage="store") > 0
                assert value(samples, "pool", state="used") == value(samples, "pool", state="waiting") == 0

        # gunicorn forks the second a moment after the first, which may have answered by then.
        support.wait_until(lambda: len(workers(server)) == 2)
        send(20)
        check(20)
        first = workers(server)
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        support.wait_until(lambda: len(workers(server)) == 2 and not workers(server) & first)
        support.wait_until(lambda: support.answers(server.url + "/health"))
        # The gauges of the killed workers are gone; their counters are not.
        assert value(scrape(server.url), "pool", state="size") == 0
        check(20)
        send(10)
        check(30)
        assert value(scrape(server.url), "pool", state="size") in (4, 8)


def test_what_sentrys_sdks_send_is_counted_by_kind(database: Database, tmp_path: Path) -> None:
    envelope = b'{}\n{"type": "event"}\n{}\n{"type": "session"}\n{}\n{"type": "x"}\n{}\n{"type": "y"}\n{}'
    with support.gunicorn(database.service, tmp_path / "log") as server:
        url = f"{server.url}/api/1/envelope?sentry_key="
        with urllib.request.urlopen(url + database.key, envelope, timeout=10) as response:
            assert response.status == 200
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(url + "wrong", envelope, timeout=10)
        samples = scrape(server.url)
        route = "/api/{project}/envelope/"
        assert value(samples, "requests_total", path=route, status="200", reason="") == 1
        assert value(samples, "requests_total", path=route, status="403", reason="Invalid DSN key") == 1
        assert value(samples, "items_total", type="error") == 1
        assert value(samples, "skipped_total", type="session") == 1
        assert value(samples, "skipped_total", type="other") == 2
        assert value(samples, "bytes_total") == len(envelope)


def test_requests_that_wait_for_the_database_are_counted(database: Database, tmp_path: Path) -> None:
    options = ("--workers", "1", "--threads", "8")
    environ = {"OPENSENTRY_POOL_SIZE": "2"}
    with (
        support.gunicorn(database.service, tmp_path / "log", *options, environ=environ) as server,
        psycopg.connect(database.owner) as lock,
    ):
        lock.execute("LOCK opensentry.project_keys")
        body = json.dumps(ERROR)
        url = f"{server.url}/v1/ingest?key={database.key}"
        code = f"import urllib.request as r; print(r.urlopen({url!r}, {body.encode()!r}).status)"
        clients = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]

        def all_wait() -> bool:
            samples = scrape(server.url)
            states = [value(samples, "pool", state=state) for state in ("used", "waiting", "size")]
            return states == [2, 1, 2]

        support.wait_until(all_wait)
        lock.rollback()
        assert [client.communicate(timeout=20)[0] for client in clients] == [b"202\n"] * 3


def test_several_processes_without_a_shared_folder_show_no_metrics(database: Database, tmp_path: Path) -> None:
    with support.gunicorn(database.service, tmp_path / "log", "--workers", "2") as server:
        with pytest.raises(urllib.error.HTTPError) as error:
            scrape(server.url)
        assert (error.value.code, error.value.read()) == (404, b'{"error": "Not found"}')
        assert "set PROMETHEUS_MULTIPROC_DIR" in server.log.read_text()


def test_without_prometheus_client_everything_else_works(database: Database) -> None:
    code = f"""if True:
        import sys
        sys.modules["prometheus_client"] = None
        import webtest, opensentry_ingest
        client = webtest.TestApp(opensentry_ingest.create_app())
        print(client.get("/metrics", expect_errors=True).status_int)
        print(client.post_json("/v1/ingest?key={database.key}", {ERROR!r}).status_int)
        """
    environ = {**os.environ, "DATABASE_URL": database.service}
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environ, cwd=ROOT, stdout=subprocess.PIPE)
    assert run.stdout.split() == [b"404", b"202"]


def test_requests_succeed_after_the_folder_was_deleted(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    options = ("--preload", "--workers", "1", "--threads", "2")
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    with support.gunicorn(database.service, tmp_path / "log", *options, environ=environ) as server:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        first = workers(server)
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        support.wait_until(lambda: workers(server) - first)
        support.wait_until(lambda: support.answers(server.url + "/health"))
        assert post(server, json.dumps(ERROR).encode(), database.key) == 202
        assert "this process stops counting" in server.log.read_text()


def run(code: str, database: Database, folder: Path) -> str:
    """Run code in a process of its own that has `client`, and return what it prints."""
    code = f"""if True:
        import os, shutil, webtest, opensentry_ingest
        client = webtest.TestApp(opensentry_ingest.create_app())
        {code}
        """
    environ = {**os.environ, "DATABASE_URL": database.service, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    return subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], env=environ, cwd=ROOT, text=True)


def test_requests_succeed_though_the_folder_is_deleted_between_them(database: Database, tmp_path: Path) -> None:
    post = f"client.post_json('/v1/ingest?key={database.key}', {MINIMAL!r}).status_int"
    assert run(f"client.get('/health'); shutil.rmtree('{tmp_path}'); print({post})", database, tmp_path) == "202\n"


def test_the_gauges_of_a_killed_process_are_not_those_of_the_next_with_its_id(
    database: Database, tmp_path: Path
) -> None:
    run("client.get('/ready'); os._exit(0)", database, tmp_path)
    (gauges,) = tmp_path.glob("gauge_*")
    rename = f"os.rename('{gauges}', '{tmp_path}/gauge_livesum_%d.db' % os.getpid())"
    text = run(f"{rename}; client.get('/ready'); print(client.get('/metrics').text)", database, tmp_path)
    assert 'opensentry_ingest_pool{state="size"} 4.0' in text


def test_a_folder_that_cannot_be_created_aborts_startup_with_one_line(database: Database) -> None:
    environ = {**os.environ, "DATABASE_URL": database.service, "PROMETHEUS_MULTIPROC_DIR": "/dev/null/x"}
    run = subprocess.run([sys.executable, "wsgi.py"], env=environ, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 3
    assert run.stderr == "opensentry-ingest: PROMETHEUS_MULTIPROC_DIR: /dev/null/x: Not a directory\n"


def test_the_end_of_a_process_is_noted_without_an_import(tmp_path: Path) -> None:
    # In a signal handler of gunicorn 23, an import that another signal interrupts stops the server.
    gauges = [tmp_path / f"gauge_{name}.db" for name in ("livesum_123", "livesum_1234", "sum_123")]
    for file in gauges:
        file.touch()
    code = """if True:
        import sys
        from opensentry_ingest import process_ended
        before = set(sys.modules)
        process_ended(123)
        process_ended(123)
        print(set(sys.modules) - before)
        """
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environ, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    assert run.stdout == b"set()\n"
    assert [file.exists() for file in gauges] == [False, True, True]
