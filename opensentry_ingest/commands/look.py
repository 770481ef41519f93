"""`show`: what is stored."""

import argparse
import json

from opensentry_ingest.commands import shared
from opensentry_ingest.reading import batches


def add_parsers(commands: shared.Commands) -> None:
    command = shared.add_json_option(commands.add_parser("show", help="show the rows of a batch"))
    command.add_argument("id", metavar="ID", help="the id from its 202")
    command.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        text = batches.batch(connection, arguments.id)
    if arguments.json:
        print(text)
        return 0
    # Numbers stay as PostgreSQL formats them: a cost is a decimal, not a float.
    for table, rows in json.loads(text, parse_float=str).items():
        for row in rows:
            print(table)
            shared.print_record({name: value for name, value in row.items() if value is not None})
    return 0
