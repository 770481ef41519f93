"""`make demo`: fill a running service with a week of a small shop, so that every page has something to show.

Everything is sent through the service's own HTTP API. But `received_at` is the clock of the server, and the pages show
periods of it. So what was sent is then moved back to its own `timestamp`, in the database and as its owner. A demo of
history is the only reason to do that. Statuses are set by `opensentry.set_issue_status()`, and the time of a resolution
is moved back likewise. Nothing but the rows of this run, the statuses of the issues named here, and the price of a
model that has none, is touched.
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
from decimal import Decimal
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import psycopg

from opensentry_ingest import admin, embedded, prices

Item = dict[str, Any]

PROJECT = "shop"
DAYS = 8
"""A day more than a week, so that in the pages' view of 7 days some issues are new and others are not."""
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
    """Its share of the errors."""
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
    # What a minifier leaves of a library, which has no source to show.
    "minified": {
        "filename": "https://shop.example.com/assets/vendor.5f2c9a.js",
        "function": "Xe",
        "lineno": 2,
        "colno": 48123,
        "inApp": False,
    },
    "gallery": frame(
        "app/products/Gallery.tsx onSwipe",
        58,
        """
  const onSwipe = (event: TouchEvent) => {
    const width = ref.current.offsetWidth;
    setIndex(Math.round(event.touches[0].clientX / width));
  };""",
        1,
    ),
    "prices": frame(
        "app/products/Price.tsx formatPrice",
        12,
        """
export function formatPrice(amount: number, currency: string, locale: string) {
  return new Intl.NumberFormat(locale, { style: "currency", currency }).format(amount);
}""",
        1,
    ),
    "basket": frame(
        "app/cart/storage.ts saveCart",
        21,
        """
export function saveCart(cart: Cart) {
  localStorage.setItem("cart", JSON.stringify(cart));
}""",
        1,
    ),
    "suggest": frame(
        "app/search/Suggestions.tsx loadSuggestions",
        33,
        """
  const response = await fetch(`/api/suggest?q=${encodeURIComponent(query)}`, { signal });
  const { suggestions } = await response.json();
  setSuggestions(suggestions);""",
        1,
    ),
    "api": frame(
        "app/lib/api.ts request",
        27,
        """
export async function request(path: string, init?: RequestInit) {
  const response = await fetch(BASE + path, init);
  if (!response.ok) throw new ApiError(response.status, path);""",
        1,
    ),
    "consent": frame(
        "app/layout/Consent.tsx loadWidgets",
        9,
        """
  if (consent.marketing) {
    window.chatWidget.init({ locale });
  }""",
        1,
    ),
    "discount": frame(
        "shop/checkout/discounts.py average_discount",
        47,
        """
    lines = [line for line in order.lines if line.discount]
    return sum(line.discount for line in lines) / len(lines)""",
        1,
    ),
    "register": frame(
        "shop/accounts/views.py register",
        40,
        """
    account = Account(email=form["email"], password=hash_password(form["password"]))
    connection.execute(INSERT_ACCOUNT, account)
    return redirect("/account", 303)""",
        1,
    ),
    "execute": frame(
        "psycopg/cursor.py execute",
        97,
        """
        except e._NO_TRACEBACK as ex:
            raise ex.with_traceback(None)
        return self""",
        1,
        False,
    ),
    "stock": frame(
        "shop/stock/supplier.py read_feed",
        72,
        """
    for row in csv.DictReader(feed, delimiter=";"):
        stock[row["sku"]] = int(row["quantity"])
    return stock""",
        1,
    ),
    "encode": frame(
        "shop/stock/supplier.py open_feed",
        61,
        """
    with urlopen(FEED_URL, timeout=30) as response:
        return io.StringIO(response.read().decode("utf-8"))""",
        1,
    ),
    "answer": frame(
        "shop/assistant/answers.py parse",
        29,
        """
    text = answer.strip().removeprefix("```json").removesuffix("```")
    return Recommendation(**json.loads(text))""",
        1,
    ),
    "loads": frame(
        "json/decoder.py raw_decode",
        355,
        """
        except StopIteration as err:
            raise JSONDecodeError("Expecting value", s, err.value) from None
        return obj, end""",
        1,
        False,
    ),
    "send": frame(
        "shop/mail/outbox.py send",
        34,
        """
    with smtplib.SMTP(HOST, timeout=20) as smtp:
        smtp.send_message(message)
    log.info("mail was sent", extra={"order": order.id})""",
        1,
    ),
    "session": frame(
        "shop/web/sessions.py load_session",
        18,
        """
    data = redis.get(f"session:{session_id}")
    return Session.loads(data)""",
        0,
    ),
    "reviews": frame(
        "shop/products/reviews.py stars",
        15,
        """
    summary = summaries.latest(product.id)
    return summary.stars if summary.count > 3 else None""",
        1,
    ),
    "charge": frame(
        "shop/payments/gateway.py charge",
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
        11,
        (1.6, 0),
        "GET /cart",
    ),
    Issue(
        "PaymentDeclined",
        ("Your card has insufficient funds.", "Your card was declined.", "Your card has expired."),
        ("charge", "checkout", "dispatch"),
        14,
        (8, 0),
        "POST /checkout",
        level="warning",
        status="ignored",
    ),
    Issue(
        "OperationalError",
        ('connection to server at "db-2", port 5432 failed: timeout expired',),
        ("connect", "search", "dispatch"),
        16,
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
    Issue("ReadTimeout", ("The read operation timed out",), ("httpx", "assistant"), 1, (8, 0), "POST /api/assistant"),
    Issue("ChunkLoadError", ("Loading chunk {n} failed.",), ("webpack",), 6, (8, 0), "GET /products/:id"),
    Issue("", ("Stock of article {n} is negative: -{n}",), (), 1, (8, 0), "job: reserve-stock", level="warning"),
    Issue("MemoryError", ("",), ("resize",), 0.4, (6, 0), "job: resize-images", level="fatal"),
    Issue(
        "UndefinedError",
        ("'None' has no attribute 'country'",),
        ("invoice",),
        1,
        (0.15, 0),
        "job: send-invoices",
    ),
    Issue(
        "GatewayTimeout",
        ("upstream payment provider: 504 after {n} ms",),
        ("charge", "checkout"),
        1,
        (8, 0),
        "POST /checkout",
        fingerprint=("payment-provider",),
    ),
    Issue(
        "TypeError",
        ("null is not an object (evaluating 'ref.current.offsetWidth')",),
        ("gallery", "minified", "minified"),
        3,
        (0.7, 0),
        "GET /products/:id",
    ),
    Issue(
        "RangeError",
        ("Incorrect locale information provided",),
        ("prices", "minified"),
        1,
        (8, 0),
        "GET /products/:id",
    ),
    Issue(
        "QuotaExceededError",
        ("Failed to execute 'setItem' on 'Storage': Setting the value of 'cart' exceeded the quota.",),
        ("basket", "cart", "react"),
        0.4,
        (8, 0),
        "GET /cart",
        level="warning",
        status="ignored",
    ),
    Issue(
        "SyntaxError",
        ("Unexpected token '<', \"<!DOCTYPE \"... is not valid JSON",),
        ("suggest", "minified"),
        3,
        (4.4, 4),
        "GET /search",
        status="resolved",
        resolved_age=3.8,
    ),
    Issue("NetworkError", ("Failed to fetch",), ("api", "minified"), 4, (8, 0), "GET /cart", status="ignored"),
    Issue("ReferenceError", ("chatWidget is not defined",), ("consent",), 2, (1.6, 0), "GET /products/:id"),
    Issue(
        "ZeroDivisionError", ("division by zero",), ("discount", "checkout", "dispatch"), 2, (2.4, 0), "POST /checkout"
    ),
    Issue(
        "UniqueViolation",
        ('duplicate key value violates unique constraint "accounts_email_key"',),
        ("execute", "register", "dispatch"),
        2,
        (8, 0),
        "POST /account",
    ),
    Issue(
        "ValueError",
        ("invalid literal for int() with base 10: '{n},5'",),
        ("stock",),
        1,
        (0.6, 0),
        "job: reserve-stock",
    ),
    Issue(
        "UnicodeDecodeError",
        ("'utf-8' codec can't decode byte 0xe4 in position {n}: invalid continuation byte",),
        ("encode",),
        1,
        (7.8, 6),
        "job: reserve-stock",
        status="resolved",
        resolved_age=5.8,
    ),
    Issue(
        "JSONDecodeError",
        ("Expecting value: line 1 column 1 (char 0)",),
        ("loads", "answer", "assistant", "dispatch"),
        2,
        (5, 0),
        "POST /api/assistant",
    ),
    Issue(
        "SMTPServerDisconnected",
        ("Connection unexpectedly closed",),
        ("send",),
        1,
        (8, 0),
        "job: send-invoices",
        level="warning",
    ),
    Issue(
        "ConnectionError",
        ("Error 104 while reading from cache-1:6379. Connection reset by peer.",),
        ("session", "dispatch"),
        2,
        (6.5, 3),
        "GET /",
        status="resolved",
        resolved_age=2.8,
    ),
    Issue(
        "AttributeError",
        ("'NoneType' object has no attribute 'count'",),
        ("reviews",),
        3,
        (2.4, 0),
        "GET /products/:id",
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
            ("http.client", "POST https://api.payments.example/v1/charges", 0.7),
            ("queue.publish", "send-invoices", 0.05),
        ),
    ),
    "POST /account": (3, 190, 0.02, (("db.query", "INSERT INTO accounts VALUES ($1, $2)", 0.3),)),
    "POST /api/assistant": (9, 2600, 0.03, (("db.query", "SELECT * FROM chats WHERE id = $1", 0.02),)),
    "job: send-invoices": (4, 1500, 0.02, (("template.render", "invoice.html", 0.3), ("smtp.send", "mail-1", 0.6))),
    "job: resize-images": (3, 3200, 0.03, (("fs.read", "upload.jpg", 0.1), ("image.resize", "thumbnail", 0.8))),
    "job: reserve-stock": (4, 300, 0.01, (("db.query", "UPDATE stock SET reserved = reserved + $1", 0.8),)),
}
"""Of each route: its weight, median duration in milliseconds, share of failures, and spans, each with its share."""

