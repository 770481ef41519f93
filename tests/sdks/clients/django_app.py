"""A Django application that fails. It is asked for each path that its input names, one on each line."""

import os
import sys

import sentry_sdk
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from werkzeug.test import Client

sentry_sdk.init(dsn=os.environ["DSN"], release="shop@1.2.3", environment="testing", traces_sample_rate=1.0)
sentry_sdk.set_tag("region", "us-east")


def order(request: HttpRequest, number: int) -> HttpResponse:
    sentry_sdk.set_user({"id": 42, "email": "dev@example.com"})
    sentry_sdk.add_breadcrumb(category="cart", message="added a book", level="info", data={"count": 2})
    with sentry_sdk.start_span(op="db", name="SELECT 1"):
        pass
    if number == 0:
        raise LookupError("no such order")
    return HttpResponse("order")


urlpatterns = [path("orders/<int:number>", order)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost"], SECRET_KEY="test")
# Not Django's own client, which goes around what the SDK wraps.
client = Client(get_wsgi_application())
for line in sys.stdin:
    client.get(line.strip())
    sentry_sdk.flush(timeout=20)
    print("done", flush=True)
