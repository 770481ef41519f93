"""The parts that the commands share: the operator's connection, and printing records."""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg

from opensentry_ingest import embedded, settings
from opensentry_ingest.commands import terminal
from opensentry_ingest.errors import CommandError
from opensentry_ingest.reading import Connection, Period, activity, projects

Commands = Any
"""What `argparse.ArgumentParser.add_subparsers()` returns."""

Record = dict[str, Any]


def add_json_option(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--json", action="store_true", help="print one JSON document")
    return command


def add_project_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--project", metavar="NAME", help="only of this project, by name or id")


def add_period_options(command: argparse.ArgumentParser) -> None:
    add_project_option(command)
    command.add_argument(
        "--since", type=_age, default=timedelta(hours=24), metavar="AGE", help="such as 30m, 24h, 7d; default: 24h"
    )


def _age(text: str) -> timedelta:
    match = re.fullmatch("([0-9]{1,4})([mhd])", text)
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 30m, 24h or 7d")
    return int(match[1]) * {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}[match[2]]


def period(connection: Connection, since: timedelta) -> Period:
    """Return the period until now by the clock of PostgreSQL, which sets `received_at`."""
    now = activity.clock(connection)
    return Period(now - since, now)


def project_id(connection: Connection, name: str | None) -> UUID | None:
    """Return the id of a project by its name or id; None for no name.

    Raises:
        CommandError: there is no such project.
    """
    if name is None:
        return None
    project = projects.find(connection, name)
    if project is None:
        raise CommandError(f"there is no project {name!r}: `project list` shows those there are")
    found: UUID = project["id"]
    return found


def note(text: str) -> None:
    """Print a line on standard error."""
    print(f"opensentry-ingest: {terminal.clean(text)}", file=sys.stderr, flush=True)


def print_hint(connection: Connection, nothing: str) -> None:
    """Print on standard error that there is nothing to show, and what to do about it."""
    if projects.exist(connection):
        note(f"{nothing}; `project list` prints the DSN to send to")
    else:
        note("there is no project yet: `project create NAME` makes one and prints the DSN to send to")


def print_lines(lines: Iterable[str]) -> None:
    for text in lines:
        print(text)


def load_settings() -> settings.Settings:
    """Return the settings, for DATABASE_URL or for the embedded PostgreSQL that runs in the default folder."""
    database_url = os.environ.get("DATABASE_URL") or embedded.running(embedded.DEFAULT_FOLDER)
    if not database_url:
        raise settings.SettingsError(
            f"DATABASE_URL is not set, and no embedded PostgreSQL runs in {embedded.DEFAULT_FOLDER}: "
            "set it, or start `opensentry-ingest serve`"
        )
    return settings.load(database_url=database_url)


def connect(**options: Any) -> psycopg.Connection[Any]:
    """Connect as the operator, with further options of libpq. Leaving the context closes the connection."""
    # No prepared statements: through a pooler in transaction mode, the next one may run on another connection.
    return psycopg.connect(
        load_settings().database_url, autocommit=True, connect_timeout=10, prepare_threshold=None, **options
    )


def print_records(records: Record | list[Record], as_json: bool) -> int:
    """Print records, as text for people or as one JSON document; return the exit status."""
    if as_json:
        print(terminal.to_json(records))
    else:
        for record in records if isinstance(records, list) else [records]:
            print_record(record)
    return 0


def print_record(record: Record) -> None:
    width = max(map(len, record))
    for name, value in record.items():
        text = value if isinstance(value, str) else "-" if value is None else json.dumps(value, ensure_ascii=False)
        print(f"  {name:{width}}  {terminal.clean(text)}")
    print()
