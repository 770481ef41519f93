"""Prices of language models: reads them from files, and keeps them in the table `model_prices`.

The rules that hold here: prices are decimals from the text to the database, never floats; a file is stored whole or not
at all; and what is in it is not trusted.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg

from opensentry_ingest.errors import CommandError
from opensentry_ingest.reading import Connection, fetch

COLUMNS = ("input_usd", "cached_input_usd", "cache_write_usd", "output_usd")
"""The prices of a million tokens; the first and the last are required."""

CSV_HEADER = ("provider", "model", *COLUMNS, "valid_from")
"""The columns of a CSV file, in any order; others are ignored. Only valid_from may be missing."""

MAX_BYTES = 64 * 2**20
"""The largest file: some forty times as large as that of LiteLLM."""

LITELLM_FIELDS = {
    "input_usd": "input_cost_per_token",
    "cached_input_usd": "cache_read_input_token_cost",
    "cache_write_usd": "cache_creation_input_token_cost",
    "output_usd": "output_cost_per_token",
}

LITELLM_MODES = {"chat": True, "completion": True, "responses": True, "embedding": False, "rerank": False}
"""The modes that are priced by the token, and whether such a model must have a price of output tokens."""


REPEATED = "a second entry for the model"


class Price(NamedTuple):
    """What a model costs, in US dollars for a million tokens; None of cached tokens: as much as input tokens.

    `valid_from` is None where the file does not say.
    """

    provider: str
    model: str
    input_usd: Decimal
    cached_input_usd: Decimal | None
    cache_write_usd: Decimal | None
    output_usd: Decimal
    valid_from: str | None = None


class Parsed(NamedTuple):
    """What a file holds: its prices, and how many entries were skipped for each reason."""

    prices: list[Price]
    skipped: Counter[str]


def parse(content: bytes) -> Parsed:
    """Read the JSON that LiteLLM publishes, or CSV with a header.

    Raises:
        CommandError: it is neither, or a price in it is none.
    """
    if len(content) > MAX_BYTES:
        raise CommandError(f"the file is larger than {MAX_BYTES // 2**20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"the file is not UTF-8: {error.reason} at byte {error.start}") from None
    if "\0" in text:
        raise CommandError("the file holds a NUL character")
    return _parse_litellm(text) if text.lstrip().startswith(("{", "[")) else _parse_csv(text)


def _parse_litellm(text: str) -> Parsed:
    try:
        entries = json.loads(
            text,
            parse_float=Decimal,
            parse_int=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_without_repetition,
        )
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise CommandError(f"the file is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise CommandError("the file is JSON, but not an object that has a member for each model, as LiteLLM's is")
    prices: dict[tuple[str, str], Price] = {}
    skipped: Counter[str] = Counter()
    for key, entry in entries.items():
        if key == "sample_spec":
            continue
        try:
            price = _litellm_price(key, entry)
        except _Skipped as reason:
            skipped[str(reason)] += 1
            continue
        # The same model may be there with its provider before it and without: they are one.
        if prices.setdefault((price.provider, price.model), price) is not price:
            skipped[REPEATED] += 1
    return Parsed([*prices.values()], skipped)


class _Skipped(Exception):
    """An entry is no price of ours. The message says why."""


def _litellm_price(key: str, entry: object) -> Price:
    if not isinstance(entry, dict):
        raise CommandError(f"{key!r} is not an object: the file is not in LiteLLM's form")
    provider, mode = entry.get("litellm_provider"), entry.get("mode", "chat")
    if not isinstance(provider, str) or not provider:
        raise _Skipped("no provider")
    if not isinstance(mode, str) or mode not in LITELLM_MODES:
        raise _Skipped("not priced by the token")
    values: dict[str, Any] = {name: entry.get(field) for name, field in LITELLM_FIELDS.items()}
    if values["output_usd"] is None and not LITELLM_MODES[mode]:
        values["output_usd"] = Decimal(0)
    if values["input_usd"] is None or values["output_usd"] is None:
        raise _Skipped("no price of a token")
    for name, value in values.items():
        if value is not None:
            if not isinstance(value, Decimal):
                raise CommandError(f"{key!r}: {LITELLM_FIELDS[name]} is not a number")
            values[name] = _checked(value, 6, f"{key!r}: {LITELLM_FIELDS[name]}")
    if not any(values.values()) and any(_is_positive(value) for name, value in entry.items() if "_cost" in name):
        # Of a rerank model, say, the price of a query.
        raise _Skipped("not priced by the token")
    # vertex_ai-anthropic_models and such are Vertex AI's.
    provider = "vertex_ai" if provider.startswith("vertex_ai") else provider
    prefix, _, model = key.partition("/")
    bare = prefix in (provider, provider.partition("_converse")[0]) and model
    return Price(provider, model if bare else key, **values)


def _is_positive(value: object) -> bool:
    return isinstance(value, Decimal) and value > 0


def _parse_csv(text: str) -> Parsed:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    prices: dict[tuple[str, str, str | None], Price] = {}
    try:
        header = reader.fieldnames or ()
        if any(name not in header for name in CSV_HEADER[:-1]):
            raise CommandError(f"the file is neither JSON nor CSV with the columns {','.join(CSV_HEADER)}")
        if len({*header}) < len(header):
            raise CommandError("the file has two columns of one name")
        for row in reader:
            # A comma too many or too few would move prices to other columns.
            if None in row or None in row.values():
                raise CommandError(f"line {reader.line_num}: the header has another number of columns")
            price = _csv_price(row, reader.line_num)
            if prices.setdefault((price.provider, price.model, price.valid_from), price) is not price:
                raise CommandError(f"line {reader.line_num}: a second price of {price.model!r} of {price.provider!r}")
    except csv.Error as error:
        raise CommandError(f"line {reader.line_num}: {error}") from None
    return Parsed([*prices.values()], Counter())


def _csv_price(row: dict[str, str | None], line: int) -> Price:
    texts = {name: (row.get(name) or "").strip() for name in CSV_HEADER}
    for name in ("provider", "model", "input_usd", "output_usd"):
        if not texts[name]:
            raise CommandError(f"line {line}: {name} is missing")
    values: dict[str, Any] = {
        name: decimal(texts[name], f"line {line}: {name}") if texts[name] else None for name in COLUMNS
    }
    return Price(texts["provider"], texts["model"], **values, valid_from=texts["valid_from"] or None)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _without_repetition(members: list[tuple[str, Any]]) -> dict[str, Any]:
    # Which of two prices is meant is not for a parser to say.
    found: dict[str, Any] = {}
    for name, value in members:
        if name in found:
            raise ValueError(f"an object has the member {name[:200]!r} twice")
        found[name] = value
    return found


def decimal(text: str, what: str) -> Decimal:
    """Return a price that is written as a decimal number.

    Raises:
        CommandError: it is none, or out of bounds; the message begins with `what`.
    """
    try:
        number = Decimal(text) if text.isascii() and "_" not in text else Decimal("NaN")
    except ArithmeticError:
        number = Decimal("NaN")
    return _checked(number, 0, what)


def _checked(number: Decimal, exponent: int, what: str) -> Decimal:
    """Return a number times a power of ten, exactly. The table has the same bounds."""
    sign, digits, power = number.as_tuple()
    if isinstance(power, int) and not any(digits):
        return Decimal(0)
    if isinstance(power, int) and not sign:
        significant = "".join(map(str, digits)).rstrip("0")
        power += exponent + len(digits) - len(significant)
        # Bounds for the length first: the number may have a million digits.
        if power >= -20 and len(significant) + power <= 10:
            scaled = Decimal(f"{significant}e{power}")
            if scaled <= 1_000_000_000:
                return scaled
    raise CommandError(f"{what} is not a price: a number from 0 to a billion, with at most 20 decimals")


class Stored(NamedTuple):
    """How many prices were new, had changed, were as before, or repeated a model by another name of its provider."""

    new: int
    changed: int
    unchanged: int
    repeated: int


def store(connection: Connection, prices: Iterable[Price], valid_from: datetime | str | None = None) -> Stored:
    """Store prices in one transaction.

    Args:
        connection: a connection of the role that owns the table.
        prices: the prices. Of several of one model, by names of one provider, the first counts.
        valid_from: since when they are valid, also in a form that PostgreSQL reads; a price's own goes before it.
            Without either, the first price of a model is valid always, and another one from now on.

    Raises:
        CommandError: PostgreSQL refuses one of them.
    """
    counts: Counter[str] = Counter()
    seen: set[tuple[str, str, str | None]] = set()
    with connection.transaction():
        # A time without an offset is UTC, as everywhere.
        connection.execute("SET LOCAL timezone = 'UTC'")
        # Two imports at once would each take the other's changes for their own.
        connection.execute("LOCK TABLE opensentry.model_prices IN SHARE ROW EXCLUSIVE MODE")
        for price in prices:
            values = {**price._asdict(), "valid_from": price.valid_from or valid_from}
            try:
                [(provider,)] = connection.execute("SELECT opensentry.model_provider(%(provider)s)", values).fetchall()
                name = provider, price.model, price.valid_from
                if name in seen:
                    counts["repeated"] += 1
                    continue
                seen.add(name)
                counts[_store(connection, {**values, "provider": provider})] += 1
            except (psycopg.DataError, psycopg.IntegrityError, UnicodeEncodeError) as error:
                reason = str(error).splitlines()[0]
                raise CommandError(f"{price.model!r} of {price.provider!r}: {reason}") from None
    return Stored(*(counts[name] for name in Stored._fields))


def _store(connection: Connection, values: dict[str, Any]) -> str:
    """Store a price; return whether it is new, changed or unchanged."""
    [(count, moment)] = connection.execute(_MOMENT, values).fetchall()
    # A price that is the same as the one that is valid then needs no row of its own.
    before = connection.execute(_BEFORE, {**values, "valid_from": moment}).fetchone()
    if before == tuple(values[name] for name in COLUMNS):
        return "unchanged"
    connection.execute(_STORE, {**values, "valid_from": moment})
    return "changed" if count else "new"


# Statements of their own, because Citus cannot plan them as one.
_MOMENT = """
    SELECT count(*), coalesce(%(valid_from)s::timestamptz, CASE count(*) WHEN 0 THEN '-infinity' ELSE now() END)::text
    FROM opensentry.model_prices
    WHERE provider = %(provider)s AND model = %(model)s
