"""The OpenAPI description is valid and complete, and the running service conforms to it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import openapi_spec_validator
from openapi_spec_validator.readers import read_from_filename

from opensentry_ingest import app, errors
from opensentry_ingest.protocols import otlp
from tests import support
from tests.schemas.vectors import SCHEMAS

OPENAPI: dict[str, Any] = json.loads((SCHEMAS / "openapi.json").read_text("utf-8"))


def test_the_description_is_valid() -> None:
    document, uri = read_from_filename(str(SCHEMAS / "openapi.json"))
    openapi_spec_validator.validate(document, base_uri=uri)


def test_the_description_has_every_route_method_status_and_error() -> None:
    for path, methods in app.METHODS.items():
        # One is for operators only, and needs an extra; the others speak the protocols of Sentry and of OpenTelemetry,
        # which describe them.
        if path not in ("/metrics", otlp.ROUTE) and not path.startswith("/api/"):
            assert sorted(OPENAPI["paths"][path]) == sorted(method.lower() for method in methods)
    responses = OPENAPI["paths"]["/v1/ingest"]["post"]["responses"]
    text = json.dumps(OPENAPI)
    for error in errors.RequestError.__subclasses__():
        if error in (errors.InvalidProtobuf, errors.UnsupportedMediaType):  # OpenTelemetry's.
            continue
        if error in (errors.NotFound, errors.MethodNotAllowed):  # Other paths and methods.
            assert f'"{error.reason}"' in text
            continue
        name = responses[str(error.status)]["$ref"].rpartition("/")[2]
        response = OPENAPI["components"]["responses"][name]
        assert error.reason in response["content"]["application/json"]["schema"]["properties"]["error"]["enum"]
        assert {header for header, _ in error.headers} <= set(response["headers"])


def test_schemathesis_finds_no_failure_in_a_running_server(
    database: support.Database, server: support.Server, tmp_path: Path
) -> None:
    report = tmp_path / "report.xml"
    command = [str(Path(sys.executable).parent / "st"), "run", str(SCHEMAS / "openapi.json"), "--url", server.url]
    command += ["--header", f"X-Open-Sentry-Key: {database.key}", "--checks", "all", "--max-examples", "100"]
    # The same cases in each run, so that no run fails by chance.
    command += ["--generation-deterministic"]
    command += ["--report", "junit", "--report-junit-path", str(report), "--continue-on-failure"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-8000:]
    assert re.search(r"Operations:\s+8 ", done.stdout) or "8 tested" in done.stdout, done.stdout[-3000:]
    assert database.counts()["events"] > 0
    assert database.counts()["transactions"] > 0
    assert database.counts()["ai_generations"] > 0
