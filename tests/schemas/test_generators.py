"""The commands in docs/schemas.md generate usable code, and the npm package works."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import support
from tests.schemas.conftest import Run
from tests.schemas.vectors import SCHEMAS, TITLES, TYPES, VALID

PAGE = (support.ROOT / "docs" / "schemas.md").read_text("utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)\n```$", PAGE, re.M | re.S)

COMPILE = "tsc --strict --noEmit --module nodenext --target es2022 --types node"

# Names that generators make up if they find none: with quicktype's adjectives, with a number, or generic.
INVENTED = re.compile(r"\b(?:Purple|Fluffy|Tentacled|Sticky|Indigo)\w*|\b[A-Z]\w+\d\b|\b(?:Item|Element|Model|Root)\b")


def command(what: str) -> str:
    (found,) = [command for command in COMMANDS if what in command]
    return str(found)


def declared(code: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, code, re.M))


@pytest.mark.parametrize(
    ("what", "file", "pattern"),
    [
        ("json2ts", "ingest.d.ts", r"^export (?:type|interface) (\w+)"),
        ("--lang go", "ingest.go", r"^type (\w+)"),
        ("--lang rust", "ingest.rs", r"^pub (?:struct|enum|type) (\w+)"),
        ("--lang kotlin", "Ingest.kt", r"^(?:data class|sealed class|enum class|typealias) (\w+)"),
        ("datamodel-codegen", "ingest.py", r"^class (\w+)"),
    ],
)
def test_a_generator_declares_every_type_by_name(run: Run, workshop: Path, what: str, file: str, pattern: str) -> None:
    run(command(what))
    names = declared((workshop / file).read_text("utf-8"), pattern)
    assert set(TYPES) <= names
    assert [name for name in names if INVENTED.fullmatch(name)] == []


def test_the_page_has_one_command_for_each_generator() -> None:
    assert len(COMMANDS) == 5


def test_typescript_compiles_valid_vectors_and_rejects_invalid_items(run: Run, workshop: Path) -> None:
    run(command("json2ts"))
    lines = [f"import type {{ {', '.join(TYPES)} }} from './ingest.js';"]
    for number, vector in enumerate(VALID):
        lines.append(f"export const v{number}: {TITLES[vector.schema]} = {json.dumps(vector.data)};")
    wrong = {
        "ErrorItem": {"type": "error"},
        "TransactionItem": {"type": "transaction", "name": "a", "traceId": "b", "durationMs": "1"},
        "AiGenerationItem": {"type": "error", "provider": "a", "model": "b", "inputTokens": 1},
        "IngestItem": {"type": "log"},
        "IngestPayload": [{"type": "error"}],
        "Span": {"spanId": "a", "op": "b"},
        "StackFrame": {"lineno": "1"},
        "Breadcrumb": {"data": "text"},
    }
    assert set(wrong) == set(TYPES)
    for name, data in wrong.items():
        lines += ["// @ts-expect-error", f"export const wrong{name}: {name} = {json.dumps(data)};"]
    (workshop / "vectors.ts").write_text("\n".join(lines))
    run(f"{COMPILE} vectors.ts")


def test_pydantic_accepts_every_valid_vector(run: Run, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(command("datamodel-codegen"))
    spec = importlib.util.spec_from_file_location("generated_ingest", workshop / "ingest.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "generated_ingest", module)
    spec.loader.exec_module(module)
    for vector in VALID:
        getattr(module, TITLES[vector.schema]).model_validate_json(json.dumps(vector.data))
    item: Any = module.ErrorItem.model_validate(support.ERROR)
    assert json.loads(item.model_dump_json(exclude_none=True))["exception"] == support.ERROR["exception"]
    with pytest.raises(ValueError, match="exception"):
        module.ErrorItem.model_validate({"type": "error"})


def test_the_go_types_compile_and_round_trip_an_item(run: Run, workshop: Path) -> None:
    support.tool("go")
    run(command("--lang go"))
    (workshop / "generated" / "ingest").mkdir(parents=True)
    (workshop / "ingest.go").rename(workshop / "generated" / "ingest" / "ingest.go")
    (workshop / "generated" / "go.mod").write_text("module generated\n\ngo 1.18\n")
    (workshop / "generated" / "main.go").write_text(
        """package main

import (
	"encoding/json"
	"generated/ingest"
	"os"
)

func main() {
	var item ingest.ErrorItem
	if err := json.NewDecoder(os.Stdin).Decode(&item); err != nil {
		panic(err)
	}
	json.NewEncoder(os.Stdout).Encode(item)
}
"""
    )
    environ = f"GOCACHE={workshop}/cache GOFLAGS=-mod=mod GOPROXY=off"
    item = json.dumps(support.ERROR)
    (workshop / "item.json").write_text(item)
    out = run(f"cd generated && {environ} go vet ./... && {environ} go run . < ../item.json")
    assert json.loads(out) == support.ERROR


def test_the_npm_package_compiles_after_installation(run: Run, workshop: Path, node_modules: Path) -> None:
    (workshop / "node_modules").unlink()
    (tarball,) = run("npm pack --silent ./schemas").split()
    run(f"npm install --silent --no-package-lock --no-audit --no-fund ./{tarball}")
    installed = workshop / "node_modules" / "opensentry-ingest-schemas"
    present = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    wanted = {str(path.relative_to(SCHEMAS)) for path in SCHEMAS.rglob("*.json")} | {"index.d.ts"}
    assert wanted <= present
    (workshop / "package.json").write_text('{"type": "module"}')
    (workshop / "program.ts").write_text(
        """import type { ErrorItem, IngestPayload } from "opensentry-ingest-schemas";
import bundle from "opensentry-ingest-schemas/ingest.bundle.json" with { type: "json" };
import vectors from "opensentry-ingest-schemas/vectors/span.json" with { type: "json" };

const item: ErrorItem = { type: "error", exception: { type: "TypeError" } };
export const payload: IngestPayload = [item];
// @ts-expect-error
export const wrong: IngestPayload = [{ type: "error" }];
console.log(bundle.title, vectors.length);
"""
    )
    options = "--resolveJsonModule --skipLibCheck --typeRoots"
    build = "tsc --strict --module nodenext --target es2022 --outDir built"
    run(f"{build} {options} {node_modules}/@types program.ts")
    assert run("node built/program.js").split() == ["IngestPayload", "1"]
