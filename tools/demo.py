"""`make demo`: fill a running service with a week of a small shop, so that every page has something to show.

Everything is sent through the service's own HTTP API. But `received_at` is the clock of the server, and the pages show
periods of it. So what was sent is then moved back to its own `timestamp`, in the database and as its owner. A demo of
history is the only reason to do that. Statuses are set by `opensentry.set_issue_status()`, and the time of a resolution
is moved back likewise. Nothing but the rows of this run, and the statuses of the issues named here, is touched.
"""

import argparse
import json
import math
import os
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import psycopg

from opensentry_ingest import admin, embedded

Item = dict[str, Any]

PROJECT = "shop"
DAYS = 7
BATCH_ITEMS = 20
UPDATE_BATCHES = 200
"""Batches that one statement moves back."""


class Issue(NamedTuple):
    """One way in which the shop fails."""

    type: str
    values: tuple[str, ...]
    """Messages, one of which each event has; `{n}` in it is a number."""
    frames: tuple[str, ...]
    """Keys of FRAMES, the one that raised first."""
    weight: float
    """Its share of the errors, while it lasts."""
    ages: tuple[float, float]
    """When it happens, in days before now: from, to."""
    route: str
    level: str = "error"
    status: str = "open"
    resolved_age: float = 0
    """When it was resolved, in days before now."""
    fingerprint: tuple[str, ...] = ()


def frame(place: str, lineno: int, source: str, at: int, in_app: bool = True) -> Item:
    """Return a stack frame. `place` is file and function; `source` has the line `at` and those around it."""
    filename, function = place.split(" ")
    lines = source.strip("\n").split("\n")
    return {
        "filename": filename,
        "function": function,
        "lineno": lineno,
        "inApp": in_app,
        "preContext": lines[:at],
        "contextLine": lines[at],
        "postContext": lines[at + 1 :],
    }


FRAMES: dict[str, Item] = {
    "summary": frame(
        "app/cart/Summary.tsx renderTotal",
        42,
        """
  const lines = cart.items.map((item) => {
    const product = products[item.sku];
    return item.quantity * product.price;
  });
  return format(lines.reduce(add, 0), cart.currency);""",
        2,
    ),
    "cart": frame(
        "app/cart/page.tsx CartPage",
        17,
        """
export default function CartPage() {
  const { cart, products } = useCart();
  const total = renderTotal(cart, products);
  return <Summary total={total} />;""",
        2,
    ),
    "react": frame(
        "node_modules/react-dom/cjs/react-dom.production.js renderWithHooks",
        2981,
        """
  currentHook = workInProgressHook = null;
  var children = Component(props, secondArg);
  didRenderTooManyTimes = false;""",
        1,
        False,
    ),
    "webpack": frame(
        "webpack/runtime/jsonp __webpack_require__.f.j",
        49,
        """
    error.name = 'ChunkLoadError';
    error.type = errorType;
    installedChunkData[1](error);""",
        2,
        False,
    ),
    "charge": frame(
        "shop/payments/stripe.py charge",
        88,
        """
    response = self.session.post(url, data=payment.as_form(), timeout=self.timeout)
    if response.status_code == 402:
        raise PaymentDeclined(response.json()["error"]["message"])
    response.raise_for_status()
    return Charge(**response.json())""",
        2,
    ),
    "checkout": frame(
        "shop/checkout/views.py create_order",
        131,
        """
    with transaction():
        order = Order.from_cart(cart)
        order.ship_to = session["shipping_address"]
        order.charge = gateway.charge(order.payment)
        order.save()""",
        2,
    ),
    "dispatch": frame(
        "flask/app.py dispatch_request",
        919,
        """
        # otherwise dispatch to the handler for that endpoint
        view_args: dict[str, t.Any] = req.view_args
        return self.ensure_sync(self.view_functions[rule.endpoint])(**view_args)""",
        2,
        False,
    ),
    "connect": frame(
        "psycopg/connection.py connect",
        117,
        """
            if not rv:
                assert last_ex
                raise last_ex.with_traceback(None)""",
        2,
        False,
    ),
    "search": frame(
        "shop/search/views.py search",
        36,
        """
    terms = parse(request.args["q"])
    with pool.connection() as connection:
        hits = index.find(connection, terms, limit=PAGE)
    return render(hits)""",
        1,
    ),
    "assistant": frame(
        "shop/assistant/client.py complete",
        64,
        """
    prompt = [*SYSTEM, *history, {"role": "user", "content": question}]
    with span("gen_ai.chat", model):
        answer = client.messages.create(model=model, messages=prompt, max_tokens=1024)
    usage.record(answer)
    return answer.content""",
        2,
    ),
    "httpx": frame(
        "httpx/_transports/default.py map_httpcore_exceptions",
        118,
        """
        message = str(exc)
        raise mapped_exc(message) from exc""",
        1,
        False,
    ),
    "resize": frame(
        "shop/images/resize.py thumbnail",
        23,
        """
    with Image.open(path) as image:
        image.load()
        image.thumbnail(SIZE, Image.Resampling.LANCZOS)
        image.save(target, quality=85)""",
        1,
    ),
    "invoice": frame(
        "shop/mail/templates.py render_invoice",
        55,
        """
    template = environment.get_template("invoice.html")
    return template.render(order=order, vat=rates[order.country])""",
        1,
    ),
}

