// What the clients in JavaScript do, each with its own SDK.

const START = Date.UTC(2026, 0, 2, 3, 4, 5) / 1000;

const at = (milliseconds) => START + milliseconds / 1000;

const options = (dsn) => ({
  dsn,
  release: "shop@1.2.3",
  environment: "testing",
  tracesSampleRate: 1,
  // Without this integration, an event can be sent twice.
  integrations: (defaults) => defaults.filter(({ name }) => name !== "Dedupe"),
});

export const start = (Sentry, dsn, more) => {
  Sentry.init({ ...options(dsn), ...more });
  Sentry.setUser({ id: 42, email: "dev@example.com" });
  Sentry.setTag("region", "us-east");
};

const commands = (Sentry) => ({
  message: (text) => Sentry.captureMessage(text, "warning"),
  exception() {
    Sentry.addBreadcrumb({ category: "cart", message: "added a book", level: "info", data: { count: 2 } });
    const middle = new SyntaxError("middle", { cause: new TypeError("inner") });
    Sentry.captureException(new RangeError("outer", { cause: middle }));
  },
  transaction() {
    const root = Sentry.startInactiveSpan({ name: "checkout", op: "task", startTime: at(0) });
    Sentry.withActiveSpan(root, () => {
      const outer = Sentry.startInactiveSpan({ name: "GET /price", op: "http.client", startTime: at(50) });
      Sentry.withActiveSpan(outer, () =>
        Sentry.startInactiveSpan({ name: "SELECT 1", op: "db", startTime: at(100) }).end(at(140)),
      );
      outer.end(at(200));
    });
    root.end(at(250));
  },
  twice() {
    const hint = { event_id: crypto.randomUUID().replaceAll("-", "") };
    Sentry.captureEvent({ message: "twice" }, hint);
    Sentry.captureEvent({ message: "twice" }, hint);
  },
});

export const perform = async (Sentry, line) => {
  const [command, ...words] = line.split(" ");
  commands(Sentry)[command](words.join(" "));
  await Sentry.flush(20_000);
};
