"""gunicorn in this process, for the commands that serve."""

import argparse
import signal
import socket
from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication

from opensentry_ingest.errors import CommandError


def add_address_options(command: argparse.ArgumentParser, default_port: int) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    command.add_argument("--port", type=port, default=default_port, help="port to listen on (default: %(default)s)")


def port(text: str) -> int:
    """Return the TCP port that an argument gives."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number from 1 to 65535")
    return int(text)


def check_address(host: str, port: int, options: str = "--host or --port") -> None:
    """Raise CommandError if nothing can listen there: gunicorn would retry for five seconds, and log several lines."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(
                f"cannot listen on {host}, port {port}: {error.strerror}: give another {options}"
            ) from None


def url(host: str, port: int) -> str:
    """Return the URL of a server that listens there, for clients on this machine."""
    name = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::") else _in_url(host)
    return f"http://{name}:{port}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class Gunicorn(BaseApplication):  # type: ignore[misc]
    """gunicorn in this process, with these settings instead of a command line.

    Args:
        application: the WSGI application.
        host: the address to listen on, IPv4 or IPv6, or a host name.
        port: the port to listen on.
        options: other settings of gunicorn, by name.
    """

    def __init__(self, application: Callable[..., Any], host: str, port: int, **options: Any) -> None:
        self._application = application
        self._nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self.options = {"bind": f"{_in_url(host)}:{port}", "worker_class": "gthread", **options}
        super().__init__()

    def load_config(self) -> None:
        """Apply the settings."""
        for name, value in self.options.items():
            self.cfg.set(name, value)
        # gunicorn has had a control socket since version 25.1.
        if "control_socket_disable" in self.cfg.settings:
            self.cfg.set("control_socket_disable", True)

    def reload(self) -> None:
        """Stop at SIGHUP, which a terminal sends when it is closed, unless this runs under `nohup`."""
        if not self._nohup:
            raise StopIteration
        super().reload()

    def load(self) -> Callable[..., Any]:
        """Return the application."""
        return self._application