ISSUES = (
    Issue(
        "TypeError",
        ("Cannot read properties of undefined (reading 'price')",),
        ("summary", "cart", "react"),
        9,
        (1.6, 0),
        "GET /cart",
    ),
    Issue(
        "PaymentDeclined",
        ("Your card has insufficient funds.", "Your card was declined.", "Your card has expired."),
        ("charge", "checkout", "dispatch"),
        4,
        (7, 0),
        "POST /checkout",
        level="warning",
        status="ignored",
    ),
    Issue(
        "OperationalError",
        ('connection to server at "db-2", port 5432 failed: timeout expired',),
        ("connect", "search", "dispatch"),
        40,
        (4.3, 4.1),
        "GET /search",
        status="resolved",
        resolved_age=3.9,
    ),
    Issue(
        "KeyError",
        ("'shipping_address'",),
        ("checkout", "dispatch"),
        3,
        (6.8, 5.2),
        "POST /checkout",
        status="resolved",
        resolved_age=5,
    ),
    Issue("KeyError", ("'shipping_address'",), ("checkout", "dispatch"), 4, (2.4, 0), "POST /checkout"),
    Issue(
        "RateLimitError",
        ("429: this request would exceed your organization's rate limit of {n} input tokens per minute",),
        ("assistant", "dispatch"),
        2,
        (5, 0),
        "POST /api/assistant",
    ),
    Issue("ReadTimeout", ("The read operation timed out",), ("httpx", "assistant"), 1, (7, 0), "POST /api/assistant"),
    Issue("ChunkLoadError", ("Loading chunk {n} failed.",), ("webpack",), 2, (7, 0), "GET /products/:id"),
    Issue("", ("Stock of article {n} is negative: -{n}",), (), 1, (7, 0), "job: reserve-stock", level="warning"),
    Issue("MemoryError", ("",), ("resize",), 0.4, (6, 0), "job: resize-images", level="fatal"),
    Issue(
        "UndefinedError",
        ("'None' has no attribute 'country'",),
        ("invoice",),
        6,
        (0.15, 0),
        "job: send-invoices",
    ),
    Issue(
        "GatewayTimeout",
        ("upstream payment provider: 504 after {n} ms",),
        ("charge", "checkout"),
        1,
        (7, 0),
        "POST /checkout",
        fingerprint=("payment-provider",),
    ),
)

ROUTES: dict[str, tuple[float, int, float, tuple[tuple[str, str, float], ...]]] = {
    "GET /": (30, 60, 0.001, (("cache.get", "home:v7", 0.1), ("db.query", "SELECT * FROM banners WHERE live", 0.4))),
    "GET /products/:id": (
        40,
        110,
        0.003,
        (
            ("db.query", "SELECT * FROM products WHERE id = $1", 0.3),
            ("db.query", "SELECT * FROM reviews WHERE product_id = $1", 0.4),
        ),
    ),
    "GET /search": (22, 240, 0.01, (("db.query", "SELECT * FROM products WHERE document @@ $1", 0.7),)),
    "GET /cart": (12, 80, 0.004, (("db.query", "SELECT * FROM cart_items WHERE cart_id = $1", 0.5),)),
    "POST /checkout": (
        7,
        900,
        0.05,
        (
            ("db.query", "INSERT INTO orders VALUES ($1, $2, $3)", 0.1),
            ("http.client", "POST https://api.stripe.com/v1/charges", 0.7),
            ("queue.publish", "send-invoices", 0.05),
        ),
    ),
    "POST /api/assistant": (5, 2600, 0.03, (("db.query", "SELECT * FROM chats WHERE id = $1", 0.02),)),
    "job: send-invoices": (4, 1500, 0.02, (("template.render", "invoice.html", 0.3), ("smtp.send", "mail-1", 0.6))),
    "job: resize-images": (3, 3200, 0.03, (("fs.read", "upload.jpg", 0.1), ("image.resize", "thumbnail", 0.8))),
    "job: reserve-stock": (4, 300, 0.01, (("db.query", "UPDATE stock SET reserved = reserved + $1", 0.8),)),
}
"""Of each route: its weight, median duration in milliseconds, share of failures, and spans, each with its share."""

