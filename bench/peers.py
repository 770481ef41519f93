"""`make bench-peers`: the service beside Bugsink, by the events that each has in its database at the end of a run.

Bugsink is installed in a separate environment and uses the configuration that it creates for a single server, with
three changes: the quotas are raised, the report to its makers is off, and tasks are eager, so that a response means
that the event is stored, as with this service. Both run 2 workers of 4 threads and get the same envelope, with an 8-kB
event of Sentry's SDK for Python and a new id in each request. Both group it into an issue before they answer. The
service also gets the event as an item of its own protocol.
"""

import argparse
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench import sentry, tools

SETTINGS = """
SNAPPEA["TASK_ALWAYS_EAGER"] = True
BUGSINK["PHONEHOME"] = False
for quota in ("5_MINUTES", "HOUR", "MONTH"):
    BUGSINK[f"MAX_EVENTS_PER_{quota}"] = BUGSINK[f"MAX_EVENTS_PER_PROJECT_PER_{quota}"] = 1_000_000_000
"""
"""Appended to the configuration that Bugsink creates."""

ITEM = "opensentry-ingest, `/v1/ingest`, as its own item"
ENVELOPE = "opensentry-ingest, `/api/1/envelope/`"
PEER = "Bugsink, `/api/1/envelope/`"


@contextmanager
def bugsink(bin_folder: Path, folder: Path) -> Iterator[tuple[tools.Server, str, str, Path]]:
    """Run Bugsink with one project. Yield its server, the path and header for envelopes, and its database."""
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
        yield server, f"/api/{project}/envelope/", header, home / "db.sqlite3"


def main() -> None:
    """Print one table: medians of interleaved runs."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--bugsink", type=Path, required=True, help="folder of its commands")
    parser.add_argument("--seconds", type=float, default=10, help="length of one run")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in (ITEM, ENVELOPE, PEER)}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            tools.database(folder / "data") as base,
            tools.gunicorn(base, folder) as server,
            bugsink(arguments.bugsink.absolute(), folder) as (peer, path, header, peer_database),
        ):

            def stored() -> int:
                joined = "opensentry.events JOIN opensentry.issues USING (project_id, fingerprint)"
                count: int = base.execute(f"SELECT count(*) FROM {joined}")[0][0]
                return count

            def peer_stored() -> int:
                with sqlite3.connect(peer_database, timeout=60) as connection:
                    count: int = connection.execute("SELECT count(issue_id) FROM events_event").fetchone()[0]
                    return count

            envelope = sentry.envelope(sentry.NO_ID)
            own_header = f"X-Sentry-Auth: Sentry sentry_version=7, sentry_key={base.key}"
            loads = {
                ITEM: (stored, f"{server.url}/v1/ingest?key={base.key}", sentry.item(), "X-Load: wrk", "post.lua"),
                ENVELOPE: (stored, f"{server.url}/api/1/envelope/", envelope, own_header, "sentry.lua"),
                PEER: (peer_stored, peer.url + path, envelope, header, "sentry.lua"),
            }
            for turn in range(arguments.rounds + 1):
                seconds = min(arguments.seconds, 3) if turn == 0 else arguments.seconds
                for load, (count, url, body, key, script) in loads.items():
                    base.clear()
                    before = count()
                    tools.wrk(url, seconds, body, folder, key, script=script)
                    if turn:
                        rates[load].append((count() - before) / seconds)
    command = [arguments.bugsink / "bugsink-show-version"]
    version = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    rate = {load: median(each) for load, each in rates.items()}
    rounds = arguments.rounds
    print(f"Events in the database, with an issue, after runs of {arguments.seconds:g} s; medians of {rounds} runs.")
    print(f"Bugsink {version} is eager and uses SQLite. The envelope has {len(envelope):,} bytes.\n")
    print("| load | events/s | times Bugsink | of /v1/ingest |")
    print("| --- | --: | --: | --: |")
    for load in rate:
        print(f"| {load} | {rate[load]:,.0f} | {rate[load] / rate[PEER]:.1f} | {rate[load] / rate[ITEM]:.2f} |")
    print("\nProcessor time of reading, converting and validating it, the least of many:")
    for path, least in sentry.adapter_times().items():
        print(f"{path}: {least:.0f} microseconds")


if __name__ == "__main__":
    main()
