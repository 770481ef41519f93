"""`check` and `schema`: use the schema files, without a server or a database."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from opensentry_ingest import payload, problems, resources, validators
from opensentry_ingest.commands import shared
from opensentry_ingest.errors import CommandError, InvalidJSON


def add_parsers(commands: shared.Commands) -> None:
    command = commands.add_parser("check", help="validate payload files without a server")
    command.add_argument("files", nargs="+", metavar="FILE", help="a file of JSON or JSON Lines; - is standard input")
    command.set_defaults(run=_check)

    command = commands.add_parser("schema", help="print a schema file, or list them")
    which = command.add_mutually_exclusive_group()
    which.add_argument("name", nargs="?", metavar="NAME", help="the name of a type, such as ErrorItem, or of a file")
    which.add_argument("--bundle", action="store_true", help="print all schemas as one")
    which.add_argument("--openapi", action="store_true", help="print the OpenAPI description")
    command.set_defaults(run=_schema)


def _check(arguments: argparse.Namespace) -> int:
    status = 0
    for name in arguments.files:
        body = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        for place, text in _documents(name, body):
            try:
                found = problems.find(payload.parse(text)[1])
            except InvalidJSON as error:
                found = [problems.Problem("", str(error))]
            for problem in found:
                print(f"{place}: {problem.pointer or '(the whole payload)'}: {problem.detail}")
            status = status or int(bool(found))
    return status


def _documents(name: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the payloads of a file, each with its place: of JSON Lines, each line that is not empty."""
    lines = [line for line in enumerate(body.splitlines(), 1) if line[1].strip()]
    # The first line of a document that spans several lines is not JSON by itself.
    if name.endswith((".jsonl", ".ndjson")) or (len(lines) > 1 and _is_json(lines[0][1])):
        yield from ((f"{name}:{number}", line) for number, line in lines)
    else:
        yield name, body


def _is_json(text: bytes) -> bool:
    try:
        payload.parse(text)
    except InvalidJSON:
        return False
    return True


def _schema(arguments: argparse.Namespace) -> int:
    folder = resources.folder("schemas")
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
            raise CommandError(f"no schema {arguments.name!r}: `schema` without a name lists all schemas")
    sys.stdout.write((folder / name).read_text("utf-8"))
    return 0
