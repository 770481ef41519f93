"""`make bench-peers`: the service beside Bugsink, by the events that each has in its database at the end of a run.

Bugsink is installed in a separate environment and uses the configuration that it creates for a single server, with
three changes: the quotas are raised, the report to its makers is off, and tasks are eager, so that a response means
that the event is stored, as with this service. Both run 2 workers of 4 threads and get an 8-kB event with 20 frames and
30 breadcrumbs, each in its own format.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench import tools

SETTINGS = """
SNAPPEA["TASK_ALWAYS_EAGER"] = True
BUGSINK["PHONEHOME"] = False
for quota in ("5_MINUTES", "HOUR", "MONTH"):
    BUGSINK[f"MAX_EVENTS_PER_{quota}"] = BUGSINK[f"MAX_EVENTS_PER_PROJECT_PER_{quota}"] = 1_000_000_000
"""
"""Appended to the configuration that Bugsink creates."""


def bugsink_event() -> bytes:
    """Return the 8-kB event in the format of Sentry's `/store/`, without an id, so that each one is new."""
    item = dict(tools.LARGE)
    frames = item["exception"]["stacktrace"]["frames"]
    names = {"inApp": "in_app", "contextLine": "context_line"}
    exception = {
        **item["exception"],
        "stacktrace": {"frames": [{names.get(name, name): frame[name] for name in frame} for frame in frames]},
    }
    event: dict[str, Any] = {**item, "exception": {"values": [exception]}, "message": ""}
    event.update(breadcrumbs={"values": item["breadcrumbs"]}, platform="javascript", level="error")
    del event["type"]
    event["message"] = "x" * max(0, 8000 - len(json.dumps(event)))
    return json.dumps(event).encode()


@contextmanager
def bugsink(bin_folder: Path, folder: Path) -> Iterator[tuple[tools.Server, str, str, Path]]:
    """Run Bugsink with one project. Yield its server, the path and header that store an event, and its database."""
    home = folder / "bugsink"
    home.mkdir()
    environ = {**os.environ, "DJANGO_SETTINGS_MODULE": "bugsink_conf", "PYTHONPATH": str(home)}

    def run(*command: str) -> str:
        command = (str(bin_folder / command[0]), *command[1:])
        return subprocess.run(command, cwd=home, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout

    run("bugsink-create-conf", "--template=singleserver", "--host=127.0.0.1", f"--base-dir={home}")
    with (home / "bugsink_conf.py").open("a") as file:
        file.write(SETTINGS)
    for database in ("default", "snappea"):
        run("bugsink-manage", "migrate", "--verbosity=0", f"--database={database}")
    code = "from projects.models import Project; p = Project.objects.create(name='bench'); print(p.id, p.sentry_key)"
    project, key = run("bugsink-manage", "shell", "--verbosity=0", "--command", code).split()[-2:]
    command = [str(bin_folder / "gunicorn"), "bugsink.wsgi"]
    with tools.serve(command, "/health/ready", folder, environ, home) as server:
        header = f"X-Sentry-Auth: Sentry sentry_version=7, sentry_key={key}"
        yield server, f"/api/{project}/store/", header, home / "db.sqlite3"


def main() -> None:
    """Print one table: medians of interleaved runs."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--bugsink", type=Path, required=True, help="folder of its commands")
    parser.add_argument("--seconds", type=float, default=10, help="length of one run")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            tools.database(folder / "data") as base,
            tools.gunicorn(base, folder) as server,
            bugsink(arguments.bugsink.absolute(), folder) as (peer, path, header, peer_database),
        ):
            event, peer_event = json.dumps(tools.LARGE).encode(), bugsink_event()

            def peer_events() -> int:
                with sqlite3.connect(peer_database, timeout=60) as connection:
                    count: int = connection.execute("SELECT count(*) FROM events_event").fetchone()[0]
                    return count

            for turn in range(arguments.rounds + 1):
                seconds = min(arguments.seconds, 3) if turn == 0 else arguments.seconds
                base.clear()
                tools.wrk(f"{server.url}/v1/ingest?key={base.key}", seconds, event, folder)
                stored = base.execute("SELECT count(*) FROM opensentry.events")[0][0]
                before = peer_events()
                tools.wrk(peer.url + path, seconds, peer_event, folder, header)
                if turn:
                    ours.append(stored / seconds)
                    theirs.append((peer_events() - before) / seconds)
    command = [arguments.bugsink / "bugsink-show-version"]
    version = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    print(f"8-kB events, counted in the database after runs of {arguments.seconds:g} s; medians of {len(ours)} runs\n")
    print("| service | events/s | times Bugsink |")
    print("| --- | --: | --: |")
    print(f"| opensentry-ingest | {median(ours):,.0f} | {median(ours) / median(theirs):.1f} |")
    print(f"| Bugsink {version}, eager, SQLite | {median(theirs):,.0f} | 1 |")


if __name__ == "__main__":
    main()
