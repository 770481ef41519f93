"""The service as it must not be: with a wildcard where it names the origin. The suite must notice."""

from collections.abc import Iterable
from typing import Any

from opensentry_ingest import create_app

service = create_app()


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    def rewritten(status: str, headers: list[tuple[str, str]]) -> Any:
        name = "Access-Control-Allow-Origin"
        return start_response(status, [(key, "*" if key == name else value) for key, value in headers])

    return service(environ, rewritten)
