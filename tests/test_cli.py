"""The command: what it prints, its exit statuses, and that no traceback reaches a user."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from opensentry_ingest import embedded
from tests import support
from tests.support import AI_GENERATION, ERROR, MINIMAL, TRANSACTION, Database, command


def process(*arguments: str, cwd: Path | None = None, database_url: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own."""
    environ = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    environ["PYTHONPATH"] = str(support.ROOT)
    if database_url:
        environ["DATABASE_URL"] = database_url
    done = subprocess.run(
        [sys.executable, "-m", "opensentry_ingest", *arguments],
        env=environ,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )
    support.check_output(done)
    return done


def records(*arguments: str, database: Database) -> Any:
    done = command(*arguments, "--json", database_url=database.owner)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["project"], ["key", "create"]])
def test_a_wrong_call_exits_with_2(arguments: list[str]) -> None:
    assert command(*arguments).returncode == 2


@pytest.mark.parametrize("port", ["0", "x", "70000", "-1", "٣"])
def test_serve_names_an_invalid_port_in_its_last_line(port: str) -> None:
    done = command("serve", f"--port={port}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"opensentry-ingest serve: error: argument --port: {port!r} is not a port number from 1 to 65535"
    )


def test_both_names_of_the_command_are_one() -> None:
    version = process("--version").stdout
    assert re.fullmatch(r"opensentry-ingest [0-9.]+\n", version)
    script = Path(sys.executable).parent / "opensentry-ingest"
    assert subprocess.check_output([script, "--version"], text=True) == version


def test_migrate_says_what_it_applied(bare_database: str) -> None:
    first = command("migrate", database_url=bare_database)
    assert first.returncode == 0
    assert "applied 0001_tables.sql\n" in first.stdout
    second = command("migrate", database_url=bare_database)
    assert (second.returncode, second.stdout) == (0, "nothing to do\n")


def test_projects_and_keys_from_their_making_to_their_end(database: Database) -> None:
    project = records("project", "create", "shop", database=database)
    assert list(project) == ["id", "name", "public_key", "dsn", "sentry_dsn", "otlp_endpoint", "otlp_headers"]
    assert project["dsn"] == f"http://{project['public_key']}@localhost:3001/v1/ingest"
    assert project["sentry_dsn"] == f"http://{project['public_key']}@localhost:3001/1"
    assert project["otlp_endpoint"] == "http://localhost:3001"
    assert project["otlp_headers"] == f"x-open-sentry-key={project['public_key']}"
    assert project in records("project", "list", database=database)

    second = records("key", "create", "shop", database=database)
    by_id = records("key", "create", project["id"], database=database)
    listed = records("key", "list", "shop", database=database)
    assert [key["public_key"] for key in listed] == [
        project["public_key"],
        second["public_key"],
        by_id["public_key"],
    ]
    revoked = records("key", "revoke", second["public_key"], database=database)
    assert revoked["revoked_at"]
    assert records("key", "revoke", second["public_key"], database=database) == revoked
    states = {key["public_key"]: key["revoked_at"] for key in records("key", "list", "shop", database=database)}
    assert states == {
        project["public_key"]: None,
        second["public_key"]: revoked["revoked_at"],
        by_id["public_key"]: None,
    }


def test_without_json_the_same_is_printed_for_people(database: Database) -> None:
    done = command("project", "create", "for people", database_url=database.owner)
    (record,) = [
        project for project in records("project", "list", database=database) if project["name"] == "for people"
    ]
    assert all(value in done.stdout for value in record.values())
    assert "for people" in command("project", "list", database_url=database.owner).stdout
    assert record["public_key"] in command("key", "list", "for people", database_url=database.owner).stdout


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["project", "create", "test"], "key create"),
        (["project", "create", " "], "needs a name"),
        (["key", "create", "nobody"], "project list"),
        (["key", "list", "nobody"], "project list"),
        (["key", "revoke", "nothing"], "key list"),
        (["show", "nonsense"], "id"),
        (["show", "01a207bf-2784-7d27-8129-de7579f546b3"], "no batch"),
    ],
)
def test_an_error_says_what_to_do(database: Database, arguments: list[str], hint: str) -> None:
    done = command(*arguments, database_url=database.owner)
    assert done.returncode == 1
    assert hint in done.stderr


