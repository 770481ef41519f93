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

from tests.schemas.vectors import ALL, TITLES, TYPES, Vector, files, members

Path = tuple[str | int, ...]
Schemas = dict[str, dict[str, Any]]

KINDS = {"required", "type", "minimum", "minLength", "minItems", "maxItems", "enum", "const", "pattern", "not", "items"}
KINDS |= {"anyOf"}

# What `not` refuses implies that it is a text, so no value can tell. `type` stays for readers and generators.
IMPLIED = ("common.json#/$defs/timestamp/type: removed", "common.json#/$defs/timestamp/type: or null")

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
    """Yield the alternatives of a pattern that are in no group."""
    depth = start = 0
    for index, character in enumerate(pattern):
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            yield pattern[start:index]
            start = index + 1
    yield pattern[start:]


def mutants() -> Iterator[tuple[str, str, Schemas]]:
    """Yield the schemas with one constraint of one file changed: what was done, the name of the file, the schemas."""
    for name, schema in files().items():
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


MUTANTS = [mutant for mutant in mutants() if mutant[0] not in IMPLIED]


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


def test_every_kind_of_constraint_is_changed() -> None:
    changed = {what.partition(": ")[0].rpartition("/")[2] for what, _, _ in MUTANTS}
    assert changed >= KINDS | {"$ref", "maximum"}


@pytest.mark.parametrize(("name", "member"), [(name, ".".join(path)) for name, path in members()])
def test_each_member_has_a_vector_where_it_is_absent_right_and_wrong(name: str, member: str) -> None:
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
            seen.add("right")
        elif any(list(error.path)[: len(path)] == path for error in reference(files(), name).iter_errors(vector.data)):
            seen.add("wrong")
    assert seen == {"absent", "right", "wrong"}


def test_each_exported_type_has_a_file_whose_title_is_its_name() -> None:
    assert sorted(TITLES.values()) == sorted([*TYPES, "Common"])


def test_each_member_is_described_and_has_examples_that_are_right() -> None:
    for name, path in members():
        node = files()[name]
        for part in path:
            node = node["properties"][part]
        assert node["description"].endswith((".", "`."))
        assert node["examples"]
        registry: referencing.Registry[Any] = referencing.Registry().with_contents(files().items())
        for example in node["examples"]:
            jsonschema.Draft202012Validator(node, registry=registry).validate(example)


def test_only_keywords_that_every_validator_asserts_are_used() -> None:
    known = ANNOTATIONS | {"$defs", "$ref", "properties", "additionalProperties", "maximum"} | KINDS
    for schema in files().values():
        for path, node in nodes(schema):
            assert set(node) <= known, path
