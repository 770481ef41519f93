"""`serve`: run the service under gunicorn, with an embedded PostgreSQL unless DATABASE_URL is set."""

import argparse
import os
import shlex
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp

import psycopg

from opensentry_ingest import admin, embedded, gc_tuning, metrics, migrations, settings
from opensentry_ingest.app import Application
from opensentry_ingest.commands import shared, view
from opensentry_ingest.commands.server import Gunicorn, add_address_options, check_address, port, url

WORKERS = 2
THREADS = 8
"""More than the pool's connections, so that one is left for /health while the others wait for the database."""

GREETING = """
The DSN of the project {name!r}:

  {dsn}

Send an event:

  curl -i {quoted_dsn} -d '{{"type": "error", "exception": {{"type": "TypeError", "value": "it works"}}}}'

Look it up in PostgreSQL by the id in the answer:

  {command} show ID

Connection string of the database's owner: {owner}
"""


def add_parsers(commands: shared.Commands) -> None:
    command = commands.add_parser("serve", help="run the service")
    add_address_options(command, 3001)
    command.add_argument(
        "--data",
        type=Path,
        default=embedded.DEFAULT_FOLDER,
        metavar="DIR",
        help="folder of the embedded PostgreSQL, which runs if DATABASE_URL is not set (default: %(default)s)",
    )
    command.add_argument("--view-port", type=port, metavar="PORT", help="run the viewer too, on this port of 127.0.0.1")
    command.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    # A signal while PostgreSQL starts must stop PostgreSQL too; gunicorn sets its own handlers later.
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    serve(arguments.host, arguments.port, arguments.data, arguments.view_port)
    return 0


def serve(host: str, port: int, data: Path, view_port: int | None = None) -> None:
    """Serve until a signal arrives: SIGINT stops at once, SIGTERM and SIGHUP after the requests in progress.

    Args:
        host: the address to listen on, IPv4 or IPv6, or a host name.
        port: the port to listen on.
        data: the folder of the embedded PostgreSQL, which runs if DATABASE_URL is not set.
        view_port: the port of the viewer, which is a process of its own; None: no viewer.

    Raises:
        CommandError, SettingsError, psycopg.Error: the service cannot start.
        SystemExit: the service has stopped.
    """
    check_address(host, port)
    if view_port:
        check_address("127.0.0.1", view_port, "--view-port")
    parent = os.getpid()
    stack = ExitStack()
    try:
        config, greeting, owner = _database(stack, host, port, data)
        if view_port:
            viewer_url = embedded.viewer_conninfo(owner) if owner else config.database_url
            viewer = view.beside(viewer_url, config.public_url, view_port)
            # Callbacks, no context managers: a worker closes those when Python frees its copy of the stack.
            stack.callback(viewer.wait)
            stack.callback(viewer.terminate)
        if not os.environ.get(metrics.DIRECTORY):
            os.environ[metrics.DIRECTORY] = mkdtemp(prefix="opensentry-ingest-")
            stack.callback(shutil.rmtree, os.environ[metrics.DIRECTORY], ignore_errors=True)
        _gunicorn(config, host, port, greeting).run()
    finally:
        # A worker is a fork of this process, and runs this too.
        if os.getpid() == parent:
            stack.close()


def _database(stack: ExitStack, host: str, port: int, data: Path) -> tuple[settings.Settings, str, str]:
    """Return the settings, the greeting, and the connection string of the owner of the PostgreSQL that this starts.

    It starts one if DATABASE_URL is not set; otherwise the greeting and the owner are empty.
    """
    if os.environ.get("DATABASE_URL"):
        return settings.load(), "", ""
    owner = stack.enter_context(embedded.server(data))
    with psycopg.connect(owner, autocommit=True) as connection:
        migrations.migrate(connection)
        if not admin.projects(connection):
            admin.create_project(connection, "default")
        project = admin.projects(connection)[0]
    config = settings.load(database_url=embedded.service_conninfo(owner), public_url=_public_url(host, port))
    if not project["public_key"]:
        return config, f"The project {project['name']!r} has no valid key: create one with `key create`.", owner
    dsn = admin.dsn(config.public_url, project["public_key"])
    greeting = GREETING.format(
        owner=owner,
        name=project["name"],
        dsn=dsn,
        # zsh takes the brackets of an IPv6 address for a pattern.
        quoted_dsn=shlex.quote(dsn),
        command=sys.argv[0] if sys.argv[0].endswith("opensentry-ingest") else "python -m opensentry_ingest",
    )
    return config, greeting, owner


def _public_url(host: str, port: int) -> str:
    """Return the URL for clients: the setting, else the address that the service listens on."""
    return os.environ.get(settings.VARIABLES["public_url"]) or url(host, port)


def _gunicorn(config: settings.Settings, host: str, port: int, greeting: str) -> Gunicorn:
    return Gunicorn(
        # Its pool opens connections only in the workers, after the fork.
        Application(config),
        host,
        port,
        workers=WORKERS,
        threads=THREADS,
        post_fork=lambda _, __: gc_tuning.tune_gc(),
        child_exit=lambda _, worker: metrics.process_ended(worker.pid),
        when_ready=lambda _: print(greeting, flush=True),
    )
