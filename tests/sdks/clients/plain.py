"""Does what its input says, a command on each line, with sentry-sdk. Runs with old versions of Python and the SDK too.

The first argument, if there is one, is the content coding.
"""

import os
import sys
import uuid

import sentry_sdk

experiments = {"transport_compression_algo": sys.argv[1]} if sys.argv[1:] else {}
sentry_sdk.init(
    dsn=os.environ["DSN"],
    release="shop@1.2.3",
    environment="testing",
    traces_sample_rate=1.0,
    _experiments=experiments,
)
sentry_sdk.set_user({"id": 42, "email": "dev@example.com"})
sentry_sdk.set_tag("region", "us-east")


def exception() -> None:
    sentry_sdk.add_breadcrumb(category="cart", message="added a book", level="info", data={"count": 2})
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise RuntimeError("outer") from error
    except RuntimeError as error:
        sentry_sdk.capture_exception(error)


def transaction() -> None:
    with sentry_sdk.start_transaction(op="task", name="checkout") as one:
        with sentry_sdk.start_span(op="http.client", description="GET /price"):
            with sentry_sdk.start_span(op="db", description="SELECT 1"):
                pass
        one.set_status("ok")


def twice() -> None:
    event = {"event_id": uuid.uuid4().hex, "message": "twice"}
    sentry_sdk.capture_event(dict(event))
    sentry_sdk.capture_event(dict(event))


for line in sys.stdin:
    command, _, text = line.strip().partition(" ")
    if command == "message":
        sentry_sdk.capture_message(text, level="warning")
    else:
        {"exception": exception, "transaction": transaction, "twice": twice}[command]()
    sentry_sdk.flush(timeout=20)
    print("done", flush=True)
