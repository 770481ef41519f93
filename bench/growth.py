"""`make bench-growth`: what makes a request more expensive: stored rows, earlier requests, hostile payloads.

It prints three tables. Rows: throughput with different numbers of stored events, all in the current month. Memory: of
the workers, during requests of all kinds. Payloads: throughput with ordinary and hostile payloads of 256 KiB.
"""

import argparse
import json
import string
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench import tools
from opensentry_ingest import body

PORTION = 1_000_000
"""Rows that one statement inserts."""

# Copies an event that ingest() stored. The ids and times are spread in order over the current month up to now.
COPY = """
INSERT INTO opensentry.events
SELECT
    project_id, uuidv7(age), position, now() + age, now() + age, level,
    exception_type, exception_value, frames, message, breadcrumbs, tags, "user", environment, release, extra
FROM opensentry.events,
    generate_series({first}, {last}) AS n,
    LATERAL (SELECT (date_trunc('month', now()) - now()) * (1 - n / {rows}.0) AS age) AS back
WHERE batch_id = '{batch}'
"""


def fill(base: tools.Database, rows: int) -> None:
    """Store `rows` events."""
    batch = base.execute("SELECT opensentry.ingest(%s, uuidv7(), %s::jsonb)", base.key, json.dumps([tools.SMALL]))[0][0]
    for first in range(1, rows + 1, PORTION):
        base.execute(COPY.format(first=first, last=min(rows, first + PORTION - 1), rows=rows, batch=batch))
        print(f"stored {min(rows, first + PORTION - 1):,} of {rows:,} rows", flush=True)
    # Otherwise autovacuum would do this during the measurement.
    base.execute("VACUUM (FREEZE, ANALYZE) opensentry.events")


def by_rows(base: tools.Database, folder: Path, sizes: list[int], seconds: float, rounds: int) -> None:
    """Print throughput for each number of stored rows."""
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        loads = []
        for rows in sizes:
            own = tools.another_database(base, f"rows_{rows}")
            fill(own, rows)
            loads.append((rows, own, stack.enter_context(tools.gunicorn(own, folder))))
        for turn in range(rounds + 1):
            # Rotate the order, because the first run after a pause has an advantage.
            for rows, own, server in loads[turn % len(loads) :] + loads[: turn % len(loads)]:
                for name in ("660-byte event", "batch of 20"):
                    own.execute("CHECKPOINT")
                    text = json.dumps(tools.PAYLOADS[name]).encode()
                    run = tools.wrk(f"{server.url}/v1/ingest?key={own.key}", seconds, text, folder)
                    if turn:
                        rates[name, rows].append(run.rate)
    print(f"\nRows stored; medians of {rounds} runs of {seconds:g} s\n")
    print("| payload | rows | requests/s | relative to the fewest rows |\n| --- | --: | --: | --: |")
    for (name, rows), values in sorted(rates.items()):
        print(f"| {name} | {rows:,} | {median(values):,.0f} | {median(values) / median(rates[name, sizes[0]]):.2f} |")


