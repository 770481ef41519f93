"""`make bench-peers`: the service beside what people would use instead, in one run on one machine.

The first table compares what takes `/v1/ingest`: the service; the same under Granian instead of gunicorn; the same
without metrics; `bare.py`, which checks nothing; and `fastapi_service.py`, which a team would otherwise write. Each is
loaded as fast as it answers, and then with constant arrival at a third of that rate. pgbench shows what PostgreSQL does
alone. The second table does the same for Bugsink, with the envelope of a Sentry SDK.

Bugsink is installed in a separate environment and uses the configuration that it creates for a single server, with
three changes: the quotas are raised, the report to its makers is off, and tasks are eager, so that a response means
that the event is stored, as with this service. The envelope has an 8-kB event of Sentry's SDK for Python and a new id
in each request. Both group it into an issue before they answer. The service also gets the event as an item of its own
protocol.

All run 2 workers; those of gunicorn and Granian have 4 threads. The runs are interleaved, and each round begins with
another one. The rows are counted after each run; what was refused, lost or not answered is printed.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import arrivals, sentry, tools

SETTINGS = """
SNAPPEA["TASK_ALWAYS_EAGER"] = True
BUGSINK["PHONEHOME"] = False
for quota in ("5_MINUTES", "HOUR", "MONTH"):
    BUGSINK[f"MAX_EVENTS_PER_{quota}"] = BUGSINK[f"MAX_EVENTS_PER_PROJECT_PER_{quota}"] = 1_000_000_000
