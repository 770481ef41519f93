"""The command `opensentry-ingest`: each module has a group of subcommands, and adds their parsers.

The rules that hold here: an error is one line on standard error that says what to do, with exit status 1; a usage error
has exit status 2; no traceback is printed.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

import psycopg

from opensentry_ingest._version import __version__
from opensentry_ingest.commands import database, issues, look, prices, projects, schemas, serve, shared, tail, view
from opensentry_ingest.errors import CommandError
from opensentry_ingest.settings import SettingsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit status: 0, or 1 after an error. A usage error raises SystemExit(2).
    """
    # Clients' text may hold characters that the encoding of the output lacks.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        return status
    except BrokenPipeError:
        # The reader of the output has exited, as `head` does. Python would report it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except (CommandError, SettingsError, psycopg.Error, OSError) as error:
        shared.note(_one_line(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opensentry-ingest",
        description="Errors, performance data and LLM calls, from a POST to a committed row in PostgreSQL.",
        epilog="The database is DATABASE_URL. Without it, it is the embedded one that `serve` runs in ./.opensentry.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (serve, view, database, projects, prices, issues, tail, look, schemas):
        group.add_parsers(commands)
    return parser


def _one_line(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)):
        return "the database is not migrated: run `opensentry-ingest migrate`"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        roles = "of the role that migrated, or, to look, of a member of opensentry_reader"
        return f"{text.splitlines()[0]}: use the DATABASE_URL {roles}"
    return " ".join(text.split())
