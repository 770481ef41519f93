"""`serve`: run the service under gunicorn, with an embedded PostgreSQL unless DATABASE_URL is set."""

import argparse
import os
import shlex
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
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    command.add_argument("--port", type=port, default=3001, help="port to listen on (default: %(default)s)")
    command.add_argument(
        "--data",
        type=Path,
        default=embedded.DEFAULT_FOLDER,
        metavar="DIR",
        help="folder of the embedded PostgreSQL, which runs if DATABASE_URL is not set (default: %(default)s)",
    )
    command.set_defaults(run=_serve)


def port(text: str) -> int:
    """Return the TCP port that an argument gives."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number from 1 to 65535")
    return int(text)


def _serve(arguments: argparse.Namespace) -> int:
    # A SIGTERM while PostgreSQL starts must stop PostgreSQL too; gunicorn sets its own handler later.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    serve(arguments.host, arguments.port, arguments.data)
    return 0


def serve(host: str, port: int, data: Path) -> None:
    """Serve until a signal arrives: SIGINT stops at once, SIGTERM after the requests in progress.

    Args:
        host: the address to listen on, IPv4 or IPv6, or a host name.
        port: the port to listen on.
        data: the folder of the embedded PostgreSQL, which runs if DATABASE_URL is not set.

    Raises:
        CommandError, SettingsError, psycopg.Error: the service cannot start.
        SystemExit: the service has stopped.
    """
    _check_address(host, port)
    parent = os.getpid()
    stack = ExitStack()
    try:
        config, greeting = _database(stack, host, port, data)
        if not os.environ.get(metrics.DIRECTORY):
            os.environ[metrics.DIRECTORY] = stack.enter_context(TemporaryDirectory(prefix="opensentry-ingest-"))
        _Gunicorn(config, host, port, greeting).run()
    finally:
        # A worker is a fork of this process, and runs this too.
        if os.getpid() == parent:
            stack.close()


def _check_address(host: str, port: int) -> None:
    """Raise CommandError if nothing can listen there: gunicorn would retry for five seconds, and log several lines."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(
                f"cannot listen on {host}, port {port}: {error.strerror}: give another --host or --port"
            ) from None


def _database(stack: ExitStack, host: str, port: int, data: Path) -> tuple[settings.Settings, str]:
    """Return the settings and the greeting; start PostgreSQL if DATABASE_URL is not set."""
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
        return config, f"The project {project['name']!r} has no valid key: create one with `key create`."
    dsn = admin.dsn(config.public_url, project["public_key"])
    return config, GREETING.format(
        owner=owner,
        name=project["name"],
        dsn=dsn,
        # zsh takes the brackets of an IPv6 address for a pattern.
        quoted_dsn=shlex.quote(dsn),
        command=sys.argv[0] if sys.argv[0].endswith("opensentry-ingest") else "python -m opensentry_ingest",
    )


def _public_url(host: str, port: int) -> str:
    """Return the URL for clients: the setting, else the address that the service listens on."""
    name = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::") else _in_url(host)
    return os.environ.get(settings.VARIABLES["public_url"]) or f"http://{name}:{port}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Gunicorn(BaseApplication):  # type: ignore[misc]
    """gunicorn in this process, with these settings instead of a command line."""

    def __init__(self, config: settings.Settings, host: str, port: int, greeting: str) -> None:
        # Its pool opens connections only in the workers, after the fork.
        self._application = Application(config)
        self._options = {
            "bind": f"{_in_url(host)}:{port}",
            "workers": WORKERS,
            "worker_class": "gthread",
            "threads": THREADS,
            "post_fork": lambda _, __: gc_tuning.tune_gc(),
            "child_exit": lambda _, worker: metrics.process_ended(worker.pid),
            "when_ready": lambda _: print(greeting, flush=True),
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)
        # gunicorn has had a control socket since version 25.1.
        if "control_socket_disable" in self.cfg.settings:
            self.cfg.set("control_socket_disable", True)

    def load(self) -> Application:
        return self._application
