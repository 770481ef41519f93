"""What a request asks for: its path, its parameters, its time range and its project, and URLs that keep them."""

import re
from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode
from uuid import UUID

from opensentry_ingest.reading import Period
from opensentry_ingest.viewer.errors import BadRequest, NotFound

DEFAULT_SINCE = "24h"

KEPT = ("project", "since", "from", "to")
"""The parameters that a link to another page keeps."""

MAX_FORM_BYTES = 10_000

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Request:
    """One request.

    Args:
        environ: the WSGI environment (PEP 3333).

    Attributes:
        path: the path within the viewer, without `.json`.
        wants_json: whether the page is asked for as JSON.
        query: the parameters of the URL; of those that repeat, the last; without those that are empty.
        groups: the parts of the path that the page's route names.
        projects: all projects, as `admin.projects()` returns them.
    """

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        path: str = environ.get("PATH_INFO", "")
        self.wants_json = path.endswith(".json")
        self.path = path.removesuffix(".json")
        self.query = _parameters(environ.get("QUERY_STRING", ""))
        self.groups: dict[str, str] = {}
        self.projects: list[dict[str, Any]] = []

    def choice(self, name: str, choices: Collection[str], default: str | None = None) -> str | None:
        """Return a parameter that may have some values only.

        Raises:
            BadRequest: it has another value.
        """
        value = self.query.get(name, default)
        if value is not None and value not in choices:
            raise BadRequest(f"The parameter {name} may be {', '.join(choices)}.")
        return value

    @cached_property
    def project(self) -> dict[str, Any] | None:
        """The project that is asked for, by its name or id; None: all.

        Raises:
            NotFound: there is no such project.
        """
        wanted = self.query.get("project")
        if wanted is None:
            return None
        for project in self.projects:
            if wanted in (project["name"], project["id"]):
                return project
        raise NotFound(f"There is no project {wanted!r}.")

    @property
    def project_id(self) -> UUID | None:
        """The id of the project that is asked for; None: all."""
        return UUID(self.project["id"]) if self.project else None

    @cached_property
    def period(self) -> Period:
        """The time range: `from` and `to` (ISO 8601, UTC unless they say otherwise), else the last `since`.

        Raises:
            BadRequest: it is none.
        """
        now = datetime.now(timezone.utc)
        if "from" in self.query:
            period = Period(_moment("from", self.query["from"]), _moment("to", self.query.get("to", now.isoformat())))
        elif "to" in self.query:
            raise BadRequest("A time range that has `to` needs `from`.")
        else:
            found = re.fullmatch(r"([1-9][0-9]{0,3})([mhd])", self.since or "")
            if not found:
                raise BadRequest("The parameter since is a number and m, h or d, such as 90m, 24h or 7d.")
            period = Period(now - timedelta(**{_UNITS[found[2]]: int(found[1])}), now)
        if not timedelta() < period.until - period.since <= timedelta(days=3660):
            raise BadRequest("A time range begins before it ends, and is not longer than ten years.")
        return period

    @property
    def since(self) -> str | None:
        """How far back the time range goes from now, such as 24h; None if it is given by `from` and `to`."""
        return None if "from" in self.query else self.query.get("since", DEFAULT_SINCE)

    @cached_property
    def form(self) -> dict[str, str]:
        """The fields of a form that was sent.

        Raises:
            BadRequest: it is too long.
        """
        length = self.environ.get("CONTENT_LENGTH") or "0"
        if not length.isdecimal() or int(length) > MAX_FORM_BYTES:
            raise BadRequest("This form is too long.")
        return _parameters(self.environ["wsgi.input"].read(int(length)).decode("utf-8", "replace"))

    def url(self, path: str, /, **query: object) -> str:
        """Return the URL of a path within the viewer; a parameter that is None is left out."""
        text = urlencode({name: value for name, value in query.items() if value is not None})
        # PEP 3333 gives paths as bytes decoded from Latin-1.
        root = quote(self.environ.get("SCRIPT_NAME", "").encode("latin-1"))
        return f"{root}{quote(path)}{'?' if text else ''}{text}"

    def link(self, path: str, /, **query: object) -> str:
        """Return the URL of a page, with the same project and time range."""
        return self.url(path, **{**{name: self.query[name] for name in KEPT if name in self.query}, **query})

    def here(self, /, **query: object) -> str:
        """Return the URL of this page with other parameters, which begins at the top of its list."""
        return self.url(self.path, **{**self.query, "after": None, **query})

    def json(self) -> str:
        """Return the URL of this page as JSON."""
        return self.url(self.path + ".json", **self.query)


def _parameters(text: str) -> dict[str, str]:
    try:
        parameters = dict(parse_qsl(text, max_num_fields=50))
    except ValueError:
        raise BadRequest("There are too many parameters.") from None
    if any("\0" in part for pair in parameters.items() for part in pair):
        raise BadRequest("A parameter holds a null character.")
    return parameters


def _moment(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise BadRequest(
            f"The parameter {name} is a date or a time, such as 2026-05-30 or 2026-05-30T12:00Z."
        ) from None
