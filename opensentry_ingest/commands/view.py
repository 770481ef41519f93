"""`view`: gunicorn with the viewer, as another process and another role than the service."""

import argparse
import ipaddress
import os
import subprocess
import sys

from opensentry_ingest import embedded, settings
from opensentry_ingest.commands import shared
from opensentry_ingest.commands.server import Gunicorn, add_address_options, check_address, url
from opensentry_ingest.errors import CommandError

THREADS = 8


def add_parsers(commands: shared.Commands) -> None:
    command = commands.add_parser("view", help="show what came in, in a browser")
    add_address_options(command, 3002)
    command.set_defaults(run=_view)


def _view(arguments: argparse.Namespace) -> int:
    host, port = arguments.host, arguments.port
    config = settings.load(database_url=shared.load_settings().database_url)
    loopback = _is_loopback(host)
    if not (loopback or config.viewer_password):
        raise CommandError(
            f"{host} is reached from other machines: set {settings.VARIABLES['viewer_password']}, "
            "or listen on 127.0.0.1 only"
        )
    try:
        from opensentry_ingest.viewer import access, create_viewer
    except ImportError:
        raise CommandError("run `pip install 'opensentry-ingest[viewer]'` for the viewer") from None
    check_address(host, port)
    database_url = os.environ.get("DATABASE_URL") or embedded.viewer_conninfo(config.database_url)
    # A web page can have its own name lead to this machine, but it cannot know the password.
    viewer = create_viewer(database_url, hosts=None if config.viewer_password else access.LOOPBACK)
    greeting = f"See what came in:\n\n  {url(host, port)}\n"
    gunicorn = Gunicorn(
        viewer,
        host,
        port,
        workers=1,
        threads=THREADS,
        # Of gunicorn's own lines only what is wrong is news.
        loglevel="warning",
        when_ready=lambda _: print(greeting, flush=True),
    )
    master = os.getpid()
    try:
        gunicorn.run()
    except SystemExit as end:
        # Beside `serve`, gunicorn 23 takes this process for a worker, and stops `serve` for its statuses 3 and 4.
        if end.code and os.getpid() == master:
            return 1
        raise
    return 0


def beside(database_url: str, public_url: str, port: int) -> "subprocess.Popen[bytes]":
    """Start the viewer as a process of its own, and return that.

    Args:
        database_url: what it reads from, as its own role.
        public_url: where clients reach the service.
        port: the port of 127.0.0.1 that it listens on.
    """
    environ = {
        **os.environ,
        settings.VARIABLES["database_url"]: database_url,
        settings.VARIABLES["public_url"]: public_url,
    }
    return subprocess.Popen([sys.executable, "-m", "opensentry_ingest", "view", "--port", str(port)], env=environ)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
