"""`prices`: what models cost, for calls whose clients do not say."""

import argparse
import sys
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from opensentry_ingest import prices
from opensentry_ingest.commands import shared, terminal
from opensentry_ingest.errors import CommandError
from opensentry_ingest.formats import count
from opensentry_ingest.reading import ai_generations


def add_parsers(commands: shared.Commands) -> None:
    actions = commands.add_parser("prices", help="import, list, set and delete prices of models").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = shared.add_json_option(actions.add_parser("import", help="store the prices in a file"))
    command.add_argument("file", metavar="FILE", help="LiteLLM's JSON, or CSV; - is the standard input")
    _add_valid_from(command)
    command.set_defaults(run=_import)

    command = shared.add_json_option(actions.add_parser("list", help="list the prices"))
    command.add_argument("--missing", action="store_true", help="list the models of calls that have no price instead")
    shared.add_period_options(command)
    command.set_defaults(run=_list, since=timedelta(days=30))

    command = shared.add_json_option(actions.add_parser("set", help="set a price, in US dollars for a million tokens"))
    _add_model(command)
    for name, required in (("input", True), ("output", True), ("cached-input", False), ("cache-write", False)):
        command.add_argument(f"--{name}", metavar="USD", required=required, help=None if required else "default: input")
    _add_valid_from(command)
    command.set_defaults(run=_set)

    command = shared.add_json_option(actions.add_parser("delete", help="delete prices that were set by mistake"))
    _add_model(command)
    command.add_argument("--valid-from", metavar="TIME", help="only the one that is valid from then, or always")
    command.set_defaults(run=_delete)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("provider", metavar="PROVIDER", help="such as openai; * is any")
    command.add_argument("model", metavar="MODEL", help="a name, or a pattern in which * is any characters")


def _add_valid_from(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--valid-from",
        metavar="TIME",
        help="such as 2026-05-30 or 2026-05-30T12:00Z, or always; default: always for the first price of a model, "
        "else now",
    )


def _moment(text: str | None) -> str | None:
    return "-infinity" if text == "always" else text


def _import(arguments: argparse.Namespace) -> int:
    if arguments.file == "-":
        content = sys.stdin.buffer.read(prices.MAX_BYTES + 1)
    else:
        with Path(arguments.file).open("rb") as file:
            content = file.read(prices.MAX_BYTES + 1)
    parsed = prices.parse(content)
    found = [price._replace(valid_from=_moment(price.valid_from)) for price in parsed.prices]
    with shared.connect() as connection:
        stored = prices.store(connection, found, _moment(arguments.valid_from))
    skipped = parsed.skipped + Counter({prices.REPEATED: stored.repeated})
    if arguments.json:
        numbers = {name: number for name, number in stored._asdict().items() if name != "repeated"}
        print(terminal.to_json({**numbers, "skipped": skipped}))
    else:
        print(f"{stored.new} new, {stored.changed} changed, {stored.unchanged} unchanged")
        for reason, number in skipped.most_common():
            print(f"{number} skipped: {reason}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    if arguments.missing:
        return _list_missing(arguments)
    with shared.connect() as connection:
        rows = prices.prices(connection)
    if arguments.json:
        print(terminal.to_json(rows))
    elif rows:
        shared.print_lines(
            terminal.table(
                ["PROVIDER", "MODEL", ">INPUT", ">CACHED", ">CACHE WRITE", ">OUTPUT", "VALID FROM (UTC)"],
                [
                    [
                        [terminal.clean(row["provider"])],
                        [terminal.clean(row["model"])],
                        *([_usd(row[name])] for name in prices.COLUMNS),
                        [f"{row['valid_from']:%Y-%m-%d %H:%M:%S}" if row["valid_from"] else "always"],
                    ]
                    for row in rows
                ],
            )
        )
    else:
        shared.note("there is no price: `prices import FILE` and `prices set` store some")
    return 0


def _usd(price: Decimal | None) -> str:
    return "" if price is None else f"{price:f}"


def _list_missing(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        period = shared.period(connection, arguments.since)
        project_id = shared.project_id(connection, arguments.project)
        rows = ai_generations.without_price(connection, period, project_id=project_id, limit=1000)
    if arguments.json:
        print(terminal.to_json(rows))
    elif rows:
        shared.print_lines(
            terminal.table(
                [">CALLS", ">TOKENS", "PROVIDER", "MODEL"],
                [
                    [
                        [count(row["calls"])],
                        [count(row["total_tokens"])],
                        [terminal.clean(row["provider"])],
                        [terminal.clean(row["model"])],
                    ]
                    for row in rows
                ],
            )
        )
    else:
        shared.note("every model of this period has a price, or its clients sent the cost")
    return 0


def _set(arguments: argparse.Namespace) -> int:
    values: dict[str, Any] = {
        f"{name}_usd": None if text is None else prices.decimal(text, f"--{name.replace('_', '-')}")
        for name in ("input", "output", "cached_input", "cache_write")
        for text in [getattr(arguments, name)]
    }
    price = prices.Price(arguments.provider, arguments.model, **values)
    with shared.connect() as connection:
        stored = prices.store(connection, [price], _moment(arguments.valid_from))
    if arguments.json:
        print(terminal.to_json({"new": stored.new, "changed": stored.changed, "unchanged": stored.unchanged}))
    else:
        print("unchanged" if stored.unchanged else "changed" if stored.changed else "set")
    return 0


def _delete(arguments: argparse.Namespace) -> int:
    with shared.connect() as connection:
        deleted = prices.delete(connection, arguments.provider, arguments.model, _moment(arguments.valid_from))
    if not deleted:
        raise CommandError("there is no such price: `prices list` shows those there are")
    print(terminal.to_json({"deleted": deleted}) if arguments.json else f"deleted {deleted}")
    return 0
