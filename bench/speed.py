"""`make bench`: the service beside what its parts achieve alone, and beside itself with the reference validator.

docs/performance.md explains the method and the table.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

from bench import tools


def main() -> None:
    """Print one table: medians of interleaved runs."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed")
    parser.add_argument("--seconds", type=float, default=10, help="length of one run")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    seconds = arguments.seconds
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        runs: dict[tuple[str, str], list[tools.Run]] = defaultdict(list)
        health: list[float] = []
        direct: dict[str, list[float]] = defaultdict(list)
        with (
            tools.database(folder / "data") as base,
            tools.gunicorn(base, folder) as server,
            tools.gunicorn(base, folder, without="jsonschema_rs") as slow,
            tools.gunicorn(base, folder, app="bench.bare") as plain,
        ):
            servers = {"fast": server, "slow": slow, "bare": plain}
            urls = {kind: f"{one.url}/v1/ingest?key={base.key}" for kind, one in servers.items()}
            for turn in range(arguments.rounds + 1):
                length = min(seconds, 3) if turn == 0 else seconds
                rate = tools.wrk(f"{server.url}/health", length, None, folder).rate
                if turn:
                    health.append(rate)
                for payload, value in tools.PAYLOADS.items():
                    text = json.dumps(value)
                    base.clear()
                    rate = tools.pgbench(base, length, text, folder)
                    if turn:
                        direct[payload].append(rate)
                    for kind, url in urls.items():
                        base.clear()
                        run = tools.wrk(url, length, text.encode(), folder)
                        if turn:
                            runs[payload, kind].append(run)
    h = median(health)
    print(
        f"2 workers, 4 threads, {tools.CONNECTIONS} connections, fsync on; medians of {arguments.rounds} runs ", end=""
    )
    print(f"of {seconds:g} s; /health: {h:,.0f} requests/s\n")
    print("| payload | bytes | requests/s | items/s | p50 ms | p99 ms | pgbench/s | ", end="")
    print("of the limit | bare, of the limit | x jsonschema |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |")
    for payload, value in tools.PAYLOADS.items():
        rate = median(run.rate for run in runs[payload, "fast"])
        items = len(value) if isinstance(value, list) else 1
        limit = 1 / (1 / h + 1 / median(direct[payload]))
        p50, p99 = (median(getattr(run, name) for run in runs[payload, "fast"]) for name in ("p50", "p99"))
        bare_rate = median(run.rate for run in runs[payload, "bare"])
        times = rate / median(run.rate for run in runs[payload, "slow"])
        print(
            f"| {payload} | {len(json.dumps(value)):,} | {rate:,.0f} | {rate * items:,.0f} | {p50:.2f} | {p99:.2f} ",
            end="",
        )
        print(f"| {median(direct[payload]):,.0f} | {rate / limit:.2f} | {bare_rate / limit:.2f} | {times:.1f} |")


if __name__ == "__main__":
    main()
