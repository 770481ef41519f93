// Makes a trace for each line of its input, which names it, and prints it when it was sent.
//
// Arguments: the format ("http" for JSON, or "proto"), and "together", for one request, or "apart", for a request for
// each span.
import {createInterface} from "node:readline";
import {setTimeout} from "node:timers/promises";
import {SpanKind, SpanStatusCode, context, trace} from "@opentelemetry/api";
import {detectResources, envDetector} from "@opentelemetry/resources";
import {BatchSpanProcessor, NodeTracerProvider, SimpleSpanProcessor} from "@opentelemetry/sdk-trace-node";

const [format, requests] = process.argv.slice(2);
const {OTLPTraceExporter} = await import(`@opentelemetry/exporter-trace-otlp-${format}`);
const Processor = requests === "together" ? BatchSpanProcessor : SimpleSpanProcessor;
const provider = new NodeTracerProvider({
    resource: detectResources({detectors: [envDetector]}),
    spanProcessors: [new Processor(new OTLPTraceExporter())],
});
provider.register();
const tracer = provider.getTracer("shop.orders");

for await (const line of createInterface({input: process.stdin})) {
    const root = tracer.startSpan(line.trim(), {kind: SpanKind.SERVER});
    root.setAttributes({"http.route": "/orders/{id}", "http.response.status_code": 500, items: [1, 2, 3]});
    root.setStatus({code: SpanStatusCode.ERROR, message: "no stock"});
    const inRoot = trace.setSpan(context.active(), root);
    const query = tracer.startSpan("SELECT orders", {kind: SpanKind.CLIENT}, inRoot);
    query.setAttributes({"db.system.name": "postgresql", ratio: 0.25, cached: false, big: 2 ** 40 + 1});
    query.setStatus({code: SpanStatusCode.OK});
    const inner = tracer.startSpan("decode", {}, trace.setSpan(inRoot, query));
    inner.addEvent("decoded", {rows: 3});
    await setTimeout(10);
    let sent = true;
    for (const span of [inner, query, root]) {
        span.end();
        if (requests === "apart" || span === root) await provider.forceFlush().catch(() => (sent = false));
    }
    const spans = {root, query, inner};
    for (const name in spans) spans[name] = spans[name].spanContext().spanId;
    console.log(JSON.stringify({trace: root.spanContext().traceId, spans, sent}));
}
await provider.shutdown();
