"""Does what its input says, a command on each line, with sentry-sdk. Runs with old versions of Python and the SDK too.

The first argument, if there is one, is the content coding.
"""

import os
import sys
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import sentry_sdk

OLD = sentry_sdk.VERSION.startswith("1.")
experiments: Any = {"transport_compression_algo": sys.argv[1]} if sys.argv[1:] else {}
sentry_sdk.init(
    dsn=os.environ["DSN"],
    release="shop@1.2.3",
    environment="testing",
    traces_sample_rate=1.0,
    # They would import whatever else is installed here.
    auto_enabling_integrations=False,
    _experiments=experiments,
)
sentry_sdk.set_user({"id": 42, "email": "dev@example.com"})
sentry_sdk.set_tag("region", "us-east")


def at(milliseconds: int) -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds)


def exception() -> None:
    sentry_sdk.add_breadcrumb(category="cart", message="added a book", level="info", data={"count": 2})
    try:
        try:
            try:
                raise KeyError("inner")
            except KeyError as error:
                raise ValueError("middle") from error
        except ValueError as error:
            raise RuntimeError("outer") from error
    except RuntimeError as error:
        sentry_sdk.capture_exception(error)


def transaction() -> None:
    with sentry_sdk.start_transaction(op="task", name="checkout") as one:
        one.start_timestamp = at(0)
        with sentry_sdk.start_span(op="http.client", description="GET /price") as outer:
            with sentry_sdk.start_span(op="db", description="SELECT 1") as inner:
                inner.start_timestamp, inner.timestamp = at(100), at(140)
            outer.start_timestamp, outer.timestamp = at(50), at(200)
        one.set_status("ok")
        # The old version measures by itself when a transaction ends.
        if not OLD:
            one.finish(end_timestamp=at(250))


def twice() -> None:
    event_id = uuid.uuid4().hex
    for _ in range(2):
        sentry_sdk.capture_event({"event_id": event_id, "message": "twice"})


for line in sys.stdin:
    command, _, text = line.strip().partition(" ")
    if command == "message":
        sentry_sdk.capture_message(text, level="warning")
    else:
        {"exception": exception, "transaction": transaction, "twice": twice}[command]()
    sentry_sdk.flush(timeout=20)
    print("done", flush=True)
