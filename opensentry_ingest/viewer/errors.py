"""The errors that a page ends with: each knows its status and heading, and its message says what to do."""

from collections.abc import Iterable

from opensentry_ingest.errors import RETRY_AFTER_SECONDS


class PageError(Exception):
    """A request that gets no page. The message is shown.

    Attributes:
        status: the HTTP status (RFC 9110).
        heading: what is wrong, in a few words.
        headers: further headers of the answer.
        code: what to run, shown below the message.
    """

    status = 400
    heading = "This address is not valid"
    headers: Iterable[tuple[str, str]] = ()

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class BadRequest(PageError):
    """A parameter of the URL or of a form is invalid."""


class PasswordNeeded(PageError):
    """No password was sent, or another one."""

    status, heading = 401, "The viewer needs its password"
    headers = (("WWW-Authenticate", 'Basic realm="opensentry", charset="UTF-8"'),)


class Forbidden(PageError):
    """The request comes from another site, or by a name that the viewer does not have."""

    status, heading = 403, "Not allowed"


class NotFound(PageError):
    """There is nothing at this address."""

    status, heading = 404, "Nothing is here"


class MethodNotAllowed(PageError):
    """The address has other methods."""

    status, heading = 405, "Method not allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This address takes {allowed}.")
        self.headers = (("Allow", allowed),)


class InternalError(PageError):
    """A bug."""

    status, heading = 500, "This page has a bug"


class Unavailable(PageError):
    """The database cannot answer now."""

    status, heading = 503, "The database is unavailable"
    headers = (("Retry-After", str(RETRY_AFTER_SECONDS)),)


class Unfit(PageError):
    """The database answers, but this role or this version of the schema will not do."""

    status, heading = 503, "The viewer cannot read this database"
