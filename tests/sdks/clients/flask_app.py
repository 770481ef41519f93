"""A Flask application that fails."""

import flask

from tests.sdks.clients import shop

shop.start()
app = flask.Flask("shop")


@app.get("/orders/<int:number>")
def order(number: int) -> str:
    return shop.order(number)


shop.answer(app.test_client().get)
