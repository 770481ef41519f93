// The page's script: what a test evaluates calls these.
import * as Sentry from "@sentry/browser";

window.Sentry = Sentry;

window.start = (dsn, offline) => {
  const transport = offline ? Sentry.makeBrowserOfflineTransport(Sentry.makeFetchTransport) : undefined;
  const transportOptions = offline ? { minDelay: 500 } : {};
  const environment = "testing";
  const release = "shop@1.2.3";
  Sentry.init({ dsn, release, environment, tracesSampleRate: 1, traceLifecycle: "static", sendClientReports: true, transport, transportOptions });
  Sentry.setUser({ id: 42, email: "dev@example.com" });
  Sentry.setTag("region", "us-east");
};

window.commands = {
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
