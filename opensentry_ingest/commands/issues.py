"""`issues`, `issue`, and `resolve`, `ignore`, `reopen`."""

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

from opensentry_ingest.commands import shared, terminal
from opensentry_ingest.commands.terminal import Cell
from opensentry_ingest.errors import CommandError
from opensentry_ingest.formats import ago, count, milliseconds
from opensentry_ingest.reading import Connection, Period, Row, activity, issue, issues

ACTIONS = {"resolve": "resolved", "ignore": "ignored", "reopen": "open"}

# What is printed of an event, at most: the rest is in its JSON.
MESSAGE_LINES, FRAMES, CONTEXT_LINES, BREADCRUMBS = 20, 30, 4, 20


def add_parsers(commands: shared.Commands) -> None:
    command = shared.add_json_option(commands.add_parser("issues", help="list the issues of a period"))
    shared.add_period_options(command)
    command.add_argument("--status", choices=issues.STATUSES, help="default: any; new is first seen in the period")
    command.add_argument("--search", metavar="TEXT", help="a part of the title, in any case")
    command.add_argument("--sort", choices=issues.SORTS, default="last_seen", help="default: last_seen")
    command.add_argument("--limit", type=_limit, default=50, metavar="N", help="default: 50")
    command.set_defaults(run=_issues)

    command = shared.add_json_option(commands.add_parser("issue", help="show an issue and its last event"))
    _add_id_argument(command)
    command.set_defaults(run=_issue)

    for action, status in ACTIONS.items():
        command = shared.add_json_option(commands.add_parser(action, help=f"set the status of an issue: {status}"))
        _add_id_argument(command)
        command.set_defaults(run=_set_status, status=status)


def _add_id_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("id", metavar="ID", help="as `issues` prints it, or longer")


