"""The pages of issues: all of them, and one with an event of it."""

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

from opensentry_ingest.reading import Connection, Row, events
from opensentry_ingest.reading import issue as one
from opensentry_ingest.reading import issues as reading
from opensentry_ingest.viewer import charts
from opensentry_ingest.viewer.errors import BadRequest, NotFound
from opensentry_ingest.viewer.request import Request

LEVELS = ("fatal", "error", "warning", "info", "debug")

FRAME_TEXTS = {"function": "function", "filename": "filename", "module": "module", "absPath": "path"}


def issues(request: Request, connection: Connection) -> dict[str, Any]:
    """Return the issues that have events in the period, with a sparkline each."""
    environment, release = request.query.get("environment"), request.query.get("release")
    search = request.query.get("search")
    page = reading.issues(
        connection,
        request.period,
        project_id=request.project_id,
        status=request.choice("status", reading.STATUSES),
        level=request.choice("level", LEVELS),
        search=search,
        sort=request.choice("sort", reading.SORTS) or reading.SORTS[0],
        after=request.query.get("after"),
        environment=environment,
        release=release,
    )
    buckets, counts = reading.sparklines(
        connection, page.rows, request.period, environment=environment, release=release
    )
    for row in page.rows:
        row["sparkline"] = counts[row["fingerprint"]]
    return {
        "period": request.period._asdict(),
        "buckets": {"starts": buckets.starts, "step_seconds": buckets.step.total_seconds()},
        "issues": page.rows,
        "after": page.after,
        "filters": {
            "search": search,
            **reading.filter_values(connection, request.period, project_id=request.project_id),
        },
    }


def issue(request: Request, connection: Connection) -> dict[str, Any]:
    """Return an issue, its numbers over the period, and one event: the latest, or the one that is asked for."""
    fingerprint = _fingerprint(request)
    found = one.summary(connection, fingerprint, request.period)
    if found is None:
        raise NotFound("There is no such issue.")
    project_id = found["project_id"]
    chart = one.chart(connection, project_id, fingerprint, request.period)
    tags = one.tags(connection, project_id, fingerprint, request.period)
    event = one.event(connection, project_id, fingerprint, *_event_id(request.query.get("event")))
    if event is None and "event" in request.query:
        raise NotFound("This issue has no such event.")
    return {
        "period": request.period._asdict(),
        "issue": found,
        "chart": charts.data(chart.buckets, chart.releases),
        "tags": tags._asdict(),
        "users": one.users(connection, project_id, fingerprint, request.period),
        "event": {**_event(event), "raw": events.pretty(connection, event.json)} if event else None,
    }


def set_status(request: Request, connection: Connection) -> None:
    """Resolve, ignore or reopen an issue."""
    status = request.form.get("status", "")
    if status not in ("open", "resolved", "ignored"):
        raise BadRequest("The status may be open, resolved or ignored.")
    found = reading.find(connection, str(_fingerprint(request)))
    if not found or not reading.set_status(connection, found[0]["project_id"], found[0]["fingerprint"], status):
        raise NotFound("There is no such issue.")


def _fingerprint(request: Request) -> UUID:
    try:
        return UUID(request.groups["id"])
    except ValueError:
        raise NotFound("There is no such issue.") from None


def _event_id(text: str | None) -> tuple[UUID, int] | tuple[()]:
    """Take the name of an event in a URL apart: BATCH.POSITION."""
    if text is None:
        return ()
    batch_id, _, position = text.partition(".")
    try:
        return UUID(batch_id), int(position or "0")
    except ValueError:
        raise BadRequest("The parameter event is the id of a batch, a dot and the place in it.") from None


def _event(event: one.Event) -> dict[str, Any]:
    """Return an event as it is read: what it raised, the causes of that, and what led to it."""
    row = event.row
    extra = row["extra"] if isinstance(row["extra"], dict) else {}
    causes = extra.get("causes")
    return {
        "id": f"{row['batch_id']}.{row['position']}",
        "previous": f"{event.previous[0]}.{event.previous[1]}" if event.previous else None,
        "next": f"{event.next[0]}.{event.next[1]}" if event.next else None,
        **{name: row[name] for name in ("received_at", "timestamp", "level", "environment", "release", "trace_id")},
        "exceptions": [
            {"type": row["exception_type"], "value": row["exception_value"], "frames": list(_frames(row["frames"]))},
            *(_cause(cause) for cause in (causes if isinstance(causes, list) else ()) if isinstance(cause, dict)),
        ],
        "message": row["message"],
        "breadcrumbs": list(_breadcrumbs(row["breadcrumbs"], row["timestamp"])),
        "tags": row["tags"] or {},
        "user": row["user"] or {},
    }


def _cause(cause: Row) -> dict[str, Any]:
    # The schema says nothing about what is in `extra`.
    stacktrace = cause.get("stacktrace")
    frames = stacktrace.get("frames") if isinstance(stacktrace, dict) else None
    return {"type": _text(cause.get("type")), "value": _text(cause.get("value")), "frames": list(_frames(frames))}


def _frames(frames: object) -> Iterator[dict[str, Any]]:
    """Yield the frames of a stack trace, each with its lines of source: number, text and whether it is the one."""
    for frame in frames if isinstance(frames, list) else ():
        if not isinstance(frame, dict):
            continue
        line = _whole(frame.get("lineno"))
        before, after = _lines(frame.get("preContext")), _lines(frame.get("postContext"))
        source = [*((each, False) for each in before), (_text(frame.get("contextLine")), True)]
        source += [(each, False) for each in after]
        first = None if line is None else line - len(before)
        yield {
            **{name: _text(frame.get(member)) for member, name in FRAME_TEXTS.items()},
            "line": line,
            "column": _whole(frame.get("colno")),
            "in_app": frame.get("inApp") is True,
            "source": [
                {"line": None if first is None else first + index, "text": each, "current": current}
                for index, (each, current) in enumerate(source)
                if each is not None
            ],
        }


def _breadcrumbs(breadcrumbs: object, at: datetime) -> Iterator[dict[str, Any]]:
    """Yield what happened before an event, with how long before, in milliseconds; None: its client did not say."""
    for crumb in breadcrumbs if isinstance(breadcrumbs, list) else ():
        if isinstance(crumb, dict):
            moment = _moment(crumb.get("timestamp"))
            yield {
                **{name: _text(crumb.get(name)) for name in ("type", "category", "level", "message")},
                "data": crumb.get("data"),
                "timestamp": moment,
                "before_ms": (at - moment).total_seconds() * 1000 if moment else None,
            }


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, (int, float)) and abs(value) < 2**53 else None


def _lines(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
