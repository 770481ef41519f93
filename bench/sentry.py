"""An 8-kB event as Sentry's SDK for Python sends it, and the same event as an item of ours."""

import io
import json
import time
from typing import Any

from opensentry_ingest.protocols import Adapter, open_sentry, sentry
from opensentry_ingest.protocols.sentry_events import error_item

NO_ID = "0" * 32
"""What `sentry.lua` replaces in an envelope."""

_SOURCE = """
def load_cart(session, cart_id):
    cart = session.get(Cart, cart_id)
    if cart is None:
        raise CartNotFound(cart_id)
    for line in cart.lines:
        line.price = prices[line.product_id]
        line.total = line.price * line.quantity
    cart.total = sum(line.total for line in cart.lines)
    return cart
""".strip().splitlines()

_FUNCTIONS = ("wsgi_app", "full_dispatch_request", "dispatch_request", "checkout", "reserve", "load_cart")
_STEPS = (("httplib", "http"), ("query", "query"), ("shop.cart", "log"))


def _frame(number: int) -> dict[str, Any]:
    own = number >= 3
    name = "shop/cart.py" if own else "flask/app.py"
    return {
        "filename": name,
        "abs_path": f"/srv/shop/{name}" if own else f"/srv/venv/lib/python3.11/site-packages/{name}",
        "function": _FUNCTIONS[number],
        "module": name.removesuffix(".py").replace("/", "."),
        "lineno": 100 + number,
        "pre_context": _SOURCE[:5],
        "context_line": _SOURCE[5],
        "post_context": _SOURCE[6:],
        "vars": {"session": "<sqlalchemy.orm.session.Session object at 0x7fdf8b932c90>", "cart_id": "4711"},
        "in_app": own,
    }


def _breadcrumb(number: int) -> dict[str, Any]:
    category, kind = _STEPS[number % 3]
    return {
        "type": kind,
        "level": "info",
        "category": category,
        "message": f"cart 4711, step {number}",
        "timestamp": f"2026-05-30T12:00:{number:02}.798634Z",
        "data": {},
    }


EVENT: dict[str, Any] = {
    "level": "error",
    "exception": {
        "values": [
            {
                "mechanism": {"type": "flask", "handled": False},
                "module": None,
                "type": "KeyError",
                "value": "'product-17'",
                "stacktrace": {"frames": [_frame(number) for number in range(len(_FUNCTIONS))]},
            }
        ]
    },
    "event_id": NO_ID,
    "timestamp": "2026-05-30T12:01:00.801729Z",
    "transaction": "checkout",
    "contexts": {
        "trace": {
            "trace_id": "0b1217c10b3f4a65a89b09e2b208f7d9",
            "span_id": "a2240c4b4ef36c80",
            "parent_span_id": None,
        },
        "runtime": {"name": "CPython", "version": "3.11.7", "build": "3.11.7 (main) [GCC 12.2.0]"},
    },
    "user": {"id": "42"},
    "transaction_info": {},
    "tags": {"region": "eu"},
    "breadcrumbs": {"values": [_breadcrumb(number) for number in range(20)]},
    "request": {"url": "https://shop.example.com/checkout", "method": "POST", "headers": {"Host": "shop.example.com"}},
    "extra": {"sys.argv": ["/srv/venv/bin/gunicorn", "shop"]},
    "modules": {f"package-{number}": f"{number}.4.1" for number in range(20)},
    "release": "shop@2.4.1",
    "environment": "production",
    "server_name": "web-1",
    "sdk": {
        "name": "sentry.python.flask",
        "version": "2.75.0",
        "packages": [{"name": "pypi:sentry-sdk", "version": "2.75.0"}],
        "integrations": [
            "argv",
            "atexit",
            "dedupe",
            "excepthook",
            "flask",
            "logging",
            "modules",
            "stdlib",
            "threading",
        ],
    },
    "platform": "python",
}


def envelope(event_id: str) -> bytes:
    """Return the event in an envelope, under this id: 32 hexadecimal digits."""
    event = json.dumps({**EVENT, "event_id": event_id}, separators=(",", ":")).encode()
    header = {"event_id": event_id, "sent_at": "2026-05-30T12:01:00.815134Z"}
    item = {"type": "event", "content_type": "application/json", "length": len(event)}
    return b"\n".join([json.dumps(header).encode(), json.dumps(item).encode(), event]) + b"\n"


def item() -> bytes:
    """Return the event as a client of `/v1/ingest` would send it."""
    return json.dumps(error_item(json.loads(json.dumps(EVENT))), separators=(",", ":")).encode()


def adapter_times() -> dict[str, float]:
    """Return the microseconds of processor time that each protocol takes for the event: the least of many."""
    loads: dict[str, tuple[Adapter, bytes]] = {
        "/v1/ingest": (open_sentry, item()),
        "/api/1/envelope/": (sentry, envelope(NO_ID)),
    }
    least = dict.fromkeys(loads, float("inf"))
    for _ in range(2000):
        for path, (adapter, data) in loads.items():
            environ = {"PATH_INFO": path, "HTTP_X_OPEN_SENTRY_KEY": "key", "CONTENT_LENGTH": str(len(data))}
            began = time.process_time()
            adapter.read({**environ, "wsgi.input": io.BytesIO(data)}, "")
            least[path] = min(least[path], (time.process_time() - began) * 1e6)
    return least
