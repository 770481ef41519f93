"""The npm validators agree with every vector. The Python validators are in test_vectors."""

import json
import subprocess
from pathlib import Path

from tests import support
from tests.schemas.vectors import ALL, SCHEMAS


def test_the_npm_validators_agree_with_every_vector(node_modules: Path) -> None:
    script = Path(__file__).with_name("validators.mjs")
    command = [support.tool("node"), str(script), str(SCHEMAS)]
    result = json.loads(subprocess.check_output(command, text=True, timeout=120))
    assert set(result) == {"ajv", "@cfworker/json-schema", "@hyperjump/json-schema"}
    for name, verdicts in result.items():
        # Each vector is checked against the files and against the bundle.
        assert verdicts == {"verdicts": 2 * len(ALL), "wrong": []}, name


def test_a_vector_with_the_wrong_verdict_is_reported(node_modules: Path, tmp_path: Path) -> None:
    vectors = tmp_path / "vectors"
    vectors.mkdir()
    for path in SCHEMAS.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    test = {"description": "wrong", "data": {}, "valid": True}
    (vectors / "span.json").write_text(
        json.dumps([{"description": "A span", "schema": {"$ref": "span.json"}, "tests": [test]}])
    )
    script = Path(__file__).with_name("validators.mjs")
    result = json.loads(subprocess.check_output([support.tool("node"), str(script), str(tmp_path)], timeout=120))
    wrong = ["file span.json: A span: wrong", "bundle span.json: A span: wrong"]
    assert [verdicts["wrong"] for verdicts in result.values()] == [wrong] * 3
