"""A Flask application that fails. It is asked for each path that its input names, one on each line."""

import os
import sys

import flask
import sentry_sdk

sentry_sdk.init(dsn=os.environ["DSN"], release="shop@1.2.3", environment="testing", traces_sample_rate=1.0)
sentry_sdk.set_tag("region", "us-east")
app = flask.Flask("shop")


@app.get("/orders/<int:number>")
def order(number: int) -> str:
    sentry_sdk.set_user({"id": 42, "email": "dev@example.com"})
    sentry_sdk.add_breadcrumb(category="cart", message="added a book", level="info", data={"count": 2})
    with sentry_sdk.start_span(op="db", name="SELECT 1"):
        pass
    if number == 0:
        raise LookupError("no such order")
    return "order"


client = app.test_client()
for line in sys.stdin:
    client.get(line.strip())
    sentry_sdk.flush(timeout=20)
    print("done", flush=True)
