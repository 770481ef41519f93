// Does what its input says, a command on each line, with @sentry/node. The argument, if any, is its `traceLifecycle`.
import { createInterface } from "node:readline";
import * as Sentry from "@sentry/node";
import { perform, start } from "./commands.mjs";

start(Sentry, process.env.DSN, process.argv.length > 2 ? { traceLifecycle: process.argv[2] } : {});

for await (const line of createInterface({ input: process.stdin })) {
  await perform(Sentry, line);
  console.log("done");
}
