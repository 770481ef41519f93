"""`make bench-read`: how long pages and views take, beside a plain count of the same rows.

The method and how to read the table are in docs/performance.md.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults

import psycopg

from bench import tools
from opensentry_ingest import create_viewer

DAYS = (1, 7, 30)
ISSUES = 500
MAX_RATIOS = {1: 5, 7: 5, 30: 12}
"""The targets: how many times as long as the count a page or view may take, by days."""

# Rows as ingest stores them, spread evenly over 30 days. A few issues, names and models have most of the rows.
_FILL = """
    SELECT setseed(0.5);
    SELECT opensentry.build_partition(t, month), opensentry.attach_partition(t, month)
    FROM unnest('{events,transactions,ai_generations,spans}'::name[]) AS t,
        (SELECT date_trunc('month', now() - interval '30 days', 'UTC') AS month) AS first
    WHERE month < date_trunc('month', now(), 'UTC');

    CREATE TEMPORARY TABLE moments AS
    SELECT
        n, now() - interval '30 days' * (1 - n::float8 / %(rows)s) AS moment, random() AS a, random() AS b,
        uuidv7(interval '-30 days' * (1 - n::float8 / %(rows)s)) AS batch_id
    FROM generate_series(1, %(rows)s) AS n;

    INSERT INTO opensentry.issues (project_id, fingerprint, title, culprit, level, first_seen)
    SELECT %(project)s, md5(n::text)::uuid, 'TypeError: issue ' || n, 'load in app/page.tsx', 'error',
        now() - interval '30 days' * random()
    FROM generate_series(0, %(issues)s - 1) AS n;

    INSERT INTO opensentry.events (
        project_id, batch_id, position, received_at, timestamp, level, exception_type, exception_value, frames, tags,
        "user", environment, release, fingerprint, trace_id
    )
    SELECT
        %(project)s, batch_id, 0, moment, moment, 'error', 'TypeError', 'issue ' || floor(a * a * %(issues)s),
        %(frames)s, jsonb_build_object('region', (ARRAY['us-east', 'us-west', 'eu-west'])[1 + floor(b * 3)::integer]),
        jsonb_build_object('id', 'user_' || floor(b * 20000), 'email', 'user@example.com'),
        (ARRAY['production', 'staging'])[1 + floor(b * b * 2)::integer], 'web@2.4.' || n * 10 / %(rows)s,
        md5(floor(a * a * %(issues)s)::integer::text)::uuid, 'trace-' || n
    FROM moments;

    INSERT INTO opensentry.transactions (
        project_id, batch_id, position, received_at, timestamp, name, trace_id, duration_ms, status, op, environment,
        release
    )
    SELECT
        %(project)s, batch_id, 0, moment, moment, 'GET /api/route/' || floor(a * a * 40), 'trace-' || n,
        exp(3 + 4 * b)::bigint, CASE WHEN b > 0.98 THEN 'error' ELSE 'ok' END, 'http.server', 'production', 'web@2.4.1'
    FROM moments;

    INSERT INTO opensentry.ai_generations (
        project_id, batch_id, position, received_at, timestamp, provider, model, input_tokens, output_tokens,
        total_tokens, cached_input_tokens, total_cost_usd, latency_ms, time_to_first_token_ms, status, trace_id, tags,
        "user", environment
    )
    SELECT
        %(project)s, batch_id, 0, moment, moment, 'openrouter', 'model-' || floor(a * a * 12), 1200, 340, 1540,
        floor(b * 1000), round((b / 100)::numeric, 5), exp(5 + 4 * a)::bigint, exp(4 + 2 * b)::bigint,
        CASE WHEN b > 0.99 THEN 'error' ELSE 'ok' END, 'trace-' || n,
        jsonb_build_object('feature', (ARRAY['chat', 'search', 'summary'])[1 + floor(a * 3)::integer]),
        jsonb_build_object('id', 'user_' || floor(b * 20000)), 'production'
    FROM moments;
