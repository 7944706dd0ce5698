"""A whole answer is two messages."""

from __future__ import annotations

from harness.http_scene import AsgiCall
from ibex.adapters.http_server.asgi import Response


async def test_an_answer_sends_its_head_and_its_body() -> None:
    """Length and type are its own, other headers come as given."""
    call = AsgiCall()

    await Response(201, b"text/plain", b"abc", [(b"x-a", b"1")])({}, call.receive, call.send)

    response = call.response()
    assert (response.status, response.body) == (201, b"abc")
    assert response.headers == {"content-type": "text/plain", "content-length": "3", "x-a": "1"}


def test_an_answer_does_not_show_its_body() -> None:
    """A repr in a log tells no secret."""
    assert "canary" not in repr(Response(200, b"text/plain", b"canary", []))
