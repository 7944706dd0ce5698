"""The types of ASGI (ASGI specification 3.0), and a complete response as an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from ibex.domain.value_object import value_object

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

START: Final = "http.response.start"
BODY: Final = "http.response.body"
DISCONNECT: Final = "http.disconnect"
JSON: Final = b"application/json"


@value_object
class Response:
    """A complete response, which is an ASGI application that sends it. Its repr shows no body."""

    status: int
    content_type: bytes
    body: bytes
    headers: Headers

    def __repr__(self) -> str:
        return f"<Response {self.status} {len(self.body)} bytes>"

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the response."""
        for message in self.messages():
            await send(message)

    def messages(self) -> tuple[Message, Message]:
        """Return the two ASGI messages of the response."""
        headers = [(b"content-type", self.content_type), (b"content-length", b"%d" % len(self.body))]
        return (
            {"type": START, "status": self.status, "headers": headers + self.headers},
            {"type": BODY, "body": self.body, "more_body": False},
        )
