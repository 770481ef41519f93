"""nginx and gunicorn with the files of `deploy/`, as systemd would run them.

The real files are used. Only ports, paths and the like are replaced, and if a text to replace is missing from the file,
the test fails.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import support
from tests.support import ROOT

DEPLOY = ROOT / "deploy"

MAIN = """
user {user};
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 768; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    # What Debian's nginx.conf sets for every site.
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    gzip on;
    include {folder}/site.conf;
}}
"""


def replaced(text: str, words: dict[str, str]) -> str:
    """Return the text with each of the words replaced. Every one must occur."""
    for old, new in words.items():
        assert old in text, f"{old!r} is missing"
        text = text.replace(old, new)
    return text


def unit(name: str) -> dict[str, str]:
    """Return the settings of a systemd unit in `deploy/`; if one is given twice, the last."""
    return dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / name).read_text(), re.MULTILINE))


class Service:
    """gunicorn as the systemd units run it, on a socket that stays open across restarts.

    Args:
        folder: the folder for the socket and the log.
        database_url: the database of the service.
        options: options added to the unit's command.
    """

    def __init__(self, folder: Path, database_url: str, *options: str) -> None:
        self.path = folder / "opensentry-ingest.sock"
        self.log = folder / "gunicorn.log"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self.path))
        self._socket.listen(int(unit("opensentry-ingest.socket")["Backlog"]))
        words = {"/opt/opensentry-ingest/bin": str(Path(sys.executable).parent), "/etc/opensentry-ingest": str(DEPLOY)}
        command = shlex.split(replaced(unit("opensentry-ingest.service")["ExecStart"], words)) + list(options)
        # systemd's socket protocol: file descriptors start at 3, and LISTEN_PID is the process that they are meant for.
        fd = self._socket.fileno()
        script = f'exec 3<&{fd} {fd}<&-; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        # dash allows only one digit in a file descriptor.
        self._command = ["bash", "-c", script, "bash", *command]
        self._environ = {**os.environ, "DATABASE_URL": database_url}
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd="/",
                env=self._environ,
                pass_fds=[self._socket.fileno()],
                stdout=output,
                stderr=output,
            )

    def reload(self) -> None:
        """Send the signal of the unit's ExecReload."""
        assert unit("opensentry-ingest.service")["ExecReload"] == "/bin/kill -s HUP $MAINPID"
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Stop it as systemd does: send SIGTERM to the main process, which must exit within TimeoutStopSec."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(int(unit("opensentry-ingest.service")["TimeoutStopSec"]))

    def workers(self) -> set[int]:
        """Return the ids of the worker processes."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return set(map(int, children.split()))

    def settled(self) -> bool:
        """Return whether every worker handles signals: a worker that is still starting misses one."""
        # A worker installs its handler for SIGABRT last, and the main process has none.
        found = [re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text()) for pid in self.workers()]
        caught = [int(each[1], 16) for each in found if each]
        return len(caught) > 1 and all(mask >> (signal.SIGABRT - 1) & 1 for mask in caught)

    def close(self) -> None:
        if self._process.poll() is None:
            self.stop()
        self._socket.close()


@contextmanager
def service(folder: Path, database_url: str, *options: str) -> Iterator[Service]:
    """Run gunicorn with deploy/gunicorn.conf.py, and stop it at the end."""
    running = Service(folder, database_url, *options)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def nginx(folder: Path, certificate: Path, upstream: Path, words: dict[str, str] | None = None) -> Iterator[str]:
    """Run nginx with deploy/nginx.conf, and stop it at the end.

    Args:
        folder: the folder for its files.
        certificate: a file with the certificate for localhost and its key.
        upstream: the socket to use instead of the service's.
        words: more replacements in the file.

    Yields:
        The URL of its TLS server.
    """
    program = support.tool("nginx")
    port, plain_port = support.free_port(), support.free_port()
    text = replaced(
        (DEPLOY / "nginx.conf").read_text(),
        {
            "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
            "    listen [::]:443 ssl http2;\n": "",
            "listen 80;": f"listen 127.0.0.1:{plain_port};",
            "    listen [::]:80;\n": "",
            "server unix:/run/opensentry-ingest.sock;": f"server unix:{upstream};",
            "/etc/letsencrypt/live/ingest.example.com/fullchain.pem": str(certificate),
            "/etc/letsencrypt/live/ingest.example.com/privkey.pem": str(certificate),
            "/var/log/nginx/access.log": str(folder / "access.log"),
            **(words or {}),
        },
    )
    (folder / "site.conf").write_text(text)
    # Other users cannot read pytest's folders, so the workers run as the user who runs the tests.
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    (folder / "nginx.conf").write_text(MAIN.format(user=user, folder=folder))
    command = [program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    process = subprocess.Popen(command)
    try:
        support.wait_until(lambda: process.poll() is not None or support.listens(port))
        assert process.poll() is None, (folder / "error.log").read_text()
        yield f"https://localhost:{port}"
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(60)


def make_certificate(folder: Path) -> Path:
    """Return a file with a certificate for localhost and its key."""
    path = folder / "certificate.pem"
    command = [support.tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", str(path), "-keyout", "-"]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    path.write_text(path.read_text() + made.stdout)
    return path
