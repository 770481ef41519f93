"""The settings: their names, their valid values, and the one line that explains an invalid one.

Each can be given to `create_app()` by its name here, or in the environment by the name in `VARIABLES`.
An invalid value raises `SettingsError` at startup, never later.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from opensentry_ingest.tables import ITEM_TABLES

VARIABLES = {
    "database_url": "DATABASE_URL",
    "allowed_origins": "OPENSENTRY_ALLOWED_ORIGINS",
    "pool_size": "OPENSENTRY_POOL_SIZE",
    "database_timeout": "OPENSENTRY_DATABASE_TIMEOUT",
    "public_url": "OPENSENTRY_PUBLIC_URL",
    "keep_prompts": "OPENSENTRY_KEEP_PROMPTS",
    "viewer_password": "OPENSENTRY_VIEWER_PASSWORD",
    **{f"retention_days_{table}": f"OPENSENTRY_RETENTION_DAYS_{table.upper()}" for table in ITEM_TABLES},
}


class SettingsError(ValueError):
    """A setting is missing or invalid. The message is one line that names it."""


@dataclass(frozen=True)
class Settings:
    """What an operator can set.

    Attributes:
        database_url: how to reach PostgreSQL, in libpq's form: a URL or `name=value` pairs.
        allowed_origins: the web origins that may post from a browser; None: any; empty: none.
        pool_size: the most connections of each process.
        database_timeout: seconds that a request waits for a free connection, again to connect, and again for its
            statement. Three times this, and 2 s for a cancellation, must stay below the server's graceful timeout
            (gunicorn: 30 s), or a restart aborts requests.
        public_url: where clients reach the service; the DSNs that the command prints contain it.
        keep_prompts: whether what a language model was asked and what it answered is stored.
        viewer_password: the password of the viewer; empty: none.
        retention_days_events: days that `maintain` keeps events, at least; None: forever. The same for each table.
        retention_days_transactions: days that it keeps transactions.
        retention_days_spans: days that it keeps spans; None: as long as their transactions.
        retention_days_ai_generations: days that it keeps AI generations.
    """

    database_url: str
    allowed_origins: frozenset[str] | None = None
    pool_size: int = 4
    database_timeout: float = 5.0
    public_url: str = "http://localhost:3001"
    keep_prompts: bool = False
    viewer_password: str = field(default="", repr=False)
    retention_days_events: int | None = None
    retention_days_transactions: int | None = None
    retention_days_spans: int | None = None
    retention_days_ai_generations: int | None = None

    def __post_init__(self) -> None:
        if not self.database_url:
            raise SettingsError(
                "DATABASE_URL is not set: set it to the PostgreSQL to store in, such as postgresql://user:password@host/database"
            )
        try:
            conninfo_to_dict(self.database_url)
        except psycopg.ProgrammingError:
            # psycopg's own message may quote the password.
            raise SettingsError(
                "DATABASE_URL is not a PostgreSQL connection string, such as postgresql://user:password@host/database"
            ) from None
        for origin in self.allowed_origins or ():
            if origin != _origin(origin):
                raise SettingsError(
                    f"OPENSENTRY_ALLOWED_ORIGINS: {origin!r} is not an origin, such as https://app.example.com"
                )
        if not 1 <= self.pool_size <= 1000:
            raise SettingsError(f"OPENSENTRY_POOL_SIZE: {self.pool_size} is not between 1 and 1000 connections")
        if not 0.1 <= self.database_timeout <= 60:
            raise SettingsError(
                f"OPENSENTRY_DATABASE_TIMEOUT: {self.database_timeout:g} is not between 0.1 and 60 seconds"
            )
        if not _base_url(self.public_url):
            raise SettingsError(
                f"OPENSENTRY_PUBLIC_URL: {self.public_url!r} is not a URL, such as https://ingest.example.com"
            )
        for table, days in self.retention().items():
            if days is not None and not 1 <= days <= 36500:
                raise SettingsError(f"{VARIABLES[f'retention_days_{table}']}: {days} is not between 1 and 36500 days")
        if (self.retention()["spans"] or 0) > (self.retention_days_transactions or 36500):
            raise SettingsError(
                "OPENSENTRY_RETENTION_DAYS_SPANS: a span is not kept longer than its transaction: "
                "OPENSENTRY_RETENTION_DAYS_TRANSACTIONS is less"
            )

    def retention(self) -> dict[str, int | None]:
        """Return the days that the rows of each table are kept at least; None: forever."""
        days = {table: getattr(self, f"retention_days_{table}") for table in ITEM_TABLES}
        if days["spans"] is None:
            days["spans"] = days["transactions"]
        return days


def load(environ: Mapping[str, str] = os.environ, **given: object) -> Settings:
    """Return the settings: from `given` where one is not None, else from `environ`, else the default.

    Raises:
        SettingsError: one is missing or invalid.
    """
    values: dict[str, object] = {"database_url": ""}
    for each in fields(Settings):
        value = given.get(each.name)
        if value is None:
            value = environ.get(VARIABLES[each.name], "").strip() or None
        if value is not None:
            values[each.name] = _convert(each.name, value)
    return Settings(**values)  # type: ignore[arg-type]


def _convert(name: str, value: object) -> object:
    """Return the value in the type that `Settings` holds it in."""
    try:
        if name == "pool_size" or name.startswith("retention_days_"):
            if isinstance(value, float) and not value.is_integer():
                raise ValueError
            return int(value)  # type: ignore[call-overload]
        if name == "database_timeout":
            return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        kind = "number" if name == "database_timeout" else "whole number"
        raise SettingsError(f"{VARIABLES[name]}: {value!r} is not a {kind}") from None
    if name == "keep_prompts":
        answers = {"yes": True, "no": False}
        if str(value).lower() not in answers:
            raise SettingsError(f"{VARIABLES[name]}: {value!r} is neither yes nor no")
        return answers[str(value).lower()]
    if name == "allowed_origins":
        if isinstance(value, str):
            value = value.replace(",", " ").split()
        origins = frozenset(value) if isinstance(value, Iterable) else frozenset([value])
        if not all(isinstance(origin, str) for origin in origins):
            raise SettingsError(f"{VARIABLES[name]}: {value!r} is not a list of origins")
        return frozenset(_origin(str(origin)) or origin for origin in origins)
    if not isinstance(value, str):
        raise SettingsError(f"{VARIABLES[name]}: {value!r} is not a string")
    return value.rstrip("/") if name == "public_url" else value


def _base_url(url: str) -> str:
    """Return the scheme, host and port of a web URL, or "" if it is not one."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"
    except ValueError:
        pass
    return ""


def _origin(url: str) -> str:
    """Return an origin as a browser serialises it, without its default port, or "" if it is not one (RFC 6454)."""
    base = _base_url(url)
    if base != url.lower():
        return ""
    scheme, _, host = base.partition("://")
    return f"{scheme}://{host.removesuffix(':80' if scheme == 'http' else ':443')}"
