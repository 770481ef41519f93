"""What is wrong with a payload, for people to read.

The rule that holds here: a detail quotes the schema and never the payload, and an item is described by the rules of
its own `type`, not as something that no branch of a union accepts.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from opensentry_ingest import validators


class Fault(NamedTuple):
    """One thing that is wrong: where (a JSON Pointer, RFC 6901), and what."""

    pointer: str
    detail: str


def find(value: Any, most: int | None = None) -> list[Fault]:
    """Return what is wrong with a parsed payload by the schema, at most `most` faults; [] where it is valid."""
    return list(dict.fromkeys(islice(_faults(validators.reference().iter_errors(value)), most)))


_DETAILS = {
    "const": "must be {}",
    "enum": "must be one of {}",
    "maximum": "must be at most {}",
    "maxItems": "must have at most {} items",
    "minimum": "must be at least {}",
    "minItems": "must have at least {} items",
    "minLength": "must have at least {} characters",
    "type": "must be of type {}",
}


def _faults(errors: Iterable[Any]) -> Iterator[Fault]:
    for error in errors:
        if error.validator == "anyOf":
            yield from _faults_of_union(error)
        elif error.validator == "required":
            for name in error.validator_value:
                if name not in error.instance:
                    yield _fault(error, "is required", name)
        elif error.validator in ("pattern", "not"):
            yield _fault(error, "is not what it must be: " + error.schema["description"])
        else:
            wanted = error.validator_value
            texts = wanted if isinstance(wanted, list) else [wanted]
            yield _fault(error, _DETAILS[str(error.validator)].format(", ".join(map(str, texts))))


def _faults_of_union(error: Any) -> Iterator[Fault]:
    """Yield what is wrong by the rules of the one type that the client meant."""
    branches = _branches(error)
    meant = min(branches, key=_strangeness)
    if _strangeness(meant) == 0 or meant[0].validator == "anyOf":
        yield from _faults(meant)
    elif not isinstance(error.instance, dict):
        yield _fault(error, "must be an object" if error.path else "must be an object or an array of objects")
    elif "type" not in error.instance:
        yield _fault(error, "is required", "type")
    else:
        types = [sub.validator_value for branch in branches for sub in branch if sub.validator == "const"]
        yield _fault(error, "must be one of " + ", ".join(types), "type")


def _branches(error: Any) -> list[list[Any]]:
    """Return the errors of each branch of a union."""
    branches: dict[Any, list[Any]] = {}
    for suberror in error.context or ():
        branches.setdefault(suberror.schema_path[0], []).append(suberror)
    return list(branches.values())


def _strangeness(errors: list[Any]) -> int:
    """Return how far a value is from a branch: 0, its `type` is this branch's; 1, another; 2, it is no such thing."""
    worst = 0
    for error in errors:
        if error.path:
            if list(error.path) == ["type"]:
                worst = max(worst, 1)
        elif error.validator == "anyOf":
            worst = max(worst, min(map(_strangeness, _branches(error))))
        elif error.validator == "type":
            worst = 2
        elif error.validator == "required" and "type" not in error.instance:
            worst = max(worst, 1)
    return worst


def _fault(error: Any, detail: str, *more: str) -> Fault:
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in (*error.absolute_path, *more))
    return Fault("".join("/" + part for part in parts), detail)
