"""Coverage-guided fuzzing with atheris, from the bytes of a request to its response.

The service and its PostgreSQL are real. Any undocumented response, such as a 500, and any exception ends the run and
saves the input that caused it. The first byte of an input selects how the request is sent; the rest is the body. Run it
with `make fuzz`. atheris has wheels for CPython 3.11 to 3.14 on Linux.
"""

import gzip
import io
import json
import multiprocessing
import os
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

try:
    import atheris
except ImportError:
    sys.exit("fuzzing needs atheris, which the extra `test` installs for CPython 3.11 to 3.14 on Linux x86-64")

with atheris.instrument_imports(include=["opensentry_ingest", "json", "jsonschema"]):
    from opensentry_ingest import admin, create_app, embedded, migrations

import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

DOCUMENTED = {
    200: [],
    202: [],
    400: ["Invalid JSON", "Invalid payload", "Invalid idempotency key", "Invalid protobuf"],
    401: ["Missing auth key"],
    403: ["Invalid DSN key"],
    413: ["Payload too large"],
    415: ["Unsupported content encoding"],
}

DICTIONARY = Path(__file__).parent / "json.dict"

SEEDS = [
    {"type": "error", "exception": {"type": "E", "value": "\0\ud800", "stacktrace": {"frames": [{"lineno": 1}]}}},
    {
        "type": "transaction",
        "name": "n",
        "traceId": "t",
        "durationMs": 1.0,
        "spans": [{"spanId": "s", "op": "o", "durationMs": 2}],
    },
    [
        {
            "type": "ai_generation",
            "provider": "p",
            "model": "m",
            "inputTokens": 1,
            "totalCostUsd": 0.5,
            "tags": {"a": "b"},
        }
    ],
]

EVENT = {
    "event_id": "c0ffee00c0ffee00c0ffee00c0ffee00",
    "timestamp": 1.5,
    "exception": {"values": [{"type": "E", "stacktrace": {"frames": [{"lineno": 1, "in_app": True}]}}]},
    "tags": [["a", 1]],
    "breadcrumbs": {"values": [{"timestamp": 1}]},
    "contexts": {"trace": {"trace_id": "t", "op": "gen_ai.chat", "status": "ok"}},
    "spans": [{"span_id": "s", "start_timestamp": 1, "timestamp": "2026-05-30T12:00:00Z", "op": "gen_ai.chat"}],
}

ENVELOPES = [
    b'{}\n{"type":"%s"}\n%s\n' % (kind, json.dumps(EVENT).encode()) for kind in (b"event", b"transaction", b"session")
] + [
    b'{}\n{"type":"span"}\n{"items":[{"trace_id":"t","span_id":"s","name":"n","start_timestamp":1,"end_timestamp":2,'
    b'"attributes":{"sentry.op":{"type":"string","value":"gen_ai.chat"}}}]}',
    b'{"dsn":"http://k@h/1"}\n{"type":"attachment","length":3}\na\nb\n{"type":"event","length":2}\n{}',
]

TRACES = {
    "resourceSpans": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "s"}}]},
            "scopeSpans": [
                {
                    "spans": [
                        {"traceId": "a" * 32, "spanId": "b" * 16, "name": "n", "endTimeUnixNano": "1"},
                        {
                            "traceId": "a" * 32,
                            "spanId": "c" * 16,
                            "parentSpanId": "b" * 16,
                            "kind": 3,
                            "status": {"code": 2},
                            "attributes": [
                                {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}},
                                {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "1"}},
                                {"key": "l", "value": {"arrayValue": {"values": [{"kvlistValue": {"values": []}}]}}},
                            ],
                            "events": [{"name": "exception", "timeUnixNano": 1}],
                        },
                    ]
                }
            ],
        }
    ]
}


def traces_in_protobuf() -> bytes:
    """Return a request of OTLP in protobuf."""
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(trace_id=b"a" * 16, span_id=b"b" * 8, name="n")
    span.attributes.add(key="gen_ai.operation.name").value.string_value = "chat"
    span.attributes.add(key="d").value.double_value = float("nan")
    span.attributes.add(key="k").value.kvlist_value.values.add(key="i").value.int_value = -1
    span.events.add(name="exception").attributes.add(key="exception.type").value.bytes_value = b"x"
    content: bytes = request.SerializeToString()
    return content


