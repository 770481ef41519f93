"""`serve`: the service under gunicorn, with an embedded PostgreSQL unless DATABASE_URL is set."""

import argparse
import os
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from gunicorn.app.base import BaseApplication

from opensentry_ingest import admin, embedded, gc_tuning, metrics, migrations, settings
from opensentry_ingest.app import Application
from opensentry_ingest.commands import shared
from opensentry_ingest.errors import CommandError

WORKERS = 2
THREADS = 8
"""More than the pool has connections, so that /health finds a free one while the others wait for the database."""

GREETING = """
The DSN of the project {name!r}:

  {dsn}

Send an event:

  curl -i {dsn} -d '{{"type": "error", "exception": {{"type": "TypeError", "value": "it works"}}}}'

See it in PostgreSQL, by the id of the answer:

  {command} show ID

The database, as its owner: {owner}
"""


def add_parsers(commands: shared.Commands) -> None:
    command = commands.add_parser("serve", help="run the service")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    command.add_argument("--port", type=port, default=3001, help="port to listen on (default: %(default)s)")
    command.add_argument(
        "--data",
        type=Path,
        default=embedded.DEFAULT_FOLDER,
        metavar="DIR",
        help="folder of the embedded PostgreSQL, used without DATABASE_URL (default: %(default)s)",
    )
    command.set_defaults(run=_serve)


def port(text: str) -> int:
    """Return a TCP port from the command line."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, which is a number from 1 to 65535")
    return int(text)


def _serve(arguments: argparse.Namespace) -> int:
    # A SIGTERM during the start of PostgreSQL must stop it too; gunicorn installs its own handler later.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    serve(arguments.host, arguments.port, arguments.data)
    return 0


def serve(host: str, port: int, data: Path) -> None:
    """Serve until a signal: SIGINT stops at once, SIGTERM after the requests in progress.

    Args:
        host: the address to listen on.
        port: the port to listen on.
        data: the folder of the embedded PostgreSQL, unless DATABASE_URL is set.

    Raises:
        CommandError, SettingsError, psycopg.Error: why it cannot start.
        SystemExit: gunicorn has stopped.
    """
    # gunicorn would retry for five seconds, and then print several lines.
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise CommandError(f"cannot listen on {host}, port {port}: {error.strerror}: give another --port") from None
    parent = os.getpid()
    stack = ExitStack()
    try:
        config, greeting = _database(stack, host, port, data)
        if not os.environ.get(metrics.DIRECTORY):
            os.environ[metrics.DIRECTORY] = stack.enter_context(TemporaryDirectory(prefix="opensentry-ingest-"))
        _Gunicorn(config, host, port, greeting).run()
    finally:
        # A worker is a fork of this process and gets here as well.
        if os.getpid() == parent:
            stack.close()


def _database(stack: ExitStack, host: str, port: int, data: Path) -> tuple[settings.Settings, str]:
    """Return the settings, and what to print for the user; start PostgreSQL unless DATABASE_URL is set."""
    if os.environ.get("DATABASE_URL"):
        return settings.load(), ""
    owner = stack.enter_context(embedded.server(data))
    with psycopg.connect(owner, autocommit=True) as connection:
        migrations.migrate(connection)
        if not admin.projects(connection):
            admin.create_project(connection, "default")
        project = admin.projects(connection)[0]
    config = settings.load(database_url=embedded.service_conninfo(owner), public_url=_public_url(host, port))
    if not project["public_key"]:
        return config, f"The project {project['name']!r} has no valid key: `key create` creates one."
    return config, GREETING.format(
        owner=owner,
        name=project["name"],
        dsn=admin.dsn(config.public_url, project["public_key"]),
        command=sys.argv[0] if sys.argv[0].endswith("opensentry-ingest") else "python -m opensentry_ingest",
    )


def _public_url(host: str, port: int) -> str:
    """Return the URL for clients: the operator's setting, or else the address it listens on."""
    name = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::", "::1") else host
    return os.environ.get(settings.VARIABLES["public_url"]) or f"http://{name}:{port}"


class _Gunicorn(BaseApplication):  # type: ignore[misc]
    """gunicorn in this process, with the settings below instead of a command line."""

    def __init__(self, config: settings.Settings, host: str, port: int, greeting: str) -> None:
        # Its pool is opened in each worker, after the fork.
        self._application = Application(config)
        self._options = {
            "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "workers": WORKERS,
            "worker_class": "gthread",
            "threads": THREADS,
            "control_socket_disable": True,
            "post_fork": lambda _, __: gc_tuning.tune_gc(),
            "child_exit": lambda _, worker: metrics.process_ended(worker.pid),
            "when_ready": lambda _: print(greeting, flush=True),
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Application:
        return self._application
