// Does what its input says, a command on each line, with @sentry/node. With an argument, its `traceLifecycle` is the default.
import { createInterface } from "node:readline";
import * as Sentry from "@sentry/node";
import { perform, start } from "./commands.mjs";

start(Sentry, process.env.DSN, process.argv.length > 2 ? { traceLifecycle: undefined } : {});

for await (const line of createInterface({ input: process.stdin })) {
  await perform(Sentry, line);
  console.log("done");
}
