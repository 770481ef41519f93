"""What is wrong with a payload, for people to read.

The rules that hold here: a detail quotes the schema and never the payload, a pointer no more than the names of members,
shortened; an item is described by the rules of its own `type`, not as something that no branch of a union accepts; and
a hostile payload costs no more work than a large one that is meant well.
"""

from collections.abc import Iterator
from functools import cache
from http import HTTPStatus
from itertools import count
from typing import Any, NamedTuple

import jsonschema

from opensentry_ingest import payload, validators

MOST = 20
"""Faults of a payload that problem details name."""

STEPS = 5_000
"""Values that are looked at where the number of faults is bounded: those of a large batch."""

LONGEST_NAME = 100
"""Characters of a member's name that a pointer quotes."""


class Fault(NamedTuple):
    """One thing that is wrong: where (a JSON Pointer, RFC 6901), and what."""

    pointer: str
    detail: str


class _EnoughError(Exception):
    """`STEPS` values were looked at."""


def find(value: Any, most: int | None = None) -> list[Fault]:
    """Return what is wrong with a parsed payload by the schema; [] where it is valid.

    Args:
        value: the payload.
        most: faults, at most. Where it is given, the search ends after `STEPS` values as well, and may find none.
    """
    steps = count(1)
    type_keyword = jsonschema.Draft202012Validator.VALIDATORS["type"]

    def counted(validator: Any, types: Any, instance: Any, schema: Any) -> Any:
        if most is not None and next(steps) > STEPS:
            raise _EnoughError
        return type_keyword(validator, types, instance, schema)

    kind = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        jsonschema.Draft202012Validator, {"type": counted}
    )
    found: dict[Fault, None] = {}
    try:
        for fault in _of_payload(kind(validators.schemas()[validators.ROOT], registry=validators.registry()), value):
            if len(found) == most:
                break
            found[fault] = None
    except _EnoughError:
        pass
    return list(found)


def _of_payload(validator: Any, value: Any) -> Iterator[Fault]:
    if not isinstance(value, list):
        yield from _of_item(validator, value, "")
        return
    batch = next(branch for branch in validator.schema["anyOf"] if branch.get("type") == "array")
    for error in validator.evolve(schema={**batch, "items": True}).iter_errors(value):
        yield from _of_error(error, "")
    for index, item in enumerate(value):
        yield from _of_item(validator, item, f"/{index}")


def _of_item(validator: Any, item: Any, pointer: str) -> Iterator[Fault]:
    if not isinstance(item, dict):
        yield Fault(pointer, "must be an object" if pointer else "must be an object or an array of objects")
    elif "type" not in item:
        yield Fault(pointer + "/type", "is required")
    elif not (isinstance(item["type"], str) and item["type"] in _types()):
        yield Fault(pointer + "/type", "must be one of " + ", ".join(_types()))
    else:
        for error in validator.evolve(schema=_types()[item["type"]]).iter_errors(item):
            yield from _of_error(error, pointer)


@cache
def _types() -> dict[str, Any]:
    """Return the schema of each type of item, by what its member `type` says."""
    branches = validators.schemas()["ingest-item.json"]["anyOf"]
    schemas = [validators.schemas()[branch["$ref"]] for branch in branches]
    return {schema["properties"]["type"]["const"]: schema for schema in schemas}


def explain(error: Exception, most: int) -> list[Fault]:
    """Return what an error that refuses a request says of its cause, at most `most` faults."""
    if isinstance(error, payload.InvalidPayload):
        return find(error.args[0], most)
    return [Fault("", str(error))] if str(error) else []


def problem(status: int, reason: str, cause: Exception | None) -> dict[str, Any]:
    """Return the problem details (RFC 9457) of a refusal.

    Args:
        status: its HTTP status.
        reason: the contract's text.
        cause: what `body`, `payload` or `store` raised. Only a 400 tells of it: the rest is the operator's.
    """
    details = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": reason}
    if status == 400 and cause:
        details["errors"] = [fault._asdict() for fault in explain(cause, MOST)]
    return details


_DETAILS = {
    "enum": "must be one of {}",
    "maximum": "must be at most {}",
    "maxItems": "must have at most {} items",
    "minimum": "must be at least {}",
    "minItems": "must have at least {} items",
    "minLength": "must have at least {} characters",
    "type": "must be of type {}",
}


def _of_error(error: Any, pointer: str) -> Iterator[Fault]:
    place = pointer + "".join(map(_part, error.absolute_path))
    if error.validator == "required":
        for name in error.validator_value:
            if name not in error.instance:
                yield Fault(place + _part(name), "is required")
    elif error.validator in ("pattern", "not"):
        yield Fault(place, "is not what it must be: " + error.schema["description"])
    else:
        wanted = error.validator_value
        texts = wanted if isinstance(wanted, list) else [wanted]
        yield Fault(place, _DETAILS[str(error.validator)].format(", ".join(map(str, texts))))


def _part(name: str | int) -> str:
    text = str(name)
    if len(text) > LONGEST_NAME:
        text = text[:LONGEST_NAME] + "…"
    return "/" + text.replace("~", "~0").replace("/", "~1")
