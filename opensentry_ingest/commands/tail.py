"""`tail`: what comes in, line by line as it arrives."""

import argparse
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from opensentry_ingest.commands import shared, terminal
from opensentry_ingest.commands.terminal import Cell
from opensentry_ingest.formats import cost, count, milliseconds
from opensentry_ingest.reading import Connection, Row, activity

POLL_SECONDS = 1.0
OVERLAP = timedelta(seconds=30)
"""How long a row may take from its `received_at`, the start of its transaction, to its commit."""
FIRST_AGE, FIRST_ROWS = timedelta(minutes=5), 10
"""What is printed at the start."""

# A host that is unreachable is noticed in seconds.
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}


def add_parsers(commands: shared.Commands) -> None:
    command = commands.add_parser("tail", help="follow what comes in, until Ctrl-C")
    command.add_argument("--json", action="store_true", help="print JSON Lines")
    shared.add_project_option(command)
    command.set_defaults(run=_tail)


def _tail(arguments: argparse.Namespace) -> int:
    try:
        with closing(_follow(arguments.project)) as rows:
            for row in rows:
                print(terminal.to_json(row, indent=None) if arguments.json else _line(row), flush=True)
    except KeyboardInterrupt:
        pass
    return 0


def _follow(project: str | None) -> Generator[Row, None, None]:
    """Yield the last rows, then those that come in, each once. A lost connection is made anew."""
    known: dict[tuple[UUID, int], datetime] = {}
    asked: datetime | None = None
    connection = shared.connect(**_KEEPALIVES)
    try:
        project_id = shared.project_id(connection, project)
        while True:
            try:
                now = activity.clock(connection)
                since = now - FIRST_AGE if asked is None else asked - OVERLAP
                rows = [row for row in _arrived(connection, since, project_id) if _id(row) not in known]
            except psycopg.OperationalError as error:
                connection.close()
                shared.note(f"connecting again, because the database was lost: {str(error).splitlines()[0]}")
                connection = _connect_again()
                shared.note("connected again")
                continue
            yield from rows if asked else rows[-FIRST_ROWS:]
            known |= {_id(row): row["received_at"] for row in rows}
            known = {item: received_at for item, received_at in known.items() if received_at >= now - OVERLAP}
            asked = now
            time.sleep(POLL_SECONDS)
    finally:
        connection.close()


def _id(row: Row) -> tuple[UUID, int]:
    return row["batch_id"], row["position"]


def _arrived(connection: Connection, since: datetime, project_id: UUID | None) -> Iterator[Row]:
    rows, after = activity.arrivals(connection, since, project_id=project_id)
    yield from rows
    while after:
        rows, after = activity.arrivals(connection, since, project_id=project_id, after=after)
        yield from rows


def _connect_again() -> psycopg.Connection[Any]:
    while True:
        try:
            return shared.connect(**_KEEPALIVES)
        except psycopg.OperationalError:
            time.sleep(POLL_SECONDS)


_STYLES = {"fatal": "red bold", "error": "red", "warning": "yellow", "cancelled": "yellow"}


def _line(row: Row) -> str:
    details = [milliseconds(row["duration_ms"])] if row["duration_ms"] is not None else []
    if row["kind"] == "ai_generation":
        details += [f"{count(row['tokens'])} tokens", cost(row)]
    kind: str = {"error": row["status"], "ai_generation": "ai call"}.get(row["kind"]) or row["kind"]
    status = "" if row["kind"] == "error" or row["status"] == "ok" else row["status"]
    return terminal.line(
        Cell(f"{row['received_at']:%H:%M:%S}Z  ", "dim"),
        Cell(f"{kind:11}  ", _STYLES.get(kind, "")),
        Cell(terminal.clean(row["project"]) + "  ", "dim"),
        Cell(f"{status}  " if status else "", _STYLES.get(status, "")),
        terminal.clean(row["name"]),
        Cell("  " + ", ".join(details) if details else "", "dim"),
    )
