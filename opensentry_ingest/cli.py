"""The command `opensentry-ingest`.

The rules that hold here: an error is one line on standard error that says what to do, and exit status 1; a wrong call
is exit status 2; no traceback reaches a user.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from opensentry_ingest import (
    __version__,
    admin,
    embedded,
    faults,
    files,
    maintain,
    migrations,
    payload,
    serve,
    settings,
    validators,
)


class SchemaError(Exception):
    """There is no such schema. The message is one line that says what to do."""


ERRORS = (
    admin.AdminError,
    embedded.EmbeddedError,
    maintain.MaintenanceError,
    migrations.MigrationError,
    SchemaError,
    serve.ServeError,
    settings.SettingsError,
    psycopg.Error,
    OSError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; default: those of the process.

    Returns:
        The exit status: 0, or 1 after an error. A wrong call raises SystemExit(2).
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        return status
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except ERRORS as error:
        print(f"opensentry-ingest: {_one_line(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opensentry-ingest",
        description="Errors, performance data and LLM calls, from a POST to a committed row in PostgreSQL.",
        epilog="The database is DATABASE_URL; without it, the embedded one that `serve` runs in ./.opensentry.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="run the service")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    command.add_argument("--port", type=_port, default=3001, help="port to listen on (default: %(default)s)")
    command.add_argument(
        "--data",
        type=Path,
        default=embedded.DEFAULT,
        metavar="DIR",
        help="folder of the embedded PostgreSQL, used without DATABASE_URL (default: %(default)s)",
    )
    command.set_defaults(run=_serve)

    command = commands.add_parser("migrate", help="bring the database to this version")
    command.set_defaults(run=_migrate)

    command = commands.add_parser("maintain", help="make and drop partitions, forget old keys; run it every day")
    command.add_argument("--dry-run", action="store_true", help="change nothing, and say what would be done")
    command.set_defaults(run=_maintain)

    actions = commands.add_parser("project", help="make and list projects").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = _recording(actions.add_parser("create", help="make a project with a key"))
    command.add_argument("name", metavar="NAME")
    command.set_defaults(run=_project_create)
    command = _recording(actions.add_parser("list", help="list the projects"))
    command.set_defaults(run=_project_list)

    actions = commands.add_parser("key", help="make, list and revoke keys").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = _recording(actions.add_parser("create", help="make another key for a project"))
    command.add_argument("project", metavar="PROJECT", help="name or id")
    command.set_defaults(run=_key_create)
    command = _recording(actions.add_parser("list", help="list the keys of a project"))
    command.add_argument("project", metavar="PROJECT", help="name or id")
    command.set_defaults(run=_key_list)
    command = _recording(actions.add_parser("revoke", help="make a key invalid, at once and for good"))
    command.add_argument("public_key", metavar="PUBLIC_KEY")
    command.set_defaults(run=_key_revoke)

    command = commands.add_parser("check", help="validate payload files without a server")
    command.add_argument("files", nargs="+", metavar="FILE", help="a file of JSON or JSON Lines; -: standard input")
    command.set_defaults(run=_check)

    command = commands.add_parser("schema", help="print a schema file; without a name, list them")
    which = command.add_mutually_exclusive_group()
    which.add_argument("name", nargs="?", metavar="NAME", help="of a type, as ErrorItem, or of a file")
    which.add_argument("--bundle", action="store_true", help="print all of them as one schema")
    which.add_argument("--openapi", action="store_true", help="print the OpenAPI description")
    command.set_defaults(run=_schema)

    command = _recording(commands.add_parser("show", help="show the rows of a batch"))
    command.add_argument("id", metavar="ID", help="the id of its 202")
    command.set_defaults(run=_show)
    return parser


def _recording(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--json", action="store_true", help="print one JSON document")
    return command


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise ValueError
    return port


def _one_line(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)):
        return "the database is not migrated: run `opensentry-ingest migrate`"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f"{text.splitlines()[0]}: run this with the DATABASE_URL of the role that migrated"
    return " ".join(text.split())


def _serve(arguments: argparse.Namespace) -> int:
    # A SIGTERM that comes while PostgreSQL starts must stop it too; gunicorn sets its own handler later.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    serve.serve(arguments.host, arguments.port, arguments.data)
    return 0


def _migrate(arguments: argparse.Namespace) -> int:
    with _connection() as connection:
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

    with _connection() as connection:
        maintain.maintain(connection, _settings().retention(), say, arguments.dry_run)
    if not done:
        print("nothing to do")
    return 0


def _project_create(arguments: argparse.Namespace) -> int:
    with _connection() as connection:
        return _print(_with_dsn(admin.create_project(connection, arguments.name)), arguments.json)


def _project_list(arguments: argparse.Namespace) -> int:
    with _connection() as connection:
        return _print([_with_dsn(project) for project in admin.projects(connection)], arguments.json)


def _key_create(arguments: argparse.Namespace) -> int:
    with _connection() as connection:
        return _print(_with_dsn(admin.create_key(connection, arguments.project)), arguments.json)


def _key_list(arguments: argparse.Namespace) -> int:
    with _connection() as connection:
        return _print([_with_dsn(key) for key in admin.keys(connection, arguments.project)], arguments.json)


def _key_revoke(arguments: argparse.Namespace) -> int:
    with _connection() as connection:
        return _print(admin.revoke_key(connection, arguments.public_key), arguments.json)


def _check(arguments: argparse.Namespace) -> int:
    status = 0
    for name in arguments.files:
        body = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        for place, text in _documents(name, body):
            try:
                found = faults.find(payload.parse(text)[1])
            except payload.InvalidJSON as error:
                found = [faults.Fault("", str(error))]
            for fault in found:
                print(f"{place}: {fault.pointer or '(the whole payload)'}: {fault.detail}")
            status = status or int(bool(found))
    return status


def _documents(name: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the payloads of a file, each with where it is: the file, or each line of JSON Lines that is not empty."""
    lines = [line for line in enumerate(body.splitlines(), 1) if line[1].strip()]
    # A document over several lines begins with one that is no JSON of its own.
    if name.endswith((".jsonl", ".ndjson")) or (len(lines) > 1 and _is_json(lines[0][1])):
        yield from ((f"{name}:{number}", line) for number, line in lines)
    else:
        yield name, body