def test_what_is_wrong_with_the_database_is_said_in_one_line(database: Database, bare_database: str) -> None:
    assert "DATABASE_URL" in process("project", "list", cwd=Path("/")).stderr
    assert "opensentry-ingest migrate" in command("project", "list", database_url=bare_database).stderr
    assert "role that migrated" in command("project", "list", database_url=database.service).stderr
    assert command("migrate", database_url="host=127.0.0.1 port=1").returncode == 1
    assert "DATABASE_URL" in command("migrate", database_url="nonsense").stderr


def test_check_names_each_fault_by_its_pointer(tmp_path: Path) -> None:
    good, bad, broken = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "broken.json"
    good.write_text(json.dumps([ERROR, TRANSACTION, AI_GENERATION]))
    bad.write_text(json.dumps([MINIMAL, {"type": "transaction", "name": 1, "traceId": "t", "durationMs": -1}, {}, 5]))
    broken.write_text("{")
    assert command("check", str(good)).returncode == 0
    done = command("check", str(good), str(bad), str(broken))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{bad}: /1/name: must be of type string",
        f"{bad}: /1/durationMs: must be at least 0",
        f"{bad}: /2/type: is required",
        f"{bad}: /3: must be an object",
        f"{broken}: (the whole payload): not JSON at line 1, column 2",
    ]
    done = command("check", "-", stdin='{"type": "nonsense"}')
    assert (done.returncode, done.stdout) == (1, "-: /type: must be one of error, transaction, ai_generation\n")
    assert command("check", str(tmp_path / "missing")).returncode == 1


def test_a_rejected_item_is_described_by_its_own_type(tmp_path: Path) -> None:
    for item, pointer in (
        ({"type": "error"}, "/exception"),
        ({**ERROR, "level": "loud"}, "/level"),
        ({**TRANSACTION, "spans": [{"spanId": "1", "op": "x"}]}, "/spans/0/durationMs"),
        ({**AI_GENERATION, "model": ""}, "/model"),
        ({**AI_GENERATION, "tags": {"a/b": 1}}, "/tags/a~1b"),
    ):
        file = tmp_path / "payload.json"
        file.write_text(json.dumps(item))
        done = command("check", str(file))
        assert done.returncode == 1
        assert [line.split(": ")[1] for line in done.stdout.splitlines()] == [pointer]
        assert "schema" not in done.stdout


class Service:
    """`serve`, as a newcomer runs it."""

    def __init__(self, cwd: Path, host: str = "127.0.0.1", *options: str) -> None:
        self.host, self.port = host, support.free_port()
        self.output = cwd / "output"
        environ = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "opensentry_ingest",
                    "serve",
                    "--host",
                    host,
                    "--port",
                    str(self.port),
                    *options,
                ],
                env={**environ, "PYTHONPATH": str(support.ROOT)},
                cwd=cwd,
                stdout=output,
                stderr=output,
            )
        support.wait_until(lambda: support.answers(self.url) or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.output.read_text()

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}/health"

    def stop(self, how: int) -> str:
        """End it by a signal; return what it printed."""
        self.process.send_signal(how)
        self.process.wait(60)
        return self.output.read_text()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data that `serve` has after its first start."""
    folder = tmp_path_factory.mktemp("data")
    Service(folder).stop(signal.SIGTERM)
    return folder / ".opensentry"


@pytest.fixture
def empty_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder to serve in; whatever a test leaves running there is stopped."""
    yield tmp_path
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        if str(tmp_path) in " ".join(process.info["cmdline"] or ()):
            process.kill()


@pytest.fixture
def folder(empty_folder: Path, data: Path) -> Path:
    """A folder to serve in that has data: initdb takes seconds."""
    # With their owner, which is another one if root runs the tests.
    subprocess.run(["cp", "-a", str(data), str(empty_folder)], check=True)
    return empty_folder


