// Does what its input says, a command on each line, with the SDK that preceded @sentry/node. It posts to /store/.
import { createInterface } from "node:readline";
import Raven from "raven";

Raven.config(process.env.DSN, { release: "shop@1.2.3", environment: "testing" }).install();
Raven.setContext({ user: { id: 42, email: "dev@example.com" }, tags: { region: "us-east" } });

const sent = (capture) =>
  new Promise((resolve, reject) => capture((error, eventId) => (error ? reject(error) : resolve(eventId))));

const commands = {
  exception() {
    Raven.captureBreadcrumb({ category: "cart", message: "added a book", level: "info", data: { count: 2 } });
    const error = new RangeError("outer");
    return sent((done) => Raven.captureException(error, done));
  },
  message: (text) => sent((done) => Raven.captureMessage(text, { level: "warning" }, done)),
  async twice() {
    Raven.generateEventId = () => "fc6d8c0c43fc4630ad850ee518f1b9d2";
    await commands.message("twice");
    await commands.message("twice");
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...words] = line.split(" ");
  await commands[command](words.join(" "));
  console.log("done");
}