def _is_json(text: bytes) -> bool:
    try:
        payload.parse(text)
    except payload.InvalidJSON:
        return False
    return True


def _schema(arguments: argparse.Namespace) -> int:
    folder = files.folder("schemas")
    if arguments.bundle or arguments.openapi:
        name = "ingest.bundle.json" if arguments.bundle else "openapi.json"
    else:
        titles = {schema["title"]: name for name, schema in validators.schemas().items()}
        if arguments.name is None:
            for title, name in sorted(titles.items()):
                print(f"{title:17} {name}")
            return 0
        name = titles.get(arguments.name, arguments.name)
        if name not in titles.values():
            raise SchemaError(f"there is no schema {arguments.name!r}: `schema` without a name lists those there are")
    sys.stdout.write((folder / name).read_text("utf-8"))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    with _connection() as connection:
        text = admin.batch(connection, arguments.id)
    if arguments.json:
        print(text)
        return 0
    # Numbers stay as PostgreSQL wrote them: a cost is a decimal, not a float.
    for table, rows in json.loads(text, parse_float=str).items():
        for row in rows:
            print(table)
            _print_record({name: value for name, value in row.items() if value is not None})
    return 0


def _settings() -> settings.Settings:
    """Return the settings: of DATABASE_URL, else of the embedded PostgreSQL that runs in the default folder."""
    database_url = os.environ.get("DATABASE_URL") or embedded.running(embedded.DEFAULT)
    if not database_url:
        raise settings.SettingsError(
            f"DATABASE_URL is not set, and no `serve` runs an embedded PostgreSQL in {embedded.DEFAULT}: "
            "set it, or start `opensentry-ingest serve`"
        )
    return settings.load(database_url=database_url)


def _connection() -> psycopg.Connection[Any]:
    """Connect as the operator. Leaving the context closes the connection."""
    return psycopg.connect(_settings().database_url, autocommit=True, connect_timeout=10)


def _with_dsn(record: admin.Record) -> admin.Record:
    public_key = record["public_key"]
    if not public_key or record.get("revoked_at"):
        return {**record, "dsn": None}
    return {**record, "dsn": admin.dsn(_settings().public_url, public_key)}


def _print(records: admin.Record | list[admin.Record], as_json: bool) -> int:
    if as_json:
        print(json.dumps(records, indent=2))
    else:
        for record in records if isinstance(records, list) else [records]:
            _print_record(record)
    return 0


def _print_record(record: admin.Record) -> None:
    width = max(map(len, record))
    for name, value in record.items():
        text = value if isinstance(value, str) else "-" if value is None else json.dumps(value, ensure_ascii=False)
        print(f"  {name:{width}}  {text}")
    print()
