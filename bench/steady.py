"""`make bench-steady`: latency at constant rates of arrival, alone and beside what else uses the database.

The database holds events, transactions and AI calls of 30 days. Beside the load of 660-byte events run, one at a time:
`maintain`, which moves rows out of the default partition; `regroup`, of events whose fingerprint is outdated; and a
viewer, in which somebody opens another page half a second after the last one has arrived.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import count, cycle, product
from pathlib import Path
from statistics import median

from bench import arrivals, read, tools
from opensentry_ingest import embedded

RATES = (100, 500, 1000)
ROWS = 100_000
"""Rows of each kind in the database."""

MOVED_ROWS = 15_000
"""Rows that `maintain` has to move, for each second of a run."""

PAUSE_SECONDS = 0.5
"""The time between two pages."""

HEADER = "X-Load: arrivals"

PAGES = ("/issues", "/issues?sort=events", "/performance", "/llm", "/trace?id=trace-1000", "/projects")

# As if the rule had been another, in which nothing but the text made an issue.
OTHER_RULE = "UPDATE opensentry.events SET client_fingerprint = jsonb_build_array(exception_value)"
OUTDATE = "UPDATE opensentry.events SET fingerprint = md5(fingerprint::text)::uuid"

# Each time another month, which has no partition yet.
MISPLACE = """
    CREATE TEMPORARY TABLE misplaced AS SELECT * FROM opensentry.events LIMIT {rows};
    UPDATE misplaced
    SET received_at = date_trunc('month', now(), 'UTC') - interval '{months} months' + interval '26 days' * random();
    INSERT INTO opensentry.events SELECT * FROM misplaced;
"""


ALONE, MAINTAIN, REGROUP, VIEWER = "nothing", "`maintain`", "`regroup`", "a viewer in use"


def _command(base: tools.Database, name: str) -> None:
    """Run a command of the service as the database's owner."""
    environ = {**os.environ, "DATABASE_URL": base.owner}
    command = [sys.executable, "-m", "opensentry_ingest", name]
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)


def _browse(url: str, stopped: threading.Event) -> None:
    """Open one page after the other."""
    for path in cycle(PAGES):
        with urllib.request.urlopen(url + path, timeout=60) as answer:
            answer.read()
        if stopped.wait(PAUSE_SECONDS):
            return


def _timed(work: Callable[[], None]) -> float:
    """Return how many seconds some work took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.steady")
    parser.add_argument("--seconds", type=float, default=10, help="length of one run")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    seconds = arguments.seconds
    before = tools.busy()
    body = json.dumps(tools.SMALL).encode()
    runs: dict[tuple[int, str], list[arrivals.Arrivals]] = defaultdict(list)
    shares: dict[tuple[int, str], list[float]] = defaultdict(list)
    months = count(3)
    stopped = threading.Event()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        folder.chmod(0o755)
        base = stack.enter_context(tools.database(folder / "data"))
        read.fill(base, ROWS)
        base.execute(OTHER_RULE)
        server = stack.enter_context(tools.gunicorn(base, folder))
        environ = {**os.environ, "DATABASE_URL": embedded.viewer_conninfo(base.owner)}
        command = [sys.executable, "-m", "opensentry_ingest", "view", "--port={port}"]
        viewer = stack.enter_context(tools.serve(command, "/issues", folder, environ, tools.ROOT))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stored = partial(_stored, base)
        meter = tools.Meter(stored, server.pid, tools.postmaster(folder / "data"))
        beside: dict[str, Callable[[], None]] = {
            ALONE: lambda: None,
            MAINTAIN: partial(_command, base, "maintain"),
            REGROUP: partial(_command, base, "regroup"),
            VIEWER: partial(_browse, viewer.url, stopped),
        }
        url = f"{server.url}/v1/ingest?key={base.key}"
        arrivals.run(url, RATES[0], min(1, seconds), body, HEADER, meter)
        for _ in range(arguments.rounds):
            for rate, (name, work) in product(RATES, beside.items()):
                if name == MAINTAIN:
                    base.execute(MISPLACE.format(rows=round(MOVED_ROWS * seconds), months=next(months)))
                if name == REGROUP:
                    base.execute(OUTDATE)
                base.execute("VACUUM opensentry.events")
                base.execute("CHECKPOINT")
                stopped.clear()
                working = pool.submit(_timed, work)
                runs[rate, name].append(arrivals.run(url, rate, seconds, body, HEADER, meter))
                stopped.set()
                shares[rate, name].append(min(1, working.result() / seconds))
    print(
        f"660-byte events at a constant rate, {arguments.rounds} runs of {seconds:g} s together; {ROWS:,} rows of ",
        end="",
    )
    print(f"each kind are stored. {tools.busy_text(before)}\n")
    print("| beside it | for | requests/s | requests | p50 ms | p99 ms | p99.9 ms | slowest ms |")
    print("| --- |" + " --: |" * 7)
    for (rate, name), each in sorted(runs.items(), key=lambda item: item[0][0]):
        latencies = [latency for run in each for latency in run.latencies]
        share = median(shares[rate, name])
        print(f"| {name} | {share:.0%} | {rate:,} | {len(latencies):,} ", end="")
        for percent in (50, 99, 99.9, 100):
            print(f"| {arrivals.percentile(latencies, percent):,.2f} ", end="")
        print("|")
    print()
    for (rate, name), each in runs.items():
        arrivals.report(f"{rate:,}/s beside {name}", each)
    print("\n" + arrivals.own_text([run for each in runs.values() for run in each]))


def _stored(base: tools.Database) -> int:
    return int(base.execute("SELECT count(*) FROM opensentry.events WHERE message LIKE 'xx%'")[0][0])


if __name__ == "__main__":
    main()