def by_requests(base: tools.Database, folder: Path, requests: int, seconds: float) -> None:
    """Print the memory of the workers during `requests` requests."""
    kinds = [json.dumps(value).encode() for value in tools.PAYLOADS.values()]
    refused = json.dumps([{**tools.LARGE, "level": "loud"}]).encode()
    done, shown = 0, 0
    with tools.gunicorn(base, folder) as server:
        url = f"{server.url}/v1/ingest?key={base.key}"
        print("\nUnshared memory (USS) of the two workers, in MB; one load in four is refused\n")
        print("| requests | first worker | second worker |\n| --: | --: | --: |", flush=True)
        while done < requests:
            base.clear()
            for text in kinds:
                done += tools.wrk(url, seconds, text, folder).requests
            done += tools.wrk(url, seconds, refused, folder, status=400).requests
            if done >= shown:
                workers = psutil.Process(server.pid).children()
                sizes = [worker.memory_full_info().uss / 1e6 for worker in workers]
                print(f"| {done:,} | " + " | ".join(f"{size:.1f}" for size in sizes) + " |", flush=True)
                shown += max(1, requests // 10)


def fit(make: Callable[[int], Any]) -> bytes:
    """Return the largest accepted payload that `make` returns for a number of pieces."""
    fewest, most = 1, body.LIMIT_BYTES
    while fewest < most:
        middle = (fewest + most + 1) // 2
        if len(json.dumps(make(middle), separators=(",", ":"))) <= body.LIMIT_BYTES:
            fewest = middle
        else:
            most = middle - 1
    return json.dumps(make(fewest), separators=(",", ":")).encode()


def hostile() -> dict[str, tuple[str, bytes]]:
    """Return payloads by name, each with the name of the ordinary payload to compare it with."""
    letters = string.ascii_letters + string.digits
    names = ["".join(name) for length in (1, 2, 3) for name in product(letters, repeat=length)]
    error: dict[str, Any] = {"type": "error", "exception": {}}
    transaction: dict[str, Any] = {"type": "transaction", "name": "GET /", "traceId": "4bf92f35", "durationMs": 245}
    span = {
        "spanId": "00f067aa0ba902b7",
        "parentSpanId": "53995c3f42cd8ad8",
        "op": "db.query",
        "description": "SELECT * FROM orders WHERE customer_id = $1 ORDER BY created_at DESC LIMIT 20",
        "durationMs": 40,
    }
    least = {"spanId": "a", "op": "b", "durationMs": 1}
    events, transactions = "20 events of 13 kB", "20 transactions"
    return {
        events: (events, fit(lambda n: [tools.event(n, 30, 50)] * 20)),
        transactions: (transactions, fit(lambda n: [{**transaction, "spans": [span] * n}] * 20)),
        "empty frames": (events, fit(lambda n: {**error, "exception": {"stacktrace": {"frames": [{}] * n}}})),
        "empty breadcrumbs": (events, fit(lambda n: {**error, "breadcrumbs": [{}] * n})),
        "short tags": (events, fit(lambda n: {**error, "tags": dict.fromkeys(names[:n], "")})),
        "short unknown members": (events, fit(lambda n: {**error, **dict.fromkeys(names[:n], 1)})),
        "one-letter members": (events, fit(lambda n: {**error, "x": [{"a": 1}] * n})),
        "empty arrays": (events, fit(lambda n: {**error, "x": [[]] * n})),
        "least spans": (transactions, fit(lambda n: {**transaction, "spans": [least] * n})),
    }


def by_payload(base: tools.Database, folder: Path, seconds: float, rounds: int) -> None:
    """Print the cost of hostile payloads."""
    rates: dict[str, list[float]] = defaultdict(list)
    payloads = hostile()
    with tools.gunicorn(base, folder) as server:
        for turn in range(rounds + 1):
            for name, (_, text) in payloads.items():
                base.clear()
                run = tools.wrk(f"{server.url}/v1/ingest?key={base.key}", seconds, text, folder)
                if turn:
                    rates[name].append(run.rate)
    print(f"\nPayloads of 256 KiB; medians of {rounds} runs of {seconds:g} s\n")
    print("| payload | requests/s | cost | relative to |\n| --- | --: | --: | --- |")
    for name, (ordinary, _) in payloads.items():
        rate = median(rates[name])
        print(f"| {name} | {rate:,.0f} | {median(rates[ordinary]) / rate:.1f} | {ordinary} |")


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth")
    parser.add_argument("--rows", type=int, nargs="+", required=True, help="numbers of stored rows, ascending")
    parser.add_argument("--requests", type=int, required=True, help="requests over which memory is measured")
    parser.add_argument("--seconds", type=float, default=10, help="length of one run")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with tools.database(folder / "data") as base:
            by_payload(base, folder, arguments.seconds, arguments.rounds)
            by_requests(base, folder, arguments.requests, arguments.seconds)
            by_rows(base, folder, arguments.rows, arguments.seconds, arguments.rounds)


if __name__ == "__main__":
    main()
