"""What is wrong with a payload, for people to read.

The rules that hold here: a detail quotes the schema and never the payload; a pointer quotes only the names of members,
and shortens them; an item is checked against the schema of its own `type`, not against every branch of the union; and
a hostile payload takes no more work than a large valid one.
"""

import json
from collections.abc import Iterator
from functools import cache
from http import HTTPStatus
from itertools import count
from typing import Any, NamedTuple

import jsonschema

from opensentry_ingest import errors, validators

MEDIA_TYPE = "application/problem+json"

MAX_PROBLEMS = 20
"""The most problems of a payload that the problem details list."""

MAX_VALUES = 5_000
"""The most values that are checked if the number of problems is limited: as many as a large batch has."""

MAX_NAME_CHARACTERS = 100
"""The length to which a pointer shortens the name of a member."""


class Problem(NamedTuple):
    """One thing that is wrong: its place (a JSON Pointer, RFC 6901) and what it must be."""

    pointer: str
    detail: str


class _EnoughError(Exception):
    """`MAX_VALUES` values were checked."""


def find(value: Any, most: int | None = None) -> list[Problem]:
    """Return what is wrong with a parsed payload; [] if it is valid.

    Args:
        value: the payload.
        most: the most problems to return. If given, the search also ends after `MAX_VALUES` values and may find none.
    """
    steps = count(1)
    type_keyword = jsonschema.Draft202012Validator.VALIDATORS["type"]

    def counted(validator: Any, types: Any, instance: Any, schema: Any) -> Any:
        if most is not None and next(steps) > MAX_VALUES:
            raise _EnoughError
        return type_keyword(validator, types, instance, schema)

    kind = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        jsonschema.Draft202012Validator, {"type": counted}
    )
    found: dict[Problem, None] = {}
    try:
        for problem in _of_payload(kind(validators.schemas()[validators.ROOT], registry=validators.registry()), value):
            if len(found) == most:
                break
            found[problem] = None
    except _EnoughError:
        pass
    return list(found)


def _of_payload(validator: Any, value: Any) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield from _of_item(validator, value, "")
        return
    batch = next(branch for branch in validator.schema["anyOf"] if branch.get("type") == "array")
    for error in validator.evolve(schema={**batch, "items": True}).iter_errors(value):
        yield from _of_error(error, "")
    for index, item in enumerate(value):
        yield from _of_item(validator, item, f"/{index}")


def _of_item(validator: Any, item: Any, pointer: str) -> Iterator[Problem]:
    if not isinstance(item, dict):
        yield Problem(pointer, "must be an object" if pointer else "must be an object or an array of objects")
    elif "type" not in item:
        yield Problem(pointer + "/type", "is required")
    elif not (isinstance(item["type"], str) and item["type"] in _types()):
        yield Problem(pointer + "/type", "must be one of " + ", ".join(_types()))
    else:
        for error in validator.evolve(schema=_types()[item["type"]]).iter_errors(item):
            yield from _of_error(error, pointer)


@cache
def _types() -> dict[str, Any]:
    """Return the schema of each type of item, by the value of the member `type`."""
    branches = validators.schemas()["ingest-item.json"]["anyOf"]
    schemas = [validators.schemas()[branch["$ref"]] for branch in branches]
    return {schema["properties"]["type"]["const"]: schema for schema in schemas}


def refusal(environ: dict[str, Any], error: errors.RequestError) -> tuple[str, bytes]:
    """Return the media type and the body of a refusal: the contract's, or problem details if the client asks for them.

    Args:
        environ: the WSGI environment (PEP 3333).
        error: what the request is refused for.
    """
    if wanted(environ):
        return MEDIA_TYPE, json.dumps(details(error)).encode()
    return "application/json", json.dumps({"error": error.reason}).encode()


def wanted(environ: dict[str, Any]) -> bool:
    """Return whether the client asks for problem details."""
    return MEDIA_TYPE in environ.get("HTTP_ACCEPT", "").lower()


def explain(error: Exception, most: int) -> list[Problem]:
    """Return at most `most` problems that caused a request to be refused."""
    detail = str(error)
    if isinstance(error, errors.InvalidPayload) and not detail:
        return find(error.payload, most)
    return [Problem("", detail)] if detail else []


def details(error: errors.RequestError) -> dict[str, Any]:
    """Return the problem details (RFC 9457) of a refusal. Only a 400 lists causes; others concern the operator."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.reason,
    }
    if error.status == 400 and (problems := explain(error, MAX_PROBLEMS)):
        document["errors"] = [problem._asdict() for problem in problems]
    return document


_DETAILS = {
    "enum": "must be one of {}",
    "maximum": "must be at most {}",
    "maxItems": "must have at most {} items",
    "minimum": "must be at least {}",
    "minItems": "must have at least {} items",
    "minLength": "must have at least {} characters",
    "type": "must be of type {}",
}


def _of_error(error: Any, pointer: str) -> Iterator[Problem]:
    place = pointer + "".join(map(_part, error.absolute_path))
    if error.validator == "required":
        for name in error.validator_value:
            if name not in error.instance:
                yield Problem(place + _part(name), "is required")
    elif error.validator in ("pattern", "not"):
        yield Problem(place, "is invalid: " + error.schema["description"])
    else:
        wanted = error.validator_value
        texts = wanted if isinstance(wanted, list) else [wanted]
        yield Problem(place, _DETAILS[str(error.validator)].format(", ".join(map(str, texts))))


def _part(name: str | int) -> str:
    text = str(name)
    if len(text) > MAX_NAME_CHARACTERS:
        text = text[:MAX_NAME_CHARACTERS] + "…"
    return "/" + text.replace("~", "~0").replace("/", "~1")
