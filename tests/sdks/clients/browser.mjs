// The script of a page that sends with @sentry/browser: the tests call these functions.
import * as Sentry from "@sentry/browser";
import { perform, start } from "./commands.mjs";

window.Sentry = Sentry;
window.perform = (line) => perform(Sentry, line);
// By default in browsers, every span is a child of the first.
window.start = (dsn, options) => start(Sentry, dsn, { parentSpanIsAlwaysRootSpan: false, ...options });
// Keeps what it cannot send in IndexedDB.
window.startOffline = (dsn) => {
  const transport = Sentry.makeBrowserOfflineTransport(Sentry.makeFetchTransport);
  start(Sentry, dsn, { transport, transportOptions: { flushAtStartup: true } });
};
