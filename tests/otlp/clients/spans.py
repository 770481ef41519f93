"""Makes a trace for each line of its input, which names it, and prints it when it was sent.

Argument: "together", for one request, or "apart", for a request for each span.
"""

import json
import sys
import time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

processor = BatchSpanProcessor if sys.argv[1] == "together" else SimpleSpanProcessor
provider = TracerProvider()
provider.add_span_processor(processor(OTLPSpanExporter()))
tracer = provider.get_tracer("shop.orders")


def ids(span: trace.Span) -> str:
    return f"{span.get_span_context().span_id:016x}"


for line in sys.stdin:
    name = line.strip()
    with tracer.start_as_current_span(name, kind=SpanKind.SERVER) as root:
        root.set_attributes({"http.route": "/orders/{id}", "http.response.status_code": 500, "items": [1, 2, 3]})
        root.set_status(Status(StatusCode.ERROR, "no stock"))
        with tracer.start_as_current_span("SELECT orders", kind=SpanKind.CLIENT) as query:
            query.set_attributes({"db.system.name": "postgresql", "ratio": 0.25, "cached": False, "big": 2**40 + 1})
            query.set_status(Status(StatusCode.OK))
            with tracer.start_as_current_span("decode") as inner:
                inner.add_event("decoded", {"rows": 3})
                time.sleep(0.01)
    sent = provider.force_flush(60_000)
    names = {"root": ids(root), "query": ids(query), "inner": ids(inner)}
    print(json.dumps({"trace": f"{root.get_span_context().trace_id:032x}", "spans": names, "sent": sent}), flush=True)
provider.shutdown()
