"""The schema files and their test vectors, as the suite uses them."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.support import ROOT

SCHEMAS = ROOT / "schemas"

TYPES = (
    "AiGenerationItem",
    "Breadcrumb",
    "ErrorItem",
    "IngestItem",
    "IngestPayload",
    "Span",
    "StackFrame",
    "TransactionItem",
)
"""The names that are promised in every language."""


class Vector(NamedTuple):
    """One test: a value, and whether the schema that is named accepts it."""

    schema: str
    description: str
    data: Any
    valid: bool


def files() -> dict[str, dict[str, Any]]:
    """Return the schema files that refer to each other, by name."""
    found = {path.name: json.loads(path.read_text("utf-8")) for path in sorted(SCHEMAS.glob("*.json"))}
    return {name: schema for name, schema in found.items() if schema.get("$id") == name}


def vectors() -> Iterator[Vector]:
    """Yield every vector."""
    for path in sorted((SCHEMAS / "vectors").glob("*.json")):
        for group in json.loads(path.read_text("utf-8")):
            for test in group["tests"]:
                description = f"{group['description']}: {test['description']}"
                yield Vector(group["schema"]["$ref"], description, test["data"], test["valid"])


def members() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each member of each type: the name of the file, and the names that lead to the member."""

    def walk(schema: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, child in schema.get("properties", {}).items():
            yield (*path, name)
            yield from walk(child, (*path, name))

    for name, schema in files().items():
        for path in walk(schema, ()):
            yield name, path


ALL = list(vectors())
VALID = [vector for vector in ALL if vector.valid]
TITLES = {name: schema["title"] for name, schema in files().items()}
