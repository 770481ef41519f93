"""Generated files are up to date, published ones are complete, and what was valid once stays valid."""

import hashlib
import json
import subprocess
import sys
import typing
import zipfile
from pathlib import Path
from typing import Any

import pytest
import webtest

import opensentry_ingest
from opensentry_ingest import commands, payload_types, validators
from tests import support
from tests.schemas.conftest import Run
from tests.schemas.test_vectors import fast
from tests.schemas.vectors import ALL, SCHEMAS, TITLES, TYPES, Vector
from tools import schemas as tool

FROZEN = Path(__file__).parent / "frozen"

# A change of a digest breaks a promise: add a file with what is new in a new version instead.
DIGESTS = {
    "1.0.json": "7d09a3b65b15ce2dddc70ff16217d8d1d1c81b321a0358c7af2a6f6c5b33c6ee",
    "1.1.json": "b2d68a6eed86ae30726dcbb34b88a7b44b249c123a7d319aa773515846e1c15a",
}


def test_the_bundle_is_up_to_date() -> None:
    assert tool.BUNDLE.read_text("utf-8") == tool.bundle(), "run `make schemas`"


def test_the_types_for_python_are_up_to_date() -> None:
    assert tool.TYPES.read_text("utf-8") == tool.types(), "run `make schemas`"


def test_the_types_for_typescript_are_up_to_date(run: Run, workshop: Path) -> None:
    run("json2ts -i schemas/ingest.bundle.json --ignoreMinAndMaxItems -o fresh.d.ts")
    fresh = (workshop / "fresh.d.ts").read_text("utf-8")
    assert (SCHEMAS / "index.d.ts").read_text("utf-8") == fresh, "run `make schemas`"


def test_the_types_for_python_have_the_members_of_the_schemas() -> None:
    assert [name for name in TYPES if not hasattr(opensentry_ingest, name)] == []
    for name, schema in validators.schemas().items():
        if "properties" in schema:
            typed = getattr(payload_types, TITLES[name])
            assert set(typed.__required_keys__) == set(schema.get("required", ())), name
            assert set(typing.get_type_hints(typed)) == set(schema["properties"]), name


@pytest.mark.parametrize(("line", "error"), [
    ('item: ErrorItem = {"type": "error", "exception": {}}', ""),
    ('item: IngestPayload = [{"type": "error", "exception": {}}]', ""),
    ('item: ErrorItem = {"type": "error"}', "Missing key"),
    ('item: ErrorItem = {"type": "transaction", "exception": {}}', "Incompatible types"),
    ('item: Span = {"spanId": "a", "op": "b", "durationMs": "1"}', "Incompatible types"),
])  # fmt: skip
def test_mypy_checks_a_payload_against_the_types(tmp_path: Path, line: str, error: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"from opensentry_ingest import ErrorItem, IngestPayload, Span\n\n{line}\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)]
    done = subprocess.run(command, cwd=support.ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) == (not error), done.stdout
    assert error in done.stdout


@pytest.mark.parametrize("name", DIGESTS)
def test_what_was_valid_in_version_1_is_still_valid(name: str) -> None:
    frozen = json.loads((FROZEN / name).read_text("utf-8"))
    assert frozen
    checks = {file: fast(validators.schemas(), file) for file in validators.schemas()}
    assert [entry for entry in frozen if not checks[entry["schema"]](entry["data"])] == []


def test_the_frozen_vectors_are_unchanged() -> None:
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FROZEN.iterdir()} == DIGESTS


def test_the_version_is_that_of_the_newest_frozen_vectors() -> None:
    (version,) = {
        json.loads((SCHEMAS / "package.json").read_text("utf-8"))["version"],
        json.loads((SCHEMAS / "openapi.json").read_text("utf-8"))["info"]["version"],
    }
    assert f"{version.rpartition('.')[0]}.json" == list(DIGESTS)[-1]


def test_the_service_agrees_with_the_vectors(
    client: webtest.TestApp, database: support.Database, each_validator: str
) -> None:
    items = [vector for vector in ALL if vector.schema.startswith(("error", "transaction", "ai", "ingest"))]

    def status(vector: Vector) -> int:
        # A vector of an item type is sent in a batch, because an array alone is an invalid item but a valid payload.
        data: Any = [vector.data] if vector.schema != "ingest-payload.json" else vector.data
        return int(support.post(client, database.key, data, expect_errors=True).status_int)

    assert [vector for vector in items if status(vector) != (202 if vector.valid else 400)] == []


def test_the_wheel_contains_the_schemas_and_their_vectors(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(support.ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for path in [*SCHEMAS.glob("*.json"), *SCHEMAS.glob("vectors/*.json")]:
        assert f"opensentry_ingest/schemas/{path.relative_to(SCHEMAS)}" in names
    assert "opensentry_ingest/payload_types.py" in names


def test_the_command_prints_each_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["schema"]) == 0
    listed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert listed == {title: name for name, title in TITLES.items()}
    for title, name in listed.items():
        for argument in (title, name):
            assert commands.main(["schema", argument]) == 0
            assert capsys.readouterr().out == (SCHEMAS / name).read_text("utf-8")
    for option, name in (("--bundle", "ingest.bundle.json"), ("--openapi", "openapi.json")):
        assert commands.main(["schema", option]) == 0
        assert capsys.readouterr().out == (SCHEMAS / name).read_text("utf-8")


@pytest.mark.parametrize("name", ["Nonsense", "../setup.cfg", "package.json"])
def test_the_command_rejects_an_unknown_schema(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert commands.main(["schema", name]) == 1
    assert f"no schema {name!r}" in capsys.readouterr().err


def test_check_reads_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = json.dumps(support.MINIMAL), '{"type": "error"}'
    for name in ("payloads.jsonl", "payloads.ndjson", "payloads"):
        file = tmp_path / name
        file.write_text(f"{good}\n\n{bad}\n{good}\n{{\n")
        assert commands.main(["check", str(file)]) == 1
        assert capsys.readouterr().out.splitlines() == [
            f"{file}:3: /exception: is required",
            f"{file}:5: (the whole payload): not JSON at line 1, column 2",
        ]
        file.write_text(f"{good}\n{good}\n")
        assert commands.main(["check", str(file)]) == 0


def test_check_reads_a_document_of_several_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "payload.json"
    file.write_text(json.dumps([support.ERROR, {"type": "error"}], indent=2))
    assert commands.main(["check", str(file)]) == 1
    assert capsys.readouterr().out == f"{file}: /1/exception: is required\n"