MODELS: dict[str, tuple[str, float | None, float, float]] = {
    "claude-sonnet-4": ("anthropic", 3.0, 15.0, 0.6),
    "gpt-4.1-mini": ("openai", None, 0.0, 0.4),
    "google/gemini-2.5-flash": ("openrouter", 0.3, 2.5, 0.0),
    "meta-llama/llama-3.3-70b-instruct": ("openrouter", None, 0.0, 0.0),
}
"""Of each model: its provider, US dollars for a million tokens in and out, and the share of calls that hit a cache.

A client does not always know the price; then it sends no cost.
"""

PRICE = prices.Price("openai", "gpt-4.1-mini", Decimal("0.4"), Decimal("0.1"), None, Decimal("1.6"))
"""What the service computes the cost of one of these models from. The other has no price, and is listed so."""

FEATURES = {
    "chat": "claude-sonnet-4",
    "review-summary": "gpt-4.1-mini",
    "translation": "google/gemini-2.5-flash",
    "product-tags": "meta-llama/llama-3.3-70b-instruct",
}


class Shop:
    """A week of the shop.

    Args:
        random: decides everything but the ids, which are new in each run.
        now: the end of the week.
    """

    def __init__(self, random: Random, now: datetime) -> None:
        self._random, self._now = random, now
        # In turn, so that a small demo has each.
        self._features = cycle(("chat", "review-summary", "chat", "translation", "chat", "product-tags", "chat"))
        self._users = [
            {"id": f"user_{n}", "email": f"{name}@example.com", "plan": "plus" if n % 4 else "free"}
            for n, name in enumerate(f"{colour}.{animal}" for animal in ANIMALS for colour in COLOURS)
        ]

    def items(self, count: int) -> list[Item]:
        """Return about so many items, the oldest first."""
        items: list[Item] = []
        # Each issue happens at least once, early in its time, also in a small demo.
        for issue in ISSUES:
            oldest, newest = issue.ages
            items += self._visit(oldest - 0.1 * self._random.random() * (oldest - newest), issue.route, issue)
        routes, issues = [route[0] for route in ROUTES.values()], [issue.weight for issue in ISSUES]
        while len(items) < count:
            if self._random.random() < 0.3:
                [issue] = self._random.choices(ISSUES, issues)
                items += self._visit(self._age(*issue.ages), issue.route, issue)
            else:
                [route] = self._random.choices(list(ROUTES), routes)
                items += self._visit(self._age(DAYS, 0), route, None)
        return sorted(items, key=lambda item: str(item["timestamp"]))

    def _age(self, oldest: float, newest: float) -> float:
        """Return an age in days: most people come in the evening."""
        while True:
            age = self._random.uniform(newest, oldest)
            hour = (self._now - timedelta(days=age)).hour
            if self._random.random() < 0.55 - 0.45 * math.cos((hour - 7) / 24 * 2 * math.pi):
                return age

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
        if 4.1 <= age <= 4.3:
            # While the database of the search times out, everything waits.
            duration *= random.uniform(3, 12)
        # Some people come every day.
        user = self._users[int(len(self._users) * random.random() ** 2)]
        trace_id, span_id = uuid.uuid4().hex, uuid.uuid4().hex[:16]
        common = {
            "traceId": trace_id,
            "environment": "production" if random.random() < 0.95 else "staging",
            "release": release,
            "user": user,
        }
        tags = {
            "region": random.choices(("eu-central", "eu-west", "us-east"), (5, 3, 2))[0],
            "host": f"web-{random.randint(1, 3)}",
            "plan": user["plan"],
        }
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
        feature = next(self._features)
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
            cost: Item = {}
            if input_price is not None:
                paid = (tokens - cached) * input_price + cached * input_price / 10 + output * output_price
                cost = {"totalCostUsd": round(paid / 1e6, 6)}
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
                    **cost,
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
        in_browser = any(FRAMES[name]["filename"].endswith((".ts", ".tsx", ".js", "jsonp")) for name in issue.frames)
        if in_browser:
            tags = {**tags, "browser": random.choices(("Chrome 142", "Safari 26", "Firefox 145"), (6, 3, 1))[0]}
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
COLOURS = ("amber", "blue", "coral", "green", "grey", "indigo", "red", "silver", "violet", "white")
ANIMALS = ("badger", "finch", "heron", "lynx", "marten", "otter", "panda", "robin", "seal", "swift")


def release_of(route: str, age: float) -> str:
    """Return the release that serves a route so many days before now."""
    if route.startswith("job"):
        return "shop-worker@1.4.2" if age > 0.2 else "shop-worker@1.5.0"
    if route in ("GET /cart", "GET /products/:id"):
        return "shop-web@4.12.3" if age > 4.4 else "shop-web@4.12.4" if age > 1.6 else "shop-web@4.13.0"
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


def set_price(connection: psycopg.Connection[Any]) -> None:
    """Store PRICE, unless the operator has a price for the model."""
    [(known,)] = connection.execute(
        "SELECT count(*) FROM opensentry.price_history(%s, %s)", (PRICE.provider, PRICE.model)
    ).fetchall()
    if not known:
        prices.store(connection, [PRICE])


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
            set_price(connection)
    except (psycopg.Error, OSError) as error:
        print(f"demo: {' '.join(str(error).split())}: is the service running on {arguments.url}?", file=sys.stderr)
        return 1
    print(f"sent {len(items):,} items of {DAYS} days to the project {PROJECT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
