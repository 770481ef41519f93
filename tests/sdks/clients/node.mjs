// Does what its input says, a command on each line, with @sentry/node.
import { createInterface } from "node:readline";
import * as Sentry from "@sentry/node";

// Without "static", version 11 sends spans as they end and no transactions: the service skips those.
const environment = "testing";
const release = "shop@1.2.3";
Sentry.init({ dsn: process.env.DSN, release, environment, tracesSampleRate: 1, traceLifecycle: "static" });
Sentry.setUser({ id: 42, email: "dev@example.com" });
Sentry.setTag("region", "us-east");

const commands = {
  message: (text) => Sentry.captureMessage(text, "warning"),
  exception() {
    Sentry.addBreadcrumb({ category: "cart", message: "added a book", level: "info", data: { count: 2 } });
    Sentry.captureException(new RangeError("outer", { cause: new TypeError("inner") }));
  },
  transaction() {
    Sentry.startSpan({ name: "checkout", op: "task" }, () =>
      Sentry.startSpan({ name: "GET /price", op: "http.client" }, () =>
        Sentry.startSpan({ name: "SELECT 1", op: "db" }, () => {}),
      ),
    );
  },
  twice() {
    const hint = { event_id: crypto.randomUUID().replaceAll("-", "") };
    Sentry.captureEvent({ message: "twice" }, hint);
    Sentry.captureEvent({ message: "twice" }, hint);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...words] = line.split(" ");
  commands[command](words.join(" "));
  await Sentry.flush(20_000);
  console.log("done");
}
