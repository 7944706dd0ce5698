"""Tests of a complete response as an ASGI application."""

from __future__ import annotations

from harness.http_scene import AsgiCall
from ibex.adapters.http_server.asgi import Response


async def test_a_response_sends_its_head_and_its_body() -> None:
    """It sets length and type itself, and sends the other headers unchanged."""
    call = AsgiCall()

    await Response(201, b"text/plain", b"abc", [(b"x-a", b"1")])({}, call.receive, call.send)

    response = call.response()
    assert (response.status, response.body) == (201, b"abc")
    assert response.headers == {"content-type": "text/plain", "content-length": "3", "x-a": "1"}


def test_the_repr_does_not_contain_the_body() -> None:
    """A response in a log reveals no content."""
    assert "canary" not in repr(Response(200, b"text/plain", b"canary", []))
