"""An application in Flask, instrumented; requests a page that works and one that raises, and prints their statuses."""

import json

from flask import Flask
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app, tracer_provider=provider)
tracer = provider.get_tracer("shop")


@app.get("/orders/<int:number>")
def order(number: int) -> str:
    return f"order {number}"


@app.get("/broken/<int:number>")
def broken(number: int) -> str:
    with tracer.start_as_current_span("charge"):
        raise ZeroDivisionError(f"order {number}")


client = app.test_client()
print(json.dumps([client.get(path).status_code for path in ("/orders/7", "/broken/8")]))
provider.shutdown()