MODELS = {
    "claude-sonnet-4": ("anthropic", 3.0, 15.0, 0.6),
    "gpt-4.1-mini": ("openai", 0.4, 1.6, 0.4),
    "gemini-2.5-flash": ("google", 0.3, 2.5, 0.0),
}
"""Of each model: its provider, US dollars for a million tokens in and out, and the share of calls that hit a cache."""

FEATURES = {"chat": "claude-sonnet-4", "review-summary": "gpt-4.1-mini", "translation": "gemini-2.5-flash"}


class Shop:
    """A week of the shop.

    Args:
        random: decides everything but the ids, which are new in each run.
        now: the end of the week.
    """

    def __init__(self, random: Random, now: datetime) -> None:
        self._random, self._now = random, now
        self._users = [
            {"id": f"user_{n}", "email": f"{name}@example.com"}
            for n, name in enumerate(f"{first}.{last}" for first in FIRST_NAMES for last in LAST_NAMES)
        ]

    def items(self, count: int) -> list[Item]:
        """Return about so many items, the oldest first."""
        items: list[Item] = []
        while len(items) < count:
            age = self._age()
            if self._random.random() < 0.16:
                issue = self._issue(age)
                items += self._visit(age, issue.route, issue)
            else:
                items += self._visit(age, self._random.choices(list(ROUTES), [r[0] for r in ROUTES.values()])[0], None)
        # Each issue that is named here happens at least once, also in a small demo.
        for issue in ISSUES:
            items += self._visit(self._random.uniform(*issue.ages), issue.route, issue)
        return sorted(items, key=lambda item: str(item["timestamp"]))

    def _age(self) -> float:
        """Return an age in days: most people come in the evening."""
        while True:
            age = self._random.uniform(0, DAYS)
            hour = (self._now - timedelta(days=age)).hour
            if self._random.random() < 0.55 - 0.45 * math.cos((hour - 7) / 24 * 2 * math.pi):
                return age

    def _issue(self, age: float) -> Issue:
        live = [issue for issue in ISSUES if issue.ages[1] <= age <= issue.ages[0]]
        return self._random.choices(live, [issue.weight for issue in live])[0]

    def _visit(self, age: float, route: str, issue: Issue | None) -> Iterator[Item]:
        """Yield a transaction, with the error and the AI calls that belong to its trace."""
        random = self._random
        _, median, failures, parts = ROUTES[route]
        end = self._now - timedelta(days=age)
        release = release_of(route, age)
        duration = median * random.lognormvariate(0, 0.45)
        if route == "GET /search" and age < 2.5:
            # The release of two days ago reads each product by itself.
            parts = parts + (("db.query", "SELECT * FROM products WHERE id = $1", 0.08),) * 9
            duration *= 4
        user = random.choice(self._users)
        trace_id, span_id = uuid.uuid4().hex, uuid.uuid4().hex[:16]
        common = {
            "traceId": trace_id,
            "environment": "production" if random.random() < 0.95 else "staging",
            "release": release,
            "user": user,
        }
        tags = {"region": random.choice(("eu-central", "eu-west", "us-east")), "host": f"web-{random.randint(1, 3)}"}
        total = sum(share for _, _, share in parts)
        begin, spans = 0.02 * duration, []
        for op, description, share in parts:
            length = 0.9 * duration * share / max(1, total)
            spans.append(self._span(span_id, op, description, begin, length))
            begin += length
        if route == "POST /api/assistant":
            calls, duration = self._calls(common, tags, end, spans)
            yield from calls
        failed = random.random() < failures or (issue is not None and issue.level in ("error", "fatal"))
        if issue:
            yield self._error(issue, common, tags, span_id, end)
        yield {
            "type": "transaction",
            "name": route,
            **common,
            "spanId": span_id,
            "op": "queue.process" if route.startswith("job") else "http.server",
            "durationMs": round(duration),
            "status": "error" if failed else "ok",
            "tags": tags,
            "spans": spans,
            "timestamp": iso(end),
        }

    def _span(self, parent: str, op: str, description: str, begin: float, length: float) -> Item:
        return {
            "spanId": uuid.uuid4().hex[:16],
            "parentSpanId": parent,
            "op": op,
            "description": description,
            "startMs": round(begin),
            "durationMs": round(length),
            "status": "ok",
        }

    def _calls(self, common: Item, tags: Item, end: datetime, spans: list[Item]) -> tuple[list[Item], float]:
        """Return AI calls, one after the other up to `end`, and how long the transaction takes with them."""
        random, calls = self._random, []
        parent, begin = spans[0]["parentSpanId"], float(spans[0]["startMs"] + spans[0]["durationMs"])
        feature = random.choices(list(FEATURES), [6, 3, 2])[0]
        provider, input_price, output_price, hits = MODELS[FEATURES[feature]]
        lengths = [random.lognormvariate(7.4, 0.5) for _ in range(random.choice((1, 1, 2)))]
        duration = begin + sum(lengths) + 20
        for length in lengths:
            span = self._span(parent, "gen_ai.chat", FEATURES[feature], begin, length)
            spans.append(span)
            begin += length
            tokens = round(random.lognormvariate(7.6, 0.7))
            cached = round(tokens * 0.8) if random.random() < hits else 0
            output = round(random.lognormvariate(5.5, 0.6))
            cost = ((tokens - cached) * input_price + cached * input_price / 10 + output * output_price) / 1e6
            calls.append(
                {
                    "type": "ai_generation",
                    "provider": provider,
                    "model": FEATURES[feature],
                    **common,
                    "spanId": span["spanId"],
                    "inputTokens": tokens,
                    "outputTokens": output,
                    **({"cachedInputTokens": cached} if hits else {}),
                    "totalCostUsd": round(cost, 6),
                    "latencyMs": round(length),
                    "timeToFirstTokenMs": round(length * random.uniform(0.15, 0.4)),
                    "status": "error" if random.random() < 0.02 else "ok",
                    "tags": {**tags, "feature": feature},
                    "timestamp": iso(end - timedelta(milliseconds=duration - begin)),
                }
            )
        return calls, duration

    def _error(self, issue: Issue, common: Item, tags: Item, span_id: str, end: datetime) -> Item:
        random = self._random
        value = random.choice(issue.values).replace("{n}", str(random.randint(100, 60_000)))
        exception: Item = {"type": issue.type, "value": value} if issue.type else {"value": value}
        if issue.frames:
            exception["stacktrace"] = {"frames": [FRAMES[name] for name in issue.frames]}
        in_browser = any(name in ("react", "webpack") for name in issue.frames)
        if in_browser:
            tags = {**tags, "browser": random.choice(("Firefox 132", "Chrome 131", "Safari 18"))}
        return {
            "type": "error",
            "exception": exception,
            "level": issue.level,
            **common,
            "spanId": span_id,
            **({"fingerprint": list(issue.fingerprint)} if issue.fingerprint else {}),
            "tags": tags,
            "breadcrumbs": [
                {**crumb, "level": "info", "timestamp": iso(end - timedelta(seconds=3.1 * (len(steps) - place)))}
                for steps in [BROWSER_STEPS if in_browser else SERVER_STEPS]
                for place, crumb in enumerate(steps)
            ],
            "timestamp": iso(end),
        }


