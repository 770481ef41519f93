"""Generates files from the schema files: the bundle, and the types for Python.

The rules that hold here: the bundle accepts and rejects exactly what the schema files do, and it is written so that a
code generator can name every type: each type is in `$defs` by its name, and nothing else is.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from opensentry_ingest import validators

ROOT = Path(__file__).parent.parent
BUNDLE = ROOT / "schemas" / "ingest.bundle.json"
TYPES = ROOT / "opensentry_ingest" / "payload_types.py"

Schema = dict[str, Any]

HEADER = '''"""The types of the payload, for applications that embed the service and for clients in Python.

Generated from `schemas/` by `make schemas`: do not edit.
"""

# ruff: noqa: E501

import sys
from typing import Any, Literal, TypeAlias

if sys.version_info >= (3, 11):
    from typing import NotRequired, TypedDict
else:
    from typing_extensions import NotRequired, TypedDict

'''


def main() -> None:
    """Write the generated files."""
    BUNDLE.write_text(bundle(), "utf-8")
    TYPES.write_text(types(), "utf-8")


def bundle() -> str:
    """Return the text of the bundle."""
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "IngestPayload",
        "$comment": "Generated from the other files by `make schemas`: do not edit.",
        "$ref": "#/$defs/IngestPayload",
        "$defs": _definitions(),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def types() -> str:
    """Return the text of the module with the types for Python, generated from the bundle on disk."""
    options = "--input-file-type jsonschema --output-model-type typing.TypedDict --target-python-version 3.11 "
    options += "--use-title-as-name --enum-field-as-literal all --use-schema-description --use-field-description "
    options += "--use-single-line-docstring --use-double-quotes --disable-future-imports --formatters builtin"
    command = [sys.executable, "-m", "datamodel_code_generator", "--input", str(BUNDLE), *options.split()]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    # The generator can import for one version of Python only, so its imports are replaced.
    return HEADER + output.partition(" TypedDict\n\n")[2]


def _definitions() -> dict[str, Schema]:
    """Return the schema of each type by the type's name. References to types become `#/$defs/NAME`."""
    schemas = validators.schemas()
    found = {schema["title"]: _flat(schema, schemas) for name, schema in schemas.items() if name != "common.json"}
    for schema in found.values():
        # quicktype names a union of objects by its title only if the union has the type `object`.
        if "anyOf" in schema and all(_is_object(branch, found) for branch in schema["anyOf"]):
            schema["type"] = "object"
    return found


def _flat(node: Any, schemas: dict[str, Schema]) -> Any:
    """Return a schema with the common definitions inlined, and without the keywords that only a file has."""
    if isinstance(node, list):
        return [_flat(child, schemas) for child in node]
    if not isinstance(node, dict):
        return node
    if "$ref" not in node:
        return {key: _flat(value, schemas) for key, value in node.items() if key != "$id"}
    name, _, definition = node["$ref"].partition("#/$defs/")
    if not definition:
        return {"$ref": "#/$defs/" + schemas[name]["title"]}
    common = schemas[name]["$defs"][definition]
    # What the member means comes first, then what its values look like.
    description = f"{node['description']} {common['description']}"
    return _flat({**common, **{key: value for key, value in node.items() if key != "$ref"}}, schemas) | {
        "description": description
    }


def _is_object(schema: Schema, found: dict[str, Schema]) -> bool:
    target = found[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return target.get("type") == "object"


if __name__ == "__main__":
    main()
