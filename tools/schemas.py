"""Makes what is generated from the schema files: the bundle, and the types for Python.

The rules that hold here: the files alone say what is valid, so the bundle accepts and rejects as they do; and a
generator gets from the bundle what it makes good code of: every type by its name, and nothing that is not a type.
"""

import json
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SCHEMAS = ROOT / "schemas"
BUNDLE = SCHEMAS / "ingest.bundle.json"
TYPES = ROOT / "opensentry_ingest" / "payload_types.py"

Schema = dict[str, Any]

HEADER = '''"""The types of the payload, for those who embed the service or write a client in Python.

Generated from `schemas/` by `make schemas`: do not edit.
"""

from typing import Any, Literal, TypeAlias, TypedDict
'''


def main() -> None:
    """Write the generated files."""
    BUNDLE.write_text(bundle(), "utf-8")
    TYPES.write_text(types(), "utf-8")


def files() -> dict[str, Schema]:
    """Return the schema files that refer to each other, by name."""
    found = {path.name: json.loads(path.read_text("utf-8")) for path in sorted(SCHEMAS.glob("*.json"))}
    return {name: schema for name, schema in found.items() if schema.get("$id") == name}


def definitions() -> dict[str, Schema]:
    """Return the schema of each type by the type's name, its references to types as `#/$defs/NAME`."""
    schemas = files()
    found = {schema["title"]: _flat(schema, schemas) for name, schema in schemas.items() if name != "common.json"}
    for schema in found.values():
        # quicktype names a union of objects by its title only where the union says that it is one of objects.
        if "anyOf" in schema and all(_is_object(branch, found) for branch in schema["anyOf"]):
            schema["type"] = "object"
    return found


def bundle() -> str:
    """Return the text of the bundle."""
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "IngestPayload",
        "$comment": "Generated from the other files by `make schemas`: do not edit.",
        "$ref": "#/$defs/IngestPayload",
        "$defs": definitions(),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def types() -> str:
    """Return the text of the module with the types for Python."""
    blocks: dict[str, str] = {}
    found = definitions()
    for schema in found.values():
        _type(schema, found, blocks)
    exported = "".join(f"    {json.dumps(name)},\n" for name in sorted(blocks))
    return "\n\n".join((f"{HEADER}\n__all__ = [\n{exported}]\n", *blocks.values()))


def _flat(node: Any, schemas: dict[str, Schema]) -> Any:
    """Return a schema with the common definitions in place, and without what belongs to a file."""
    if isinstance(node, list):
        return [_flat(child, schemas) for child in node]
    if not isinstance(node, dict):
        return node
    if "$ref" not in node:
        return {key: _flat(value, schemas) for key, value in node.items() if key not in ("$schema", "$id")}
    name, _, definition = node["$ref"].partition("#/$defs/")
    if not definition:
        return {"$ref": "#/$defs/" + schemas[name]["title"]}
    common = schemas[name]["$defs"][definition]
    # A member says first what it is, then what a value of it looks like.
    description = f"{node['description']} {common['description']}"
    return _flat({**common, **{key: value for key, value in node.items() if key != "$ref"}}, schemas) | {
        "description": description
    }


def _is_object(schema: Schema, found: dict[str, Schema]) -> bool:
    target = found[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return target.get("type") == "object"


def _type(schema: Schema, found: dict[str, Schema], blocks: dict[str, str]) -> str:
    """Return a schema's type as Python writes it. What has a name is added to `blocks`, after what it uses."""
    if "$ref" in schema:
        return _type(found[schema["$ref"].rpartition("/")[2]], found, blocks)
    name = schema.get("title", "")
    if "properties" in schema:
        members = {key: _type(member, found, blocks) for key, member in schema["properties"].items()}
        blocks.setdefault(name, _class(name, schema, members))
        return str(name)
    if "anyOf" in schema:
        text = " | ".join(_type(branch, found, blocks) for branch in schema["anyOf"])
    elif "const" in schema or "enum" in schema:
        text = f"Literal[{', '.join(json.dumps(value) for value in schema.get('enum', [schema.get('const')]))}]"
    elif schema["type"] == "array":
        text = f"list[{_type(schema['items'], found, blocks)}]"
    elif schema["type"] == "object":
        values = schema.get("additionalProperties")
        text = f"dict[str, {_type(values, found, blocks) if values else 'Any'}]"
    else:
        text = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}[schema["type"]]
    if not name:
        return text
    blocks.setdefault(name, f"{name}: TypeAlias = {text}\n" + _docstring(schema, ""))
    return str(name)


def _class(name: str, schema: Schema, members: dict[str, str]) -> str:
    """Return a TypedDict. Python 3.10 has no NotRequired, so the required members are in a base class."""
    lines: dict[bool, str] = {True: "", False: ""}
    for key, text in members.items():
        lines[key in schema.get("required", ())] += f"    {key}: {text}\n" + _docstring(schema["properties"][key])
    docstring = _docstring(schema)
    if not lines[True]:
        return f"class {name}(TypedDict, total=False):\n{docstring}\n{lines[False]}"
    base = f"_{name}Required"
    required = f"class {base}(TypedDict):\n{lines[True]}"
    return f"{required}\n\nclass {name}({base}, total=False):\n{docstring}\n{lines[False]}"


def _docstring(schema: Schema, indent: str = "    ") -> str:
    if "$ref" in schema:
        return ""
    lines = textwrap.wrap(schema["description"], 110 - len(indent))
    if len(lines) > 1:
        lines = [*lines, ""]
    return textwrap.indent('"""' + "\n".join(lines), indent) + ('"""\n' if len(lines) == 1 else f'{indent}"""\n')


if __name__ == "__main__":
    main()
