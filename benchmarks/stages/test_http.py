"""HTTP towards the client: from the bytes of a request to the route, and from the response to its bytes (ADR 0051)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from harness.chat_scene import BEARER, ORG
from harness.http_scene import RecordingRequestObserver
from harness.server_connection import RecordingTransport
from ibex.adapters.http_server.asgi import JSON, Response
from ibex.adapters.http_server.client_connection import AsgiClient, ClientConnection, Limits
from ibex.adapters.http_server.context import RequestContext, context_of
from ibex.adapters.http_server.direct_request import DirectRoute, DirectRoutes
from ibex.adapters.http_server.early_refusal import EarlyRefusals
from ibex.adapters.http_server.errors import ErrorResponses
from ibex.adapters.http_server.outer_middleware import OuterMiddleware
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.system.ids import SystemIds
from ibex.domain.proxying.capacity import Capacity, Reservation

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from ibex.adapters.http_server.asgi import Receive, Scope, Send

PATH = "/v1/chat/completions"
BODY = b'{"model":"gpt-4o","messages":[{"role":"user","content":"What is an ibex?"}],"stream":false}'
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
    b"User-Agent: OpenAI/Python 3.54.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 3.54.0\r\n"
    b"X-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n"
    b"X-Stainless-Runtime-Version: 3.11.7\r\nAuthorization: %b\r\n"
    b"X-Stainless-Async: false\r\nx-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (BEARER.encode(), len(BODY), BODY)
)
CAPACITY = Capacity(slots=100, body_bytes=1 << 20, max_authenticating=100)
RESPONSE = Response(200, JSON, b'{"choices":[]}' * 20, [(b"x-ibex-session-id", b"0" * 36)])


async def answer(_context: RequestContext, client: ClientConnection, _path_template: str) -> None:
    """Read the body and answer, without a use case."""
    async with client:
        reservation = Reservation(CAPACITY)
        reservation.take_slot(ORG)
        await client.read_body(len(BODY), reservation)
        await client.send_response(RESPONSE)
    reservation.release()


async def answer_by_asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Do the same for an ASGI request."""
    await answer(context_of(scope), AsgiClient(scope, receive, send, Limits()), PATH)


class _Observer(RecordingRequestObserver):
    """An observer that records failures alone."""

    def began(self, *_: Any) -> None:
        """Do nothing."""

    def ended(self, *_: Any) -> None:
        """Do nothing."""


@pytest.mark.parametrize("path", ["by asgi", "direct"])
def test_http_of_one_request(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, path: str) -> None:
    """A request with the headers of OpenAI's SDK, on a kept-alive connection."""
    clock, ids, observer = SystemClock(), SystemIds(), _Observer()
    errors = ErrorResponses(clock, None)
    early = EarlyRefusals({b"POST": [PATH]}, errors, observer, clock, ids)
    fast_paths = {("POST", PATH.encode()): (PATH, answer_by_asgi)}
    app = OuterMiddleware(answer_by_asgi, errors, observer, clock, ids, fast_paths=fast_paths, early_refusals=early)
    if path == "direct":
        app.direct_routes = DirectRoutes([DirectRoute(PATH, PATH, answer, Limits())], app.serve_directly, clock)
    config = uvicorn.Config(
        app, interface="asgi3", log_config=None, access_log=False, lifespan="off", proxy_headers=False
    )
    config.load()

    async def make() -> LimitedHttpProtocol:
        state = ServerState()
        state.default_headers = [(b"date", b"Mon, 30 Nov 2026 20:00:00 GMT")]
        protocol = LimitedHttpProtocol(config=config, server_state=state, app_state={})
        protocol.connection_made(transport)
        return protocol

    transport = RecordingTransport()
    protocol = loop.run_until_complete(make())

    async def requests(count: int) -> None:
        for _ in range(count):
            protocol.data_received(REQUEST)
            await asyncio.sleep(0)
            assert transport.writings[-1].startswith(b"HTTP/1.1 200")
            transport.writings.clear()
            transport.written = b""

    loop.run_until_complete(requests(10))
    benchmark(lambda: loop.run_until_complete(requests(1)))
