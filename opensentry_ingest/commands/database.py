"""`migrate` and `maintain`: the database as a whole."""

import argparse
import sys

from opensentry_ingest import maintain, migrations
from opensentry_ingest.commands import shared


def add_parsers(commands: shared.Commands) -> None:
    command = commands.add_parser("migrate", help="bring the database to this version")
    command.set_defaults(run=_migrate)

    command = commands.add_parser("maintain", help="make and drop partitions, delete old keys; run it every day")
    command.add_argument("--dry-run", action="store_true", help="change nothing, and say what would be done")
    command.set_defaults(run=_maintain)


def _migrate(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        connection.add_notice_handler(lambda notice: print(f"warning: {notice.message_primary}", file=sys.stderr))
        applied = migrations.migrate(connection)
    for name in applied:
        print(f"applied {name}")
    if not applied:
        print("nothing to do")
    return 0


def _maintain(arguments: argparse.Namespace) -> int:
    done: list[str] = []

    def say(text: str) -> None:
        done.append(text)
        print(text, flush=True)

    with shared.connect() as connection:
        maintain.maintain(connection, shared.load_settings().retention(), say, arguments.dry_run)
    if not done:
        print("nothing to do")
    return 0
