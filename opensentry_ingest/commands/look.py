"""`stats`, `trace` and `show`: what is stored."""

import argparse
import json
from collections.abc import Iterator
from datetime import timedelta

from opensentry_ingest.commands import shared, terminal
from opensentry_ingest.commands.terminal import Cell
from opensentry_ingest.errors import CommandError
from opensentry_ingest.formats import count, dollars, milliseconds, percent
from opensentry_ingest.reading import Row, activity, batches, traces


def add_parsers(commands: shared.Commands) -> None:
    command = shared.add_json_option(commands.add_parser("stats", help="show how much came in, by hour or day"))
    shared.add_period_options(command)
    command.set_defaults(run=_stats)

    command = shared.add_json_option(commands.add_parser("trace", help="show a trace as a waterfall"))
    command.add_argument("trace_id", metavar="TRACE_ID")
    command.set_defaults(run=_trace)

    command = shared.add_json_option(commands.add_parser("show", help="show the rows of a batch"))
    command.add_argument("id", metavar="ID", help="the id from its 202")
    command.set_defaults(run=_show)


def _stats(arguments: argparse.Namespace) -> int:
    step = timedelta(hours=1) if arguments.since <= timedelta(days=2) else timedelta(days=1)
    with shared.connect() as connection:
        period = shared.period(connection, arguments.since)
        project_id = shared.project_id(connection, arguments.project)
        stats = activity.stats(connection, period, step, project_id=project_id)
        if arguments.json:
            print(
                terminal.to_json(
                    {**stats.totals, "by": "hour" if step < timedelta(days=1) else "day", "rows": stats.rows}
                )
            )
        elif any(stats.totals[name] for name in ("errors", "transactions", "ai_generations")):
            shared.print_lines(_stats_lines(stats))
        else:
            shared.print_hint(connection, "nothing came in in this period: --since 30d looks at a longer one")
    return 0


def _stats_lines(stats: activity.Stats) -> Iterator[str]:
    totals = stats.totals
    failed, calls_failed = totals["failed_transactions"], totals["failed_ai_generations"]
    for name, number, details in (
        (
            "errors",
            totals["errors"],
            f"{count(totals['issues'])} issues, {count(totals['new_issues'])} new; "
            f"{count(totals['users'] or None)} users",
        ),
        ("transactions", totals["transactions"], f"{count(failed)} failed ({percent(failed, totals['transactions'])})"),
        (
            "AI calls",
            totals["ai_generations"],
            f"{count(calls_failed)} failed ({percent(calls_failed, totals['ai_generations'])}); "
            f"{count(totals['tokens'])} tokens, {dollars(totals['cost_usd'])}",
        ),
    ):
        yield terminal.line(f"{name:12}  {count(number):>6}  ", Cell(details if number else "", "dim"))
    yield ""
    by_day = stats.buckets.step >= timedelta(days=1)
    most = max(row["errors"] for row in stats.rows)
    # What the other columns leave of 80 or more.
    width = max(10, (terminal.columns() or 100) - 66)
    yield from terminal.table(
        ["DAY (UTC)" if by_day else "HOUR (UTC)", ">TRANSACTIONS", ">FAILED", ">AI CALLS", ">COST", ">ERRORS", ""],
        [
            [
                [f"{row['start']:%Y-%m-%d}" if by_day else f"{row['start']:%m-%d %H:%M}"],
                [count(row["transactions"])],
                [count(row["failed_transactions"])],
                [count(row["ai_generations"])],
                [dollars(row["cost_usd"])],
                [count(row["errors"])],
                [Cell(_bar(row["errors"] / most * width if most else 0), "red")],
            ]
            for row in stats.rows
        ],
    )


_EIGHTHS = "\u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588"


def _bar(length: float) -> str:
    """Return a bar of a length in columns, to an eighth, and not nothing if it is more than nothing."""
    eighths = max(round(length * 8), length > 0)
    return _EIGHTHS[-1] * (eighths // 8) + (_EIGHTHS[eighths % 8 - 1] if eighths % 8 else "")


def _trace(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        trace = traces.trace(connection, arguments.trace_id)
    if not trace.rows:
        raise CommandError(f"nothing of a trace {arguments.trace_id!r} is stored")
    if arguments.json:
        print(terminal.to_json({"trace_id": arguments.trace_id, **trace._asdict()}))
    else:
        shared.print_lines(_trace_lines(trace))
    if trace.cut:
        shared.note(f"these are {len(trace.rows)} rows of a larger trace")
    return 0


def _trace_lines(trace: traces.Trace) -> Iterator[str]:
    names = ", ".join(dict.fromkeys(terminal.clean(row["project"]) for row in trace.rows))
    began = f"{trace.started_at:%Y-%m-%d %H:%M:%S} UTC" if trace.started_at else "at an unknown time"
    yield terminal.line(f"{milliseconds(trace.duration_ms)}, {began}, {names}")
    yield ""
    columns = terminal.columns()
    # On a terminal, names and bars each get half of what the other columns leave.
    name_width = None if columns is None else max(20, (columns - 24) // 2)
    labels = [_label(row, name_width) for row in trace.rows]
    bar_width = 40 if columns is None else max(10, columns - max(map(terminal.text_width, labels)) - 24)
    yield from terminal.table(
        ["NAME", ">TIME", "STATUS", ""],
        [
            [
                [Cell(label, _NAME_STYLES.get(row["kind"], ""))],
                [milliseconds(row["duration_ms"]) if row["kind"] != "error" else ""],
                [Cell(row["status"] if row["status"] != "ok" else "", "red")] if row["status"] else [],
                [_waterfall_bar(row, trace.duration_ms, bar_width)],
            ]
            for row, label in zip(trace.rows, labels, strict=True)
        ],
    )


_NAME_STYLES = {"transaction": "bold", "error": "red", "ai_generation": "yellow"}
_BAR_STYLES = {"transaction": "bold", "span": "cyan", "ai_generation": "yellow", "error": "red bold"}


def _label(row: Row, width: int | None) -> str:
    cost = f"  {dollars(row['cost_usd'])}" if row["cost_usd"] is not None else ""
    name = "  " * min(row["depth"], 12) + terminal.clean(row["name"])
    return (name if width is None else terminal.cut(name, width - len(cost))) + cost


def _waterfall_bar(row: Row, total_ms: float, width: int) -> Cell:
    """Return the bar of a row; nothing if its client did not say when it began."""
    if row["offset_ms"] is None:
        return Cell("")
    scale = width / total_ms if total_ms else 0
    start = min(width - 1, int(row["offset_ms"] * scale))
    if row["kind"] == "error":
        return Cell(" " * start + "\u00d7", _BAR_STYLES["error"])
    length = min(width - start, max(1, round((row["duration_ms"] or 0) * scale)))
    style = "red" if row["status"] == "error" else _BAR_STYLES[row["kind"]]
    return Cell(" " * start + "\u2588" * length, style)


def _show(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        text = batches.batch(connection, arguments.id)
    if arguments.json:
        print(terminal.json_text(text))
        return 0
    # Numbers stay as PostgreSQL formats them: a cost is a decimal, not a float.
    for table, rows in json.loads(text, parse_float=str).items():
        for row in rows:
            print(table)
            shared.print_record({name: value for name, value in row.items() if value is not None})
    return 0
