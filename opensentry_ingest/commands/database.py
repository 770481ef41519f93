"""`migrate`, `maintain`, `regroup` and `distribute`: the database as a whole."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from opensentry_ingest import distribution, maintain, migrations, regroup
from opensentry_ingest.commands import shared


def add_parsers(commands: shared.Commands) -> None:
    command = commands.add_parser("migrate", help="bring the database to this version")
    command.set_defaults(run=_migrate)

    command = commands.add_parser("maintain", help="create and drop partitions, delete old keys; run it every day")
    command.add_argument("--dry-run", action="store_true", help="change nothing, and print what would be done")
    command.set_defaults(run=_maintain)

    command = commands.add_parser("regroup", help="group stored events anew, after the rule has changed")
    command.set_defaults(run=_regroup)

    command = commands.add_parser("distribute", help="distribute the tables over the nodes of a Citus cluster")
    command.add_argument("--dry-run", action="store_true", help="change nothing, and print what would be done")
    command.set_defaults(run=_distribute)


def _migrate(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection, _reporting() as report:
        distribution.refuse_worker(connection)
        connection.add_notice_handler(_warn)
        for name in migrations.migrate(connection):
            report(f"applied {name}")
        distribution.follow(connection, report)
    return 0


def _warn(notice: psycopg.errors.Diagnostic) -> None:
    message = notice.message_primary or ""
    # Citus warns of each view whose tables are not distributed yet; `distribute` brings those views to every node.
    if notice.severity_nonlocalized == "WARNING" and not message.endswith("that is not in Citus' metadata"):
        print(f"warning: {message}", file=sys.stderr)


def _maintain(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection, _reporting() as report:
        distribution.refuse_worker(connection)
        maintain.maintain(connection, shared.load_settings().retention(), report, arguments.dry_run)
    return 0


def _regroup(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection, _reporting() as report:
        regroup.regroup(connection, report)
    return 0


def _distribute(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection, _reporting() as report:
        distribution.distribute(connection, report, arguments.dry_run)
    return 0


@contextmanager
def _reporting() -> Iterator[Callable[[str], None]]:
    """Yield a function that prints a line about the work done; print that there was none if it is not called."""
    called = False

    def report(text: str) -> None:
        nonlocal called
        called = True
        print(text, flush=True)

    yield report
    if not called:
        print("nothing to do")