"""

_BEFORE = """
    SELECT input_usd, cached_input_usd, cache_write_usd, output_usd
    FROM opensentry.model_prices
    WHERE provider = %(provider)s AND model = %(model)s AND valid_from <= %(valid_from)s
    ORDER BY valid_from DESC
    LIMIT 1
"""

# With the same valid_from it replaces.
_STORE = """
    INSERT INTO opensentry.model_prices (
        provider, model, valid_from, input_usd, cached_input_usd, cache_write_usd, output_usd
    )
    VALUES (
        %(provider)s, %(model)s, %(valid_from)s,
        %(input_usd)s, %(cached_input_usd)s, %(cache_write_usd)s, %(output_usd)s
    )
    ON CONFLICT (provider, model, valid_from) DO UPDATE SET
        input_usd = excluded.input_usd, cached_input_usd = excluded.cached_input_usd,
        cache_write_usd = excluded.cache_write_usd, output_usd = excluded.output_usd
"""


def delete(connection: Connection, provider: str, model: str, valid_from: str | None = None) -> int:
    """Delete the prices of a model, or the one that is valid from a moment; return how many there were."""
    with connection.transaction():
        connection.execute("SET LOCAL timezone = 'UTC'")
        return connection.execute(
            "DELETE FROM opensentry.model_prices WHERE provider = opensentry.model_provider(%(provider)s) "
            "AND model = %(model)s AND (%(valid_from)s::timestamptz IS NULL OR valid_from = %(valid_from)s)",
            {"provider": provider, "model": model, "valid_from": valid_from},
        ).rowcount


def prices(connection: Connection) -> list[dict[str, Any]]:
    """Return all prices. The `valid_from` of one that is valid always is None."""
    return fetch(
        connection,
        "SELECT provider, model, nullif(valid_from, '-infinity') AS valid_from, input_usd, cached_input_usd, "
        "cache_write_usd, output_usd FROM opensentry.model_prices AS m ORDER BY provider, model, m.valid_from",
        {},
    )