def test_serve_works_as_it_says_and_keeps_its_data(empty_folder: Path) -> None:
    folder = empty_folder
    service = Service(folder)
    support.wait_until(lambda: "curl" in service.output.read_text())
    support.tool("curl")
    (curl,) = re.findall(r"^  (curl .*)$", service.output.read_text(), re.M)
    answer = subprocess.check_output(["bash", "-c", curl], text=True)
    assert " 202 " in answer.splitlines()[0]
    batch_id = json.loads(answer.splitlines()[-1])["id"]
    shown = json.loads(process("show", batch_id, "--json", cwd=folder).stdout)
    assert shown["events"][0]["exception_value"] == "it works"
    assert "it works" in process("show", batch_id, cwd=folder).stdout

    printed = service.stop(signal.SIGINT)
    assert "Traceback" not in printed
    assert not (folder / ".opensentry" / "postgres" / "postmaster.pid").exists()
    assert "DATABASE_URL" in process("show", batch_id, cwd=folder).stderr

    service = Service(folder)
    assert json.loads(process("show", batch_id, "--json", cwd=folder).stdout) == shown
    support.wait_until(lambda: service.output.read_text().count("curl") == 2)
    assert len(set(re.findall(r"http://\w+@", service.output.read_text()))) == 1
    assert "Traceback" not in service.stop(signal.SIGTERM)
    assert not (folder / ".opensentry" / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serve_runs_the_viewer_as_another_process_and_role_and_stops_it(folder: Path, how: int) -> None:
    port = support.free_port()
    service = Service(folder, "127.0.0.1", "--view-port", str(port))
    support.wait_until(lambda: support.listens(port) and "curl" in service.output.read_text(), 60)
    (curl,) = re.findall(r"^  (curl .*)$", service.output.read_text(), re.M)
    subprocess.check_output(["bash", "-c", curl])
    assert f"http://localhost:{port}" in service.output.read_text()
    with urllib.request.urlopen(f"http://localhost:{port}/issues", timeout=30) as response:
        assert "it works" in response.read().decode()
    owner = embedded.running(folder / ".opensentry")
    assert owner
    with psycopg.connect(owner) as connection:
        rows = connection.execute(
            "SELECT r.rolname, g.rolname FROM pg_auth_members AS m "
            "JOIN pg_roles AS r ON r.oid = m.member JOIN pg_roles AS g ON g.oid = m.roleid "
            "WHERE r.rolname LIKE 'opensentry%' ORDER BY 1"
        ).fetchall()
    assert rows == [("opensentry_service", "opensentry_ingest"), ("opensentry_viewer", "opensentry_reader")]
    printed = service.stop(how)
    assert "Traceback" not in printed
    assert not support.listens(port)


@pytest.mark.skipif(sys.platform != "linux", reason="psutil limits processes on Linux only")
def test_a_viewer_that_fails_ends_with_a_status_that_does_not_end_serve(database: Database, tmp_path: Path) -> None:
    import psutil

    port = support.free_port()
    command = [sys.executable, "-m", "opensentry_ingest", "view", "--port", str(port)]
    environ = {**os.environ, "DATABASE_URL": database.owner}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, env=environ, cwd=support.ROOT, stderr=log) as viewer,
    ):
        support.wait_until(lambda: support.listens(port))
        master = psutil.Process(viewer.pid)
        support.wait_until(master.children)
        # Room for what gunicorn itself opens for the next worker, and for nothing in that.
        used = max(int(path.name) for path in Path(f"/proc/{viewer.pid}/fd").iterdir())
        master.rlimit(psutil.RLIMIT_NOFILE, (used + 1, used + 1))
        for worker in master.children():
            worker.kill()
        assert viewer.wait(60) == 1
    assert "Worker failed to boot" in (tmp_path / "log").read_text()


def test_the_viewer_is_not_started_for_other_machines_without_a_password(
    database: Database,
) -> None:
    refused = command("view", "--host", "0.0.0.0", database_url=database.owner)
    assert refused.returncode == 1
    assert "OPENSENTRY_VIEWER_PASSWORD" in refused.stderr


