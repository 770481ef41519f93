"""Each vector agrees with the schema, and together they detect any constraint that is removed or loosened."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import jsonschema_rs
import pytest
import referencing
from referencing.jsonschema import DRAFT202012

from opensentry_ingest import validators
from tests.schemas.vectors import ALL, TITLES, TYPES, Vector, members

Path = tuple[str | int, ...]
Schemas = dict[str, dict[str, Any]]

KINDS = {"required", "type", "minimum", "minLength", "minItems", "maxItems", "enum", "const", "pattern", "not", "items"}
KINDS |= {"anyOf"}

# `not` rejects whatever is not a string, so `type` is redundant. It is kept for readers and generators.
IMPLIED = ("common.json#/$defs/timestamp/type: removed", "common.json#/$defs/timestamp/type: or null")

ANNOTATIONS = {"$schema", "$id", "$comment", "title", "description", "examples", "default"}


def fast(schemas: Schemas, name: str) -> Callable[[Any], bool]:
    registry = jsonschema_rs.Registry(list(schemas.items()))
    return jsonschema_rs.Draft202012Validator({"$ref": name}, registry=registry).is_valid


def reference(schemas: Schemas, name: str) -> jsonschema.Draft202012Validator:
    empty: referencing.Registry[Any] = referencing.Registry()
    registry = empty.with_contents(schemas.items(), default_specification=DRAFT202012)
    return jsonschema.Draft202012Validator({"$ref": name}, registry=registry)


def nodes(schema: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a schema and its subschemas, each with its path."""
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
    """Yield mistaken values of a keyword, each with a description of the change."""
    if keyword in ("minimum", "minLength", "minItems") or keyword in ("maximum", "maxItems"):
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
        alternatives = list(top_level(value))
        for index in range(len(alternatives) if len(alternatives) > 1 else 0):
            yield f"without the alternative {index}", "|".join(alternatives[:index] + alternatives[index + 1 :])


def top_level(pattern: str) -> Iterator[str]:
    """Yield the top-level alternatives of a pattern."""
    depth = start = 0
    for index, character in enumerate(pattern):
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            yield pattern[start:index]
            start = index + 1
    yield pattern[start:]


def mutants() -> Iterator[tuple[str, str, Schemas]]:
    """Yield the schemas with one constraint changed: a description, the name of the changed file, and the schemas."""
    for name, schema in validators.schemas().items():
        for path, node in nodes(schema):
            for keyword, value in node.items():
                if keyword in ANNOTATIONS or keyword in ("$defs", "properties"):
                    continue
                for what, changed in [("removed", None), *loosened(keyword, value)]:
                    mutated = copy.deepcopy(schema)
                    target: Any = mutated
                    for part in path:
                        target = target[part]
                    if changed is None:
                        del target[keyword]
                    else:
                        target[keyword] = changed
                    where = "/".join(map(str, (*path, keyword)))
                    yield f"{name}#/{where}: {what}", name, validators.schemas() | {name: mutated}


def detected(schemas: Schemas, changed: str, check: Callable[[Schemas, str], Callable[[Any], bool]]) -> bool:
    """Return whether any vector gets a different verdict. Vectors of the changed file are tried first."""
    checks: dict[str, Callable[[Any], bool]] = {}
    for vector in sorted(ALL, key=lambda vector: vector.schema != changed):
        if vector.schema not in checks:
            checks[vector.schema] = check(schemas, vector.schema)
        if checks[vector.schema](vector.data) != vector.valid:
            return True
    return False


MUTANTS = [mutant for mutant in mutants() if mutant[0] not in IMPLIED]


@pytest.mark.parametrize("vector", ALL, ids=lambda vector: vector.description)
def test_both_python_validators_agree_with_each_vector(vector: Vector) -> None:
    assert fast(validators.schemas(), vector.schema)(vector.data) == vector.valid
    assert reference(validators.schemas(), vector.schema).is_valid(vector.data) == vector.valid


@pytest.mark.parametrize(("what", "changed", "schemas"), MUTANTS, ids=[what for what, _, _ in MUTANTS])
def test_a_changed_constraint_is_detected_by_a_vector(what: str, changed: str, schemas: Schemas) -> None:
    # In jsonschema-rs `$` matches only at the very end, so only jsonschema shows whether a final newline is refused.
    assert detected(schemas, changed, fast) or detected(
        schemas, changed, lambda schemas, name: reference(schemas, name).is_valid
    ), what


def test_the_mutants_cover_every_keyword() -> None:
    changed = {what.partition(": ")[0].rpartition("/")[2] for what, _, _ in MUTANTS}
    assert changed >= KINDS | {"$ref", "maximum"}


@pytest.mark.parametrize(("name", "member"), [(name, ".".join(path)) for name, path in members()])
def test_each_member_has_vectors_with_it_absent_valid_and_invalid(name: str, member: str) -> None:
    path = member.split(".")
    seen = set()
    for vector in ALL:
        parent = vector.data
        for part in path[:-1]:
            parent = parent.get(part) if isinstance(parent, dict) else None
        if vector.schema != name or not isinstance(parent, dict):
            continue
        if path[-1] not in parent:
            seen.add("absent")
        elif vector.valid:
            seen.add("valid")
        elif any(
            list(error.path)[: len(path)] == path
            for error in reference(validators.schemas(), name).iter_errors(vector.data)
        ):
            seen.add("invalid")
    assert seen == {"absent", "valid", "invalid"}


def test_each_exported_type_is_the_title_of_a_file() -> None:
    assert sorted(TITLES.values()) == sorted([*TYPES, "Common"])


def test_each_member_has_a_description_and_valid_examples() -> None:
    for name, path in members():
        node = validators.schemas()[name]
        for part in path:
            node = node["properties"][part]
        assert node["description"].endswith((".", "`."))
        assert node["examples"]
        for example in node["examples"]:
            jsonschema.Draft202012Validator(node, registry=validators.registry()).validate(example)


def test_the_schemas_use_only_keywords_that_every_validator_asserts() -> None:
    known = ANNOTATIONS | {"$defs", "$ref", "properties", "additionalProperties", "maximum"} | KINDS
    for schema in validators.schemas().values():
        for path, node in nodes(schema):
            assert set(node) <= known, path