BROWSER_STEPS: list[Item] = [
    {"category": "navigation", "message": "/products/4711 -> /cart", "data": {"from": "/products/4711", "to": "/cart"}},
    {"category": "ui.click", "message": "button.add-to-cart"},
    {"category": "fetch", "message": "GET /api/cart", "data": {"status_code": 200}},
]
SERVER_STEPS: list[Item] = [
    {"category": "session", "message": "session was loaded"},
    {"category": "db.query", "message": "SELECT * FROM cart_items WHERE cart_id = $1", "data": {"rows": 3}},
    {"category": "log", "message": "order is being created"},
]
FIRST_NAMES = ("ada", "grace", "linus", "margaret", "dennis", "barbara", "ken", "frances")
LAST_NAMES = ("berger", "novak", "rossi", "silva", "tanaka")


def release_of(route: str, age: float) -> str:
    """Return the release that serves a route so many days before now."""
    if route.startswith("job"):
        return "shop-worker@1.4.2" if age > 0.2 else "shop-worker@1.5.0"
    if route in ("GET /cart", "GET /products/:id"):
        return "shop-web@4.12.3" if age > 1.6 else "shop-web@4.13.0"
    return "shop-api@2.8.1" if age > 2.5 else "shop-api@2.9.0"


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def send(url: str, key: str, items: list[Item]) -> str:
    """Post a batch; return its id."""
    request = urllib.request.Request(
        f"{url}/v1/ingest",
        json.dumps(items).encode(),
        {"X-Open-Sentry-Key": key, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        batch_id: str = json.load(response)["id"]
        return batch_id


def move_back(connection: psycopg.Connection[Any], batches: list[str]) -> None:
    """Make batches received at the time at which their items happened."""
    with connection.transaction():
        # Spans first: their time is that of their transaction.
        connection.execute(
            "UPDATE opensentry.spans AS s SET received_at = t.timestamp FROM opensentry.transactions AS t "
            "WHERE t.batch_id = s.batch_id AND t.position = s.position AND s.batch_id = ANY (%s::uuid[])",
            (batches,),
        )
        for table in ("events", "transactions", "ai_generations"):
            connection.execute(
                f"UPDATE opensentry.{table} SET received_at = timestamp WHERE batch_id = ANY (%s::uuid[])".encode(),
                (batches,),
            )


def set_statuses(connection: psycopg.Connection[Any], project_id: str, now: datetime) -> None:
    """Date the project's issues by their first events, and let people resolve and ignore some."""
    connection.execute(
        "UPDATE opensentry.issues AS i SET first_seen = e.first_seen FROM ("
        "SELECT fingerprint, min(received_at) AS first_seen FROM opensentry.events "
        "WHERE project_id = %(project)s GROUP BY fingerprint) AS e "
        "WHERE i.project_id = %(project)s AND i.fingerprint = e.fingerprint AND e.first_seen < i.first_seen",
        {"project": project_id},
    )
    for issue in ISSUES:
        if issue.status != "open":
            rows = connection.execute(
                "SELECT fingerprint FROM opensentry.issues WHERE project_id = %s AND title LIKE %s",
                (project_id, f"{issue.type}: %"),
            ).fetchall()
            for (fingerprint,) in rows:
                connection.execute(
                    "SELECT opensentry.set_issue_status(%s, %s, %s)", (project_id, fingerprint, issue.status)
                )
                connection.execute(
                    "UPDATE opensentry.issues SET resolved_at = %s "
                    "WHERE project_id = %s AND fingerprint = %s AND status = 'resolved'",
                    (now - timedelta(days=issue.resolved_age), project_id, fingerprint),
                )


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="make demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:3001", help="the running service (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=embedded.DEFAULT_FOLDER, help="folder of its embedded PostgreSQL")
    parser.add_argument("--items", type=int, default=4000, help="about how many to send (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    conninfo = os.environ.get("DATABASE_URL") or embedded.running(arguments.data)
    if not conninfo:
        print("demo: nothing runs here: start `make run` first, or set DATABASE_URL", file=sys.stderr)
        return 1
    now = datetime.now(timezone.utc)
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            found = [project for project in admin.projects(connection) if project["name"] == PROJECT]
            project = found[0] if found else admin.create_project(connection, PROJECT)
            items = Shop(Random(arguments.seed), now).items(arguments.items)
            batches = [
                send(arguments.url, project["public_key"], items[place : place + BATCH_ITEMS])
                for place in range(0, len(items), BATCH_ITEMS)
            ]
            for place in range(0, len(batches), UPDATE_BATCHES):
                move_back(connection, batches[place : place + UPDATE_BATCHES])
            set_statuses(connection, str(project["id"]), now)
    except (psycopg.Error, OSError) as error:
        print(f"demo: {' '.join(str(error).split())}: is the service running on {arguments.url}?", file=sys.stderr)
        return 1
    print(f"sent {len(items):,} items of {DAYS} days to the project {PROJECT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