@pytest.mark.parametrize(("host", "public"), [("::1", "[::1]"), ("::", "localhost"), ("0.0.0.0", "localhost")])
def test_the_curl_line_of_serve_works_on_every_kind_of_address(folder: Path, host: str, public: str) -> None:
    service = Service(folder, host)
    support.wait_until(lambda: "curl" in service.output.read_text())
    support.tool("curl")
    (curl,) = re.findall(r"^  (curl .*)$", service.output.read_text(), re.M)
    assert f"@{public}:{service.port}/" in curl
    assert " 202 " in subprocess.check_output(["bash", "-c", curl], text=True).splitlines()[0]
    assert "Traceback" not in service.stop(signal.SIGTERM)


def test_the_embedded_service_is_a_member_of_the_group_and_no_more(folder: Path) -> None:
    service = Service(folder)
    url = f"http://{json.loads(process('project', 'list', '--json', cwd=folder).stdout)[0]['public_key']}"
    connection = http.client.HTTPConnection("127.0.0.1", service.port)
    key = url.removeprefix("http://")
    connection.request("POST", f"/v1/ingest?key={key}", json.dumps(MINIMAL))
    assert connection.getresponse().status == 202
    connection.close()
    (owner,) = re.findall(r"^Connection string of the database's owner: (.*)$", service.output.read_text(), re.M)
    database = Database(owner, "", "", "")
    (backend,) = {
        row["usename"]
        for row in database.fetch("SELECT usename FROM pg_stat_activity WHERE application_name = 'opensentry-ingest'")
    }
    (role,) = database.fetch("SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = %s", backend)
    assert not any(role.values())
    service.stop(signal.SIGTERM)


def test_serve_takes_over_after_it_was_killed(folder: Path) -> None:
    service = Service(folder)
    service.process.kill()
    service.process.wait()
    # PostgreSQL still runs.
    assert (folder / ".opensentry" / "postgres" / "postmaster.pid").exists()
    service = Service(folder)
    service.stop(signal.SIGTERM)
    assert not (folder / ".opensentry" / "postgres" / "postmaster.pid").exists()


def test_a_worker_that_exits_leaves_postgresql_the_metrics_and_the_viewer_to_the_others(folder: Path) -> None:
    import psutil

    view_port = support.free_port()
    service = Service(folder, "127.0.0.1", "--view-port", str(view_port))
    support.wait_until(lambda: support.listens(view_port))
    log = service.output
    support.wait_until(lambda: log.read_text().count("Booting worker") == 2)
    (pid, *_) = re.findall(r"Booting worker with pid: (\d+)", log.read_text())
    worker = psutil.Process(int(pid))
    worker.terminate()
    support.wait_until(lambda: not worker.is_running() and log.read_text().count("Booting worker") == 3)
    base = service.url.removesuffix("/health")
    for path in ("/ready", "/metrics"):
        support.wait_until(lambda path=path: support.answers(base + path))  # type: ignore[misc]
    assert support.listens(view_port)
    assert "Traceback" not in service.stop(signal.SIGTERM)
    assert "stops counting" not in log.read_text()


def test_serve_that_cannot_start_says_why_in_one_line(folder: Path) -> None:
    service = Service(folder)
    port_in_use = process("serve", "--port", str(service.port), cwd=folder)
    assert (port_in_use.returncode, "--port" in port_in_use.stderr) == (1, True)
    folder_in_use = process("serve", "--port", str(support.free_port()), cwd=folder)
    assert (folder_in_use.returncode, "--data" in folder_in_use.stderr) == (1, True)
    service.stop(signal.SIGTERM)
    (folder / "file").write_text("")
    no_folder = process("serve", "--port", str(support.free_port()), "--data", "file", cwd=folder)
    assert no_folder.returncode == 1


def test_a_reader_that_goes_away_is_no_error(database: Database) -> None:
    line = f"{sys.executable} -m opensentry_ingest project list | true"
    environ = {**os.environ, "DATABASE_URL": database.owner, "PYTHONPATH": str(support.ROOT)}
    done = subprocess.run(["bash", "-c", line], env=environ, capture_output=True, text=True)
    assert done.stderr == ""


def test_projects_of_one_name_made_at_once_are_one(database: Database) -> None:
    with ThreadPoolExecutor() as threads:
        done = list(threads.map(lambda _: process("project", "create", "twice", database_url=database.owner), range(4)))
    assert sorted(run.returncode for run in done) == [0, 1, 1, 1]
