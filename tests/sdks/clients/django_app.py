"""A Django application that fails. It is asked for each path that its input names, one on each line."""

import os
import sys

import django
import sentry_sdk
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

sentry_sdk.init(dsn=os.environ["DSN"], release="shop@1.2.3", environment="testing", traces_sample_rate=1.0)


def order(request: HttpRequest, number: int) -> HttpResponse:
    with sentry_sdk.start_span(op="db", name="SELECT 1"):
        pass
    if number == 0:
        raise LookupError("no such order")
    return HttpResponse("order")


urlpatterns = [path("orders/<int:number>", order)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["testserver"], SECRET_KEY="test")
django.setup()
client = Client(raise_request_exception=False)
for line in sys.stdin:
    client.get(line.strip())
    sentry_sdk.flush(timeout=20)
    print("done", flush=True)