def _limit(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 99999")
    return int(text)


def _issues(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        period = shared.period(connection, arguments.since)
        page = issues.issues(
            connection,
            period,
            project_id=shared.project_id(connection, arguments.project),
            status=arguments.status,
            search=arguments.search,
            sort=arguments.sort,
            limit=arguments.limit,
        )
        if arguments.json:
            print(terminal.to_json(page.rows))
        elif page.rows:
            shared.print_lines(_table(page.rows, period.until))
        else:
            shared.print_hint(connection, "no issue to show in this period: --since 30d looks at a longer one")
    if page.after:
        shared.note(f"these are the first {len(page.rows)}: --limit shows more")
    return 0


def _table(rows: Sequence[Row], now: datetime) -> Iterable[str]:
    of_one_project = len({row["project_id"] for row in rows}) == 1
    return terminal.table(
        ["ID", ">EVENTS", ">USERS", ">LAST SEEN", "PROJECT", "TITLE"],
        [
            [
                [Cell(_short(row["fingerprint"]), "cyan")],
                [count(row["events"])],
                [count(row["users"] or None)],
                [ago(row["last_seen"], now)],
                [] if of_one_project else [terminal.clean(row["project"])],
                [*_status_cells(row), *_title_cells(row["title"])],
            ]
            for row in rows
        ],
        narrow={"PROJECT": 12},
    )


def _short(fingerprint: UUID) -> str:
    return str(fingerprint)[:8]


def _status_cells(row: Row) -> list[Cell]:
    """Return the word that says most of an issue; nothing if it is just open."""
    if row["regressed"]:
        return [Cell("regressed", "red bold"), Cell("  ")]
    if row["status"] != "open":
        return [Cell(row["status"], "dim"), Cell("  ")]
    return [Cell("new", "yellow bold"), Cell("  ")] if row["new"] else []


def _title_cells(title: str) -> list[Cell]:
    """Return a title with the type of the exception in bold."""
    exception_type, colon, message = terminal.clean(title).partition(": ")
    return [Cell(exception_type, "bold"), Cell(colon + message)]


def _find(connection: Connection, prefix: str) -> Row:
    found = issues.find(connection, prefix)
    if not found:
        raise CommandError(f"there is no issue {prefix!r}: `issues` prints the ids of those there are")
    if len(found) > 1:
        ids = ", ".join(str(row["fingerprint"]) for row in found[:5])
        raise CommandError(f"{prefix!r} is the beginning of several ids, give more of it: {ids}")
    return found[0]


def _set_status(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        row = _find(connection, arguments.id)
        issues.set_status(connection, row["project_id"], row["fingerprint"], arguments.status)
    row["status"] = arguments.status
    if arguments.json:
        print(terminal.to_json(row))
    else:
        print(
            terminal.line(Cell(_short(row["fingerprint"]), "cyan"), f"  {row['status']}  ", *_title_cells(row["title"]))
        )
    return 0


def _issue(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        found = _find(connection, arguments.id)
        now = activity.clock(connection)
        day, month = (
            issue.summary(connection, found["fingerprint"], Period(now - timedelta(days=days), now)) for days in (1, 30)
        )
        event = issue.event(connection, found["project_id"], found["fingerprint"])
    if day is None or month is None:
        raise CommandError("the issue was just deleted")
    if arguments.json:
        row = {name: value for name, value in month.items() if name not in ("events", "users", "new")}
        row |= {"events_24h": day["events"], "users_24h": day["users"]}
        row |= {"events_30d": month["events"], "users_30d": month["users"]}
        print(terminal.to_json({**row, "last_event": event and json.loads(event.json)}))
    else:
        shared.print_lines(_issue_lines(day, month, now))
        shared.print_lines(
            _event_lines(event.row, day["title"], now) if event else ["", "No event of it is stored any more."]
        )
    return 0


def _issue_lines(day: Row, month: Row, now: datetime) -> Iterator[str]:
    yield terminal.line(*_status_cells(day), *_title_cells(day["title"]))
    if day["culprit"]:
        yield terminal.line(Cell(terminal.clean(day["culprit"]), "dim"))
    yield ""
    fields = {
        "issue": f"{day['fingerprint']}, {day['level']}, {'regressed' if day['regressed'] else day['status']}",
        "project": terminal.clean(day["project"]),
        "events": f"{count(day['events'])} in 24 hours, {count(month['events'])} in 30 days",
        "users": f"{count(day['users'] or None)} in 24 hours, {count(month['users'] or None)} in 30 days",
        "first seen": _moment(day["first_seen"], now),
        "last seen": _moment(day["last_seen"], now),
    }
    if day["first_release"]:
        fields["first seen"] += f", in {terminal.clean(day['first_release'])}"
    if month["releases"]:
        fields["releases"] = ", ".join(map(terminal.clean, month["releases"]))
    yield from _fields(fields)


def _moment(moment: datetime | None, now: datetime) -> str:
    return f"{ago(moment, now)} ({moment:%Y-%m-%d %H:%M:%S} UTC)" if moment else ago(moment, now)


def _fields(fields: dict[str, str]) -> Iterator[str]:
    width = max(map(terminal.text_width, fields))
    for name, value in fields.items():
        yield terminal.line(Cell(f"  {name}{' ' * (width - terminal.text_width(name))}  ", "dim"), value)


def _heading(text: str) -> Iterator[str]:
    yield ""
    yield terminal.line(Cell(text, "bold"))


def _event_lines(event: Row, title: str, now: datetime) -> Iterator[str]:
    yield from _heading(f"Last event, {_moment(event['received_at'], now)}")
    message = ": ".join(filter(None, (event["exception_type"], event["exception_value"])))
    if message and message != title:
        yield from _message_lines(message)
    yield from _frame_lines(event["frames"] or [])
    if event["breadcrumbs"]:
        yield from _heading("Breadcrumbs")
        yield from _breadcrumb_lines(event["breadcrumbs"], event["timestamp"])
    fields = {
        "environment": event["environment"],
        "release": event["release"],
        "user": ", ".join(f"{name} {value}" for name, value in (event["user"] or {}).items()),
        **{f"tag {name}": value for name, value in sorted((event["tags"] or {}).items())},
    }
    fields = {terminal.clean(name): terminal.clean(value) for name, value in fields.items() if value}
    if event["trace_id"]:
        fields["trace"] = f"opensentry-ingest trace {terminal.argument(event['trace_id'])}"
    fields["all of it"] = f"opensentry-ingest show {event['batch_id']}"
    yield from _heading("Context")
    yield from _fields(fields)


def _message_lines(message: str) -> Iterator[str]:
    lines = message.splitlines()
    for text in lines[:MESSAGE_LINES]:
        yield terminal.line(terminal.clean(text))
    if len(lines) > MESSAGE_LINES:
        yield terminal.line(Cell(f"... {len(lines) - MESSAGE_LINES} more lines", "dim"))


def _frame_lines(frames: list[Row]) -> Iterator[str]:
    """Yield the stack, the frame that raised first; runs of library frames are folded if there are others."""
    own = any(frame.get("inApp") is True for frame in frames)
    folded: list[Row] = []
    for number, frame in enumerate(frames[:FRAMES]):
        in_app = frame.get("inApp") is True
        if own and number and not in_app:
            folded.append(frame)
            continue
        yield from _folded_lines(folded)
        folded = []
        yield terminal.line("  ", Cell(_place(frame), "bold" if in_app else ""))
        if in_app or not own:
            yield from _context_lines(frame)
    yield from _folded_lines(folded)
    if len(frames) > FRAMES:
        yield terminal.line(Cell(f"  ... {len(frames) - FRAMES} more frames", "dim"))


def _place(frame: Row) -> str:
    """Return the function of a frame, and the file with line and column."""
    file = frame.get("filename") or frame.get("module") or frame.get("absPath")
    numbers = [f":{int(frame[name])}" for name in ("lineno", "colno") if frame.get(name) is not None]
    place = f"{file or '?'}{''.join(numbers)}"
    function = frame.get("function")
    return terminal.clean(f"{function} in {place}" if function else place)


def _folded_lines(frames: list[Row]) -> Iterator[str]:
    if frames:
        names = ", ".join(terminal.clean(frame.get("function") or _place(frame)) for frame in frames)
        plural = "s" if len(frames) > 1 else ""
        yield terminal.line(Cell(f"  {len(frames)} library frame{plural}: {names}", "dim"))


def _context_lines(frame: Row) -> Iterator[str]:
    """Yield the source around the line of a frame, if its client sent it."""
    if frame.get("contextLine") is None:
        return
    before = (frame.get("preContext") or [])[-CONTEXT_LINES:]
    after = (frame.get("postContext") or [])[:CONTEXT_LINES]
    lineno = frame.get("lineno")
    width = 0 if lineno is None else len(str(int(lineno) + len(after)))
    for place, text in enumerate([*before, frame["contextLine"], *after], -len(before)):
        number = "" if lineno is None else str(int(lineno) + place)
        mark = ">" if place == 0 else " "
        source = terminal.clean(text.expandtabs(4))
        yield terminal.line(Cell(f"    {mark} {number:>{width}}  {source}", "" if place == 0 else "dim"))


def _breadcrumb_lines(breadcrumbs: list[Row], at: datetime) -> Iterator[str]:
    """Yield what led to the error, with the time before it."""
    if len(breadcrumbs) > BREADCRUMBS:
        yield terminal.line(Cell(f"  ... {len(breadcrumbs) - BREADCRUMBS} earlier", "dim"))
    shown = breadcrumbs[-BREADCRUMBS:]
    times = [_before(crumb.get("timestamp"), at) for crumb in shown]
    categories = [terminal.clean(crumb.get("category") or crumb.get("type") or "") for crumb in shown]
    width = max(map(terminal.text_width, times))
    category_width = min(20, max(map(terminal.text_width, categories)))
    for crumb, time, category in zip(shown, times, categories, strict=True):
        category = terminal.cut(category, category_width)
        text = crumb.get("message") or (json.dumps(crumb["data"], ensure_ascii=False) if crumb.get("data") else "")
        level = crumb.get("level")
        yield terminal.line(
            f"  {' ' * (width - terminal.text_width(time))}{time}  ",
            Cell(category + " " * (category_width - terminal.text_width(category) + 2), "dim"),
            Cell(f"{level}  ", "red") if level in ("error", "fatal", "warning") else "",
            terminal.clean(text),
        )


def _before(timestamp: Any, at: datetime) -> str:
    """Return how long before the error a breadcrumb was; its own text if that is not a time."""
    try:
        # Python 3.10 does not know Z.
        moment = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", str(timestamp)))
        before = at - (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc))
    except (ValueError, OverflowError):
        return terminal.cut(terminal.clean(str(timestamp or "")), 24)
    sign = "-" if before >= timedelta() else "+"
    return sign + milliseconds(abs(before).total_seconds() * 1000)
