"""The test vectors of the schemas, and the members that the schemas define."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from opensentry_ingest import validators
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
"""The type names, the same in every language."""


class Vector(NamedTuple):
    """One test: a value, and whether the named schema accepts it."""

    schema: str
    description: str
    data: Any
    valid: bool


def vectors() -> Iterator[Vector]:
    """Yield every vector."""
    for path in sorted((SCHEMAS / "vectors").glob("*.json")):
        for group in json.loads(path.read_text("utf-8")):
            for test in group["tests"]:
                description = f"{group['description']}: {test['description']}"
                yield Vector(group["schema"]["$ref"], description, test["data"], test["valid"])


def members() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each member of each type: the name of the file, and the path of the member."""

    def walk(schema: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, child in schema.get("properties", {}).items():
            yield (*path, name)
            yield from walk(child, (*path, name))

    for name, schema in validators.schemas().items():
        for path in walk(schema, ()):
            yield name, path


ALL = list(vectors())
VALID = [vector for vector in ALL if vector.valid]
TITLES = {name: schema["title"] for name, schema in validators.schemas().items()}