def environ_of(data: bytes, key: str) -> dict[str, Any]:
    """Return the WSGI environ of an input."""
    how, body = (data[0], data[1:]) if data else (0, b"")
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "PATH_INFO": "/v1/ingest", "QUERY_STRING": f"key={key}"}
    if how & 64:
        environ["PATH_INFO"] = "/api/1/store/" if how & 128 else "/api/1/envelope/"
    elif how & 128:
        environ["PATH_INFO"] = "/v1/traces"
        environ["CONTENT_TYPE"] = "application/x-protobuf" if how & 4 else "application/json"
    # In half of the inputs the fuzzer's bytes are compressed here. In a quarter they are sent as compressed data.
    if how & 3 == 1:
        environ["HTTP_CONTENT_ENCODING"], body = "gzip", gzip.compress(body, mtime=0)
    elif how & 3 == 2:
        environ["HTTP_CONTENT_ENCODING"], body = "deflate", zlib.compress(body)
    elif how & 3 == 3:
        environ["HTTP_CONTENT_ENCODING"] = "gzip" if how & 4 else "deflate"
    if how & 8:
        environ["HTTP_ACCEPT"] = "application/problem+json"
    if how & 16:
        environ["wsgi.input_terminated"] = True
    else:
        environ["CONTENT_LENGTH"] = str(len(body))
    if how & 32:
        text = body[:40].decode("latin-1")
        environ.update(
            QUERY_STRING=text, HTTP_AUTHORIZATION="Basic " + text, HTTP_IDEMPOTENCY_KEY=text, HTTP_ORIGIN=text
        )
    environ["wsgi.input"] = io.BytesIO(body)
    return environ


def check(status: int, headers: dict[str, str], content: bytes) -> None:
    """Raise AssertionError if the response is not documented."""
    if status in (200, 202) and status in DOCUMENTED:
        if headers["Content-Type"] == "application/x-protobuf":
            ExportTraceServiceResponse.FromString(content)
        else:
            json.loads(content)
        return
    if headers["Content-Type"] == "application/x-protobuf":
        # A google.rpc.Status has the same fields.
        error = ExportTracePartialSuccess.FromString(content).error_message
    else:
        answer = json.loads(content)
        error = next(answer[name] for name in ("message", "detail", "error") if name in answer)
    if error.partition(":")[0] not in DOCUMENTED.get(status, []):
        raise AssertionError(f"undocumented response: {status} {content!r}")


def main() -> None:
    """Fuzz with a temporary database. The arguments are those of libFuzzer."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for number, seed in enumerate(SEEDS):
            for how in range(64):
                (corpus / f"{number}-{how}").write_bytes(bytes([how]) + json.dumps(seed).encode())
        for number, envelope in enumerate(ENVELOPES):
            for how in range(64, 128):
                (corpus / f"envelope-{number}-{how}").write_bytes(bytes([how]) + envelope)
        for name, traces in (("json", json.dumps(TRACES).encode()), ("protobuf", traces_in_protobuf())):
            for how in range(128, 192):
                (corpus / f"traces-{name}-{how}").write_bytes(bytes([how]) + traces)
        with embedded.server(Path(folder, "data")) as owner:
            with psycopg.connect(owner, autocommit=True) as connection:
                migrations.migrate(connection)
                key = admin.create_project(connection, "fuzz")["public_key"]
            app = create_app(embedded.service_conninfo(owner))
            counts = multiprocessing.RawArray("Q", 600)

            def one_input(data: bytes) -> None:
                seen: list[Any] = []
                content = b"".join(
                    app(environ_of(data, key), lambda status, headers: seen.extend([status, dict(headers)]))
                )
                status = int(seen[0][:3])
                check(status, seen[1], content)
                counts[status] += 1

            atheris.Setup([*sys.argv, f"-dict={DICTIONARY}", str(corpus)], one_input)
            # libFuzzer ends with _exit(), so a parent process stops PostgreSQL and prints the summary.
            child = os.fork()
            if child == 0:
                atheris.Fuzz()
                os._exit(0)
            exit_status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    tried = {status: count for status, count in enumerate(counts) if count}
    print(f"{sum(tried.values())} inputs, by response status: {tried}")
    # A run that stored nothing has tested too little.
    sys.exit(exit_status or (0 if tried.get(200) and tried.get(202) else 1))


if __name__ == "__main__":
    main()
