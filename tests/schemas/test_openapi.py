"""The OpenAPI description: a validator accepts it, it is complete, and the live service does what it says."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import openapi_spec_validator
from openapi_spec_validator.readers import read_from_filename

from opensentry_ingest import app, errors
from tests import support
from tests.schemas.vectors import SCHEMAS

OPENAPI: dict[str, Any] = json.loads((SCHEMAS / "openapi.json").read_text("utf-8"))


def test_a_validator_accepts_it() -> None:
    document, uri = read_from_filename(str(SCHEMAS / "openapi.json"))
    openapi_spec_validator.validate(document, base_uri=uri)


def test_it_has_every_route_method_status_and_text_of_the_service() -> None:
    for path, methods in app.METHODS.items():
        if path != "/metrics":  # An operator's own, and only there with an extra.
            assert sorted(OPENAPI["paths"][path]) == sorted(method.lower() for method in methods)
    responses = OPENAPI["paths"]["/v1/ingest"]["post"]["responses"]
    text = json.dumps(OPENAPI)
    for error in errors.RequestError.__subclasses__():
        if error in (errors.NotFound, errors.MethodNotAllowed):  # Not of this path and method.
            assert f'"{error.reason}"' in text
            continue
        name = responses[str(error.status)]["$ref"].rpartition("/")[2]
        response = OPENAPI["components"]["responses"][name]
        assert error.reason in response["content"]["application/json"]["schema"]["properties"]["error"]["enum"]
        assert {header for header, _ in error.headers} <= set(response["headers"])


def test_schemathesis_finds_nothing_against_a_live_server(
    database: support.Database, server: support.Server, tmp_path: Path
) -> None:
    report = tmp_path / "report.xml"
    command = [str(Path(sys.executable).parent / "st"), "run", str(SCHEMAS / "openapi.json"), "--url", server.url]
    command += ["--header", f"X-Open-Sentry-Key: {database.key}", "--checks", "all", "--max-examples", "100"]
    # The same cases each time: a change that breaks nothing must not fail by chance.
    command += ["--generation-deterministic"]
    command += ["--report", "junit", "--report-junit-path", str(report), "--continue-on-failure"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-8000:]
    assert re.search(r"Operations:\s+8 ", done.stdout) or "8 tested" in done.stdout, done.stdout[-3000:]
    assert database.counts()["events"] > 0
    assert database.counts()["transactions"] > 0
    assert database.counts()["ai_generations"] > 0
