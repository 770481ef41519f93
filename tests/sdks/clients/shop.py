"""What the applications for Flask and Django have in common. Each is asked for each path of its input, a line each."""

import json
import os
import sys
import uuid
from collections.abc import Callable
from typing import Any

import sentry_sdk

options: dict[str, Any] = json.loads(sys.argv[1]) if sys.argv[1:] else {}
"""More options of the SDK: the first argument."""


def start() -> None:
    """Start the SDK."""
    sentry_sdk.init(
        dsn=os.environ["DSN"], release="shop@1.2.3", environment="testing", traces_sample_rate=1.0, **options
    )
    sentry_sdk.set_tag("region", "us-east")


def order(number: int) -> str:
    """Return an order; there is none of the number 0."""
    sentry_sdk.set_user({"id": 42, "email": "dev@example.com"})
    sentry_sdk.add_breadcrumb(category="cart", message="added a book", level="info", data={"count": 2})
    if "trace_lifecycle" in options:
        span: Any = sentry_sdk.traces.start_span(name="SELECT 1", attributes={"sentry.op": "db"})
    else:
        span = sentry_sdk.start_span(op="db", name="SELECT 1")
    with span:
        pass
    if number == 0:
        raise LookupError("no such order")
    return "order"


def message(text: str) -> str:
    """Send a message."""
    sentry_sdk.capture_message(text, level="warning")
    return "message"


def twice() -> str:
    """Send an event twice."""
    event_id = uuid.uuid4().hex
    for _ in range(2):
        sentry_sdk.capture_event({"event_id": event_id, "message": "twice"})
    return "twice"


def answer(get: Callable[[str], object]) -> None:
    """Ask for each path of the input."""
    for line in sys.stdin:
        get(line.strip())
        sentry_sdk.flush(timeout=20)
        print("done", flush=True)
