"""The vectors: each agrees with the schema, and together they notice any constraint that is removed or loosened."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import jsonschema_rs
import pytest
import referencing

from tests.schemas.vectors import ALL, SCHEMAS, TYPES, Vector, files

Path = tuple[str | int, ...]
Schemas = dict[str, dict[str, Any]]

ANNOTATIONS = {"$schema", "$id", "$comment", "title", "description", "examples", "default"}


def fast(schemas: Schemas, name: str) -> Callable[[Any], bool]:
    registry = jsonschema_rs.Registry(list(schemas.items()))
    return jsonschema_rs.Draft202012Validator({"$ref": name}, registry=registry).is_valid


def reference(schemas: Schemas, name: str) -> jsonschema.Draft202012Validator:
    registry: referencing.Registry[Any] = referencing.Registry().with_contents(schemas.items())
    return jsonschema.Draft202012Validator({"$ref": name}, registry=registry)


def nodes(schema: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each schema within a schema, with where it is."""
    yield path, schema
    for key in ("properties", "$defs"):
        for name, child in schema.get(key, {}).items():
            yield from nodes(child, (*path, key, name))
    for key in ("items", "additionalProperties", "not"):
        if key in schema:
            yield from nodes(schema[key], (*path, key))
    for index, child in enumerate(schema.get("anyOf", ())):
        yield from nodes(child, (*path, "anyOf", index))


def loosened(keyword: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a keyword's value could be by mistake, each with what was done to it."""
    if keyword in ("minimum", "minLength", "minItems"):
        yield "lower", value - 1
        yield "higher", value + 1
    elif keyword in ("maximum", "maxItems"):
        yield "lower", value - 1
        yield "higher", value + 1
    elif keyword in ("required", "enum", "anyOf"):
        for index, name in enumerate(value):
            yield f"without {json.dumps(name)}", value[:index] + value[index + 1 :]
        if keyword == "enum":
            yield "with another value", [*value, ""]
    elif keyword == "const":
        yield "another value", value + "s"
    elif keyword == "type":
        yield "or null", [value, "null"]
        if value == "integer":
            yield "a number", "number"
    elif keyword == "pattern":
        for match in re.finditer(r"\[[^]]+\]|[\^$?]|\{[^}]+\}", value):
            if match[0][0] == "[":
                yield f"any character at {match.start()}", value[: match.start()] + "." + value[match.end() :]
            elif match[0][0] == "{":
                yield f"any number at {match.start()}", value[: match.start()] + "+" + value[match.end() :]
            else:
                yield f"without {match[0]} at {match.start()}", value[: match.start()] + value[match.end() :]
        for match in re.finditer(r"(?<=[(|])[^()|]+(?=[)|])|(?<=\|)[^|]*\([^)]*\)[^|]*(?=\||$)", value):
            changed = value[: match.start()] + "#" + value[match.end() :]
            yield f"without the alternative at {match.start()}", changed


def mutants() -> Iterator[tuple[str, str, Schemas]]:
    """Yield the schemas with one constraint of one file changed: what was done, the name of the file, the schemas."""
    for name, schema in files().items():
        for path, node in nodes(schema):
            for keyword, value in node.items():
                if keyword in ANNOTATIONS or keyword in ("$defs", "properties"):
                    continue
                for what, changed in [("removed", None), *loosened(keyword, value)]:
                    mutated = copy.deepcopy(schema)
                    target = mutated
                    for part in path:
                        target = target[part]
                    if changed is None:
                        del target[keyword]
                    else:
                        target[keyword] = changed
                    where = "/".join(map(str, (*path, keyword)))
                    yield f"{name}#/{where}: {what}", name, files() | {name: mutated}


def notices(schemas: Schemas, changed: str, check: Callable[[Schemas, str], Callable[[Any], bool]]) -> bool:
    """Return whether a vector has another verdict. Those of the changed file's own type are asked first."""
    checks: dict[str, Callable[[Any], bool]] = {}
    for vector in sorted(ALL, key=lambda vector: vector.schema != changed):
        if vector.schema not in checks:
            checks[vector.schema] = check(schemas, vector.schema)
        if checks[vector.schema](vector.data) != vector.valid:
            return True
    return False


MUTANTS = list(mutants())


@pytest.mark.parametrize("vector", ALL, ids=lambda vector: vector.description)
def test_both_python_validators_agree_with_the_vector(vector: Vector) -> None:
    assert fast(files(), vector.schema)(vector.data) == vector.valid
    assert reference(files(), vector.schema).is_valid(vector.data) == vector.valid


@pytest.mark.parametrize(("what", "changed", "schemas"), MUTANTS, ids=[what for what, _, _ in MUTANTS])
def test_a_constraint_that_is_changed_is_noticed_by_a_vector(what: str, changed: str, schemas: Schemas) -> None:
    # In jsonschema-rs `$` matches at the end alone, so what refuses a final newline shows in jsonschema only.
    assert notices(schemas, changed, fast) or notices(
        schemas, changed, lambda schemas, name: reference(schemas, name).is_valid
    ), what