"""

_COUNT = "SELECT count(*) FROM opensentry.{} WHERE received_at >= %s"

_VIEWS = {
    "issue_totals": (
        "events",
        "SELECT * FROM opensentry.issue_totals(%s) ORDER BY last_seen DESC LIMIT 50",
    ),
    "issue_hours": ("events", "SELECT * FROM opensentry.issue_hours(%s)"),
    "transaction_hours": ("transactions", "SELECT * FROM opensentry.transaction_hours(%s)"),
    "ai_generation_days": ("ai_generations", "SELECT * FROM opensentry.ai_generation_days(%s)"),
}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.read")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with tools.database(folder / "data") as base:
            fill(base, arguments.rows)
            _measure(base, arguments.rounds)


def fill(base: tools.Database, rows: int) -> None:
    """Store `rows` of each kind, spread over 30 days."""
    frames = tools.event(1500, 6, 0)["exception"]["stacktrace"]["frames"]
    with psycopg.connect(base.owner, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        [(project,)] = connection.execute("SELECT id FROM opensentry.projects").fetchall()
        values = {"project": project, "rows": rows, "issues": ISSUES, "frames": json.dumps(frames)}
        connection.execute(_FILL, values)
        connection.execute("VACUUM ANALYZE")


def _measure(base: tools.Database, rounds: int) -> None:
    viewer = create_viewer(base.owner, database_timeout=60)
    [(fingerprint,)] = base.execute(
        "SELECT fingerprint FROM opensentry.events GROUP BY 1 ORDER BY count(*) DESC LIMIT 1"
    )
    [(name,)] = base.execute("SELECT name FROM opensentry.transactions GROUP BY 1 ORDER BY count(*) DESC LIMIT 1")
    pages = {
        "issues": ("events", "/issues", {}),
        "issues by events": ("events", "/issues", {"sort": "events"}),
        "issues by users": ("events", "/issues", {"sort": "users"}),
        "the issue with most events": ("events", f"/issues/{fingerprint}", {}),
        "performance": ("transactions", "/performance", {}),
        "the transaction with most calls": ("transactions", "/performance/transaction", {"name": name}),
        "llm": ("ai_generations", "/llm", {}),
        "projects": ("events", "/projects", {}),
        "a trace": ("events", "/trace", {"id": "trace-1000"}),
    }
    print(f"medians of {rounds} runs; ms, and in brackets the times that a count(*) of the same rows and days takes\n")
    print("| page or view | queries |" + "".join(f" {days} d |" for days in DAYS))
    print("| --- | --: |" + " --: |" * len(DAYS))
    with psycopg.connect(base.owner, autocommit=True) as connection:
        counts: dict[tuple[str, int], float] = {}
        for table in ("events", "transactions", "ai_generations"):
            for days in DAYS:
                counts[table, days] = _time(rounds, partial(_rows, connection, _COUNT.format(table), days))
            print(f"| count(*) of {table} | 1 |" + "".join(f" {counts[table, days]:,.0f} |" for days in DAYS))
        for title, (table, statement) in _VIEWS.items():
            times = [_time(rounds, partial(_rows, connection, statement, days)) for days in DAYS]
            print(f"| view `{title}` | 1 |" + _cells(table, times, counts))
        for title, (table, path, query) in pages.items():
            periods = [{**query, "since": "24h" if days == 1 else f"{days}d"} for days in DAYS]
            times = [_time(rounds, partial(_get, viewer, path, period)) for period in periods]
            queries = max(_queries(viewer, path, period) for period in periods)
            print(f"| {title} | {queries} |" + _cells(table, times, counts))


def _rows(connection: psycopg.Connection[Any], statement: str, days: int) -> None:
    """Execute a statement and receive its rows. They become no Python objects, so the time is PostgreSQL's."""
    [(since,)] = connection.execute("SELECT now() - %s * interval '1 day'", [days]).fetchall()
    connection.execute(statement, [since])


def _time(rounds: int, function: Callable[[], object]) -> float:
    """Return the median of some runs in milliseconds, after one that fills the caches."""
    function()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return median(times) * 1000


def _cells(table: str, times: list[float], counts: dict[tuple[str, int], float]) -> str:
    cells = ""
    for milliseconds, days in zip(times, DAYS, strict=True):
        ratio = milliseconds / counts[table, days]
        cells += f" {milliseconds:,.0f} ({ratio:.1f}{', over' if ratio > MAX_RATIOS[days] else ''}) |"
    return cells


def _get(viewer: Any, path: str, query: dict[str, Any]) -> bytes:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ |= {"PATH_INFO": path, "QUERY_STRING": urlencode(query)}
    answers: list[str] = []
    body = b"".join(viewer(environ, lambda status, headers: answers.append(status)))
    if not answers[0].startswith("200"):
        raise SystemExit(f"{path} was answered {answers[0]}: {body[:500]!r}")
    return body


def _queries(viewer: Any, path: str, query: dict[str, Any]) -> int:
    """Return how many statements a page executes."""
    executed = 0
    execute = psycopg.Cursor.execute

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal executed
        executed += 1
        return execute(*arguments, **keywords)

    psycopg.Cursor.execute = counted  # type: ignore[method-assign]
    try:
        _get(viewer, path, query)
    finally:
        psycopg.Cursor.execute = execute  # type: ignore[method-assign]
    return executed


if __name__ == "__main__":
    main()
