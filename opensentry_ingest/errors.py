"""The errors that a caller can do something about.

A `RequestError` ends a request and knows the answer that the client gets: its status, its text and its headers. An
exception that is none of these is a bug, and is answered as `InternalError`. A `CommandError` ends a command.
"""

from collections.abc import Iterable

RETRY_AFTER_SECONDS = 5
"""What a client is asked to wait after a 503, and how long readiness remembers a full disk."""


class CommandError(Exception):
    """The command cannot do what was asked. The message is one line that says what to do."""


class RequestError(Exception):
    """A request that is refused. Its argument says what is wrong, for the log and for problem details.

    Attributes:
        status: the HTTP status (RFC 9110).
        reason: the text of the error, which is documented API.
        headers: further headers of the answer.
    """

    status = 400
    reason = "Bad request"
    headers: Iterable[tuple[str, str]] = ()


class NotFound(RequestError):
    """There is nothing at this path."""

    status, reason = 404, "Not found"


class MethodNotAllowed(RequestError):
    """The path has other methods.

    Args:
        allowed: their names.
    """

    status, reason = 405, "Method not allowed"

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__()
        self.headers = [("Allow", ", ".join(allowed))]


class OriginNotAllowed(RequestError):
    """The page that sent the request is of an origin that may not post."""

    status, reason = 403, "Origin not allowed"


class MissingKey(RequestError):
    """The request has no public key."""

    status, reason = 401, "Missing auth key"


class UnknownKey(RequestError):
    """No project has this public key, or it is revoked."""

    status, reason = 403, "Invalid DSN key"


class InvalidIdempotencyKey(RequestError):
    """The idempotency key is not 1 to 255 printable ASCII characters."""

    reason = "Invalid idempotency key"


class PayloadTooLarge(RequestError):
    """The body is over the limit, as sent or unpacked."""

    status, reason = 413, "Payload too large"


class UnsupportedEncoding(RequestError):
    """The body is in a content coding that is not supported here, or in several.

    Args:
        supported: the names of those that are.
    """

    status, reason = 415, "Unsupported content encoding"
    headers = (("Accept-Encoding", "gzip, deflate"),)

    def __init__(self, supported: Iterable[str] = ("gzip", "deflate")) -> None:
        super().__init__()
        self.headers = (("Accept-Encoding", ", ".join(supported)),)


class UnsupportedMediaType(RequestError):
    """The body is in a format that is not supported here. The message says which are."""

    status, reason = 415, "Unsupported media type"


class InvalidJSON(RequestError):
    """The body is not JSON (RFC 8259), or did not arrive whole. The message quotes nothing of it."""

    reason = "Invalid JSON"


class InvalidProtobuf(RequestError):
    """The body is not the message that its path takes, in protobuf. The error quotes nothing of it."""

    reason = "Invalid protobuf"


class InvalidPayload(RequestError):
    """The payload does not match the schema, or holds a value that PostgreSQL refuses.

    Args:
        detail: what is wrong, if that is known already.
        payload: the parsed payload, to find out what is wrong with it if somebody asks.
    """

    reason = "Invalid payload"

    def __init__(self, detail: str = "", payload: object = None) -> None:
        super().__init__(detail)
        self.payload = payload


class Unavailable(RequestError):
    """The database is unreachable or too slow, or no connection was free in time."""

    status, reason = 503, "Service unavailable"
    headers = (("Retry-After", str(RETRY_AFTER_SECONDS)),)


class InternalError(RequestError):
    """What a client is told of a bug, which the log describes."""

    status, reason = 500, "Internal server error"


EARLY = (NotFound, MethodNotAllowed, OriginNotAllowed, MissingKey, InvalidIdempotencyKey)
"""The refusals that come before the body was read."""