"""
"""Appended to the configuration that Bugsink creates."""

PEER_TABLES = """
CREATE SCHEMA peer;
CREATE TABLE peer.items (
    project_id uuid,
    batch_id uuid,
    position integer,
    type text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    happened_at timestamptz NOT NULL,
    item jsonb NOT NULL,
    PRIMARY KEY (project_id, batch_id, position)
);
CREATE TABLE peer.texts (batch_id uuid PRIMARY KEY, items jsonb NOT NULL);
GRANT USAGE ON SCHEMA peer TO PUBLIC;
GRANT INSERT ON peer.texts TO PUBLIC;
"""
"""The table of `fastapi_service.py`, and one for the least that PostgreSQL can do with a request."""

CALLS = {
    "pgbench: `ingest()`": (tools.INGEST, "opensentry.events"),
    "pgbench: `INSERT` of the text": ("INSERT INTO peer.texts VALUES (uuidv7(), :items)", "peer.texts"),
}
OURS, GRANIAN, PLAIN = "the service", "the service under Granian", "without metrics"
BARE, FASTAPI = "bare application", "FastAPI"
ITEM, ENVELOPE = "the service, as its own item", "the service, envelope"
GRANIAN_ENVELOPE, BUGSINK = "the service under Granian, envelope", "Bugsink, envelope"

MEASURED = (
    "p50 ms | p99 ms | server us | PostgreSQL us | 1/3: p50 ms | p99 ms | p99 / p50 | server us | PostgreSQL us |"
)
"""The columns that both tables end with."""


@dataclass
class Load:
    """What is sent to one server, and what was measured.

    Args:
        server: the server.
        path: the path and the query.
        body: what is posted.
        count: returns the number of rows stored.
        items: the rows that a request stores.
        postgres: the process id of PostgreSQL's master; None: the server uses none.
        header: another header.
        script: the script for wrk.
        full: the runs at full load.
        third: those at a third of it.
    """

    server: tools.Server
    path: str
    body: bytes
    count: Callable[[], int]
    items: int
    postgres: int | None
    header: str = "X-Load: bench"
    script: str = "post.lua"
    full: list[tools.Run] = field(default_factory=list)
    third: list[arrivals.Arrivals] = field(default_factory=list)

    def run(self, seconds: float, folder: Path) -> None:
        """Load the server as fast as it answers, and then at a third of that rate."""
        meter = tools.Meter(self.count, self.server.pid, self.postgres)
        url = self.server.url + self.path
        self.full.append(tools.wrk(url, seconds, self.body, folder, self.header, None, self.script, meter))
        rate = max(1, self.full[-1].rate / 3)
        self.third.append(arrivals.run(url, rate, seconds, self.body, self.header, meter))

    def rate(self) -> float:
        """Return the median of the accepted requests for each second."""
        return median(run.rate for run in self.full)

    def cells(self) -> str:
        """Return the cells of the columns `MEASURED`."""
        cells = [f"{median(run.p50 for run in self.full):.2f}", f"{median(run.p99 for run in self.full):.2f}"]
        cells += self._costs([run.cost for run in self.full])
        latencies = [latency for run in self.third for latency in run.latencies]
        p50, p99 = (arrivals.percentile(latencies, percent) for percent in (50, 99))
        cells += [f"{p50:.2f}", f"{p99:.2f}", f"{p99 / p50:.1f}", *self._costs([run.cost for run in self.third])]
        return " | ".join(cells)

    def _costs(self, costs: list[tools.Cost]) -> list[str]:
        postgres = f"{median(cost.postgres for cost in costs):,.0f}" if self.postgres else "-"
        return [f"{median(cost.service for cost in costs):,.0f}", postgres]


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
    command = [str(bin_folder / "gunicorn"), "bugsink.wsgi", *tools.GUNICORN]
    with tools.serve(command, "/health/ready", folder, environ, home) as server:
        header = f"X-Sentry-Auth: Sentry sentry_version=7, sentry_key={key}"
        yield server, f"/api/{project}/envelope/", header, home / "db.sqlite3"


@contextmanager
def fastapi(bin_folder: Path, base: tools.Database, folder: Path) -> Iterator[tools.Server]:
    """Run `fastapi_service.py`."""
    options = "--host 127.0.0.1 --port {port} --workers 2 --loop uvloop --http httptools --no-access-log"
    command = [str(bin_folder / "uvicorn"), "bench.fastapi_service:app", *options.split()]
    with tools.serve(command, "/health", folder, {**os.environ, "DATABASE_URL": base.owner}, tools.ROOT) as server:
        yield server


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--bugsink", type=Path, required=True, help="folder of its commands")
    parser.add_argument("--fastapi", type=Path, required=True, help="folder of the commands of its environment")
    parser.add_argument("--seconds", type=float, default=3, help="length of one run")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    before = tools.busy()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        folder.chmod(0o755)
        base = stack.enter_context(tools.database(folder / "data"))
        base.execute(PEER_TABLES)
        postgres = tools.postmaster(folder / "data")
        servers = {
            OURS: stack.enter_context(tools.gunicorn(base, folder)),
            GRANIAN: stack.enter_context(tools.granian(base, folder)),
            PLAIN: stack.enter_context(tools.gunicorn(base, folder, without="prometheus_client")),
            BARE: stack.enter_context(tools.gunicorn(base, folder, app="bench.bare")),
            FASTAPI: stack.enter_context(fastapi(arguments.fastapi.absolute(), base, folder)),
        }
        peer, path, header, peer_database = stack.enter_context(bugsink(arguments.bugsink.absolute(), folder))

        def rows(table: str) -> Callable[[], int]:
            return lambda: int(base.execute(f"SELECT count(*) FROM {table}")[0][0])

        def peer_rows() -> int:
            with sqlite3.connect(peer_database, timeout=60) as connection:
                return int(connection.execute("SELECT count(issue_id) FROM events_event").fetchone()[0])

        def clear() -> None:
            base.execute("TRUNCATE peer.items, peer.texts")
            base.clear()

        own_path = f"/v1/ingest?key={base.key}"
        loads: dict[tuple[str, str], Load] = {}
        for payload, value in tools.PAYLOADS.items():
            for name, server in servers.items():
                count = rows("peer.items" if name == FASTAPI else "opensentry.events")
                items = len(value) if isinstance(value, list) else 1
                loads[payload, name] = Load(server, own_path, json.dumps(value).encode(), count, items, postgres)
        envelope = sentry.envelope(sentry.NO_ID)
        own_header = f"X-Sentry-Auth: Sentry sentry_version=7, sentry_key={base.key}"
        count = rows("opensentry.events JOIN opensentry.issues USING (project_id, fingerprint)")
        own = servers[OURS]
        loads["", ITEM] = Load(own, own_path, sentry.item(), count, 1, postgres)
        for name, server in ((ENVELOPE, own), (GRANIAN_ENVELOPE, servers[GRANIAN])):
            loads["", name] = Load(server, "/api/1/envelope/", envelope, count, 1, postgres, own_header, "sentry.lua")
        loads["", BUGSINK] = Load(peer, path, envelope, peer_rows, 1, None, header, "sentry.lua")
        health: list[float] = []
        calls: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for turn in range(arguments.rounds + 1):
            seconds = min(arguments.seconds, 1) if turn == 0 else arguments.seconds
            health.append(tools.wrk(f"{own.url}/health", seconds, None, folder).rate)
            for payload, value in tools.PAYLOADS.items():
                for name, (statement, table) in CALLS.items():
                    clear()
                    meter = tools.Meter(rows(table), None, postgres)
                    rate = tools.pgbench(base, seconds, json.dumps(value), folder, statement)
                    calls[payload, name].append((rate, meter.cost(round(rate * seconds)).postgres))
            first = turn * len(loads) // (arguments.rounds + 1)
            for load in [*loads.values()][first:] + [*loads.values()][:first]:
                clear()
                load.run(seconds, folder)
            if turn == 0:
                # That was a warm-up.
                health.clear()
                calls.clear()
                for load in loads.values():
                    load.full.clear()
                    load.third.clear()
        memory = {name: tools.memory(server.pid) for name, server in {**servers, "Bugsink": peer}.items()}
    print(f"2 workers, {tools.CONNECTIONS} connections, fsync on; medians of {arguments.rounds} runs of ", end="")
    print(f"{arguments.seconds:g} s. {tools.busy_text(before)}\n")
    print(f"| payload | what | requests/s | of bare | of the limit | {MEASURED}")
    print("| --- | --- |" + " --: |" * 12)
    for payload in tools.PAYLOADS:
        alone = {name: [median(each) for each in zip(*calls[payload, name], strict=True)] for name in CALLS}
        limit = 1 / (1 / median(health) + 1 / next(iter(alone.values()))[0])
        bare = loads[payload, BARE].rate()
        for name in servers:
            load = loads[payload, name]
            print(f"| {payload} | {name} | {load.rate():,.0f} | {load.rate() / bare:.2f} ", end="")
            print(f"| {load.rate() / limit:.2f} | {load.cells()} |")
        for name, (rate, cost) in alone.items():
            print(f"| {payload} | {name} | {rate:,.0f} | - | - | - | - | - | {cost:,.0f} | - | - | - | - | - |")
    print(f"\n| what | events/s | times Bugsink | of the first row | {MEASURED}")
    print("| --- |" + " --: |" * 12)
    for name in (ITEM, ENVELOPE, GRANIAN_ENVELOPE, BUGSINK):
        rate = loads["", name].rate()
        print(f"| {name} | {rate:,.0f} | {rate / loads['', BUGSINK].rate():.1f} ", end="")
        print(f"| {rate / loads['', ITEM].rate():.2f} | {loads['', name].cells()} |")
    print("\n| what | RSS MB | PSS MB |\n| --- | --: | --: |")
    for name, (rss, pss) in memory.items():
        print(f"| {name} | {rss:,.0f} | {pss:,.0f} |")
    print()
    for (payload, name), load in loads.items():
        for when, runs in (("at full load", load.full), ("at a third of it", load.third)):
            arrivals.report(f"{payload or 'envelope'}, {name}, {when}", runs, load.items)
    print("\n" + arrivals.own_text([run for load in loads.values() for run in load.third]))
    command = [arguments.bugsink / "bugsink-show-version"]
    version = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    print(f"Bugsink {version}; /health: {median(health):,.0f} requests/s. The envelope has {len(envelope):,} bytes.")
    print("Processor time of reading, converting and validating it, the least of many: ", end="")
    print(", ".join(f"{path}: {least:.0f} us" for path, least in sentry.adapter_times().items()))


if __name__ == "__main__":
    main()
