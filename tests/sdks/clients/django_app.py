"""A Django application that fails."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from werkzeug.test import Client

from tests.sdks.clients import shop

shop.start()


def order(request: HttpRequest, number: int) -> HttpResponse:
    return HttpResponse(shop.order(number))


def message(request: HttpRequest, text: str) -> HttpResponse:
    return HttpResponse(shop.message(text))


def twice(request: HttpRequest) -> HttpResponse:
    return HttpResponse(shop.twice())


urlpatterns = [path("orders/<int:number>", order), path("messages/<text>", message), path("twice", twice)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost"], SECRET_KEY="test")
# Not Django's own client, which goes around what the SDK wraps.
shop.answer(Client(get_wsgi_application()).get)
