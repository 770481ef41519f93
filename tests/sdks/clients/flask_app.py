"""A Flask application that fails."""

import flask

from tests.sdks.clients import shop

shop.start()
app = flask.Flask("shop")


@app.get("/orders/<int:number>")
def order(number: int) -> str:
    return shop.order(number)


@app.get("/messages/<text>")
def message(text: str) -> str:
    return shop.message(text)


@app.get("/twice")
def twice() -> str:
    return shop.twice()


shop.answer(app.test_client().get)
