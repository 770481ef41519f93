"""The parts that the commands share: the operator's connection, and printing records."""

import argparse
import json
import os
from typing import Any

import psycopg

from opensentry_ingest import embedded, settings

Commands = Any
"""What `argparse.ArgumentParser.add_subparsers()` returns."""

Record = dict[str, Any]


def add_json_option(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--json", action="store_true", help="print one JSON document")
    return command


def load_settings() -> settings.Settings:
    """Return the settings, for DATABASE_URL or for the embedded PostgreSQL that runs in the default folder."""
    database_url = os.environ.get("DATABASE_URL") or embedded.running(embedded.DEFAULT_FOLDER)
    if not database_url:
        raise settings.SettingsError(
            f"DATABASE_URL is not set, and no embedded PostgreSQL runs in {embedded.DEFAULT_FOLDER}: "
            "set it, or start `opensentry-ingest serve`"
        )
    return settings.load(database_url=database_url)


def connect() -> psycopg.Connection[Any]:
    """Connect as the operator. Leaving the context closes the connection."""
    # No prepared statements: through a pooler in transaction mode, the next one may run on another connection.
    return psycopg.connect(load_settings().database_url, autocommit=True, connect_timeout=10, prepare_threshold=None)


def print_records(records: Record | list[Record], as_json: bool) -> int:
    """Print records, as text for people or as one JSON document; return the exit status."""
    if as_json:
        print(json.dumps(records, indent=2))
    else:
        for record in records if isinstance(records, list) else [records]:
            print_record(record)
    return 0


def print_record(record: Record) -> None:
    width = max(map(len, record))
    for name, value in record.items():
        text = value if isinstance(value, str) else "-" if value is None else json.dumps(value, ensure_ascii=False)
        print(f"  {name:{width}}  {text}")
    print()
