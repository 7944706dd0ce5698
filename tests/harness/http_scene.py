"""The HTTP application over scripted collaborators, called as an ASGI server would call it or served on a socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import uvicorn

from harness.chat_scene import AGENT, BEARER, ChatScene, ScriptedStream, chat_request, pause
from ibex.adapters.http_server.app import create_app
from ibex.adapters.http_server.client_connection import Limits
from ibex.adapters.http_server.connections import ConnectionLimits
from ibex.adapters.http_server.drain import Drain
from ibex.adapters.http_server.errors import status_of
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol
from ibex.adapters.openai_api.chat_completions import ChatCompletions
from ibex.adapters.openai_api.operations import OPERATION_NAMES
from ibex.adapters.telemetry.model_lists import ModelListTelemetry
from ibex.domain.proxying.model_list import RoutedModels
from ibex.domain.proxying.provider import Dialect, ProviderBody, ProviderRegistry
from ibex.domain.record.recorder import ExchangeObserver, Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from uuid import UUID

    from ibex.adapters.http_server.asgi import App, Message
    from ibex.adapters.http_server.observer import RequestObserver
    from ibex.adapters.http_server.openapi import DocumentedOperation
    from ibex.adapters.http_server.readiness import ReadinessCheck
    from ibex.domain.errors import ErrorCode
    from ibex.domain.proxying.provider import ProviderModel, ProviderStream
    from ibex.domain.record.in_flight import InFlightExchange

CHAT = "/v1/chat/completions"
REQUEST = b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}'
STREAM_REQUEST = REQUEST[:-1] + b',"stream":true}'
COMPLETION = b'{ "choices" : [{"index":0,"finish_reason":"stop","message":{"content":"Hi"}}]}\n'
HEADERS: dict[str, str | None] = {
    "authorization": BEARER,
    "x-ibex-agent-id": str(AGENT),
    "content-type": "application/json",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that has ended."""

    method: str
    route: str
    status: int
    in_flight: InFlightExchange | None


@dataclass(slots=True)
class RecordingRequestObserver:
    """A ``RequestObserver`` that records every notification."""

    begun: list[UUID] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    requests: list[Ended] = field(default_factory=list)
    sampled: bool = False
    one_over: asyncio.Event = field(default_factory=asyncio.Event)

    def began(self, request_id: UUID, trace_id: str, parent: str | None = None) -> None:
        """Record the start of a request."""
        del parent
        assert trace_id
        self.begun.append(request_id)

    def is_sampled(self, method: str, route: str) -> bool:
        """Return ``sampled``."""
        assert method
        assert route
        return self.sampled

    def failed(self, error: BaseException) -> None:
        """Record the exception."""
        self.failures.append(error)

    def ended(self, method: str, route: str, status: int, duration_ns: int, in_flight: InFlightExchange | None) -> None:
        """Record the end of a request."""
        assert duration_ns >= 0
        self.requests.append(Ended(method, route, status, in_flight))
        self.one_over.set()

    def refused(self, method: str, route: str, status: int, code: ErrorCode, duration_ns: int) -> None:
        """Record the refusal."""
        assert code
        self.ended(method, route, status, duration_ns, None)


@dataclass(slots=True)
class ScriptedCheck:
    """A ``ReadinessCheck`` that fails on demand, or waits until it is released."""

    name: str
    critical: bool = False
    failure: Exception | None = None
    hold: asyncio.Event | None = None
    asked: int = 0

    async def check(self) -> None:
        """Pass, fail or wait, as scripted."""
        self.asked += 1
        await pause()
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure


@dataclass(slots=True)
class HeldStream:
    """A ``ProviderStream`` that yields the items of its queue; None ends it."""

    queue: asyncio.Queue[Sequence[Any] | Exception | None] = field(default_factory=asyncio.Queue)
    attempts: int = 1
    provider_request_id: str | None = "req_held"
    processing_ms: int | None = None
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aiter__(self) -> AsyncIterator[Sequence[Any]]:
        """Yield the items of the queue."""
        while (read := await self.queue.get()) is not None:
            if isinstance(read, Exception):
                raise read
            yield read

    def pass_to(self, take: Callable[[Sequence[Any]], bool] | None) -> None:
        """Do nothing; see ``ProviderStream``."""

    async def aclose(self) -> None:
        """Record that the stream was closed."""
        self.closed.set()


@dataclass(slots=True)
class HeldProvider:
    """A ``Provider`` that answers only after its release. It reports when it is called and when it is cancelled."""

    answer: ProviderBody
    dialect: Dialect = field(default_factory=Dialect)
    operations: frozenset[str] = OPERATION_NAMES
    name: str = "openai"
    models: tuple[str, ...] = ("gpt-*",)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def list_models(self) -> Sequence[ProviderModel]:
        """Not called in this scene."""
        raise NotImplementedError

    async def complete(self, request: object) -> ProviderBody:
        """Wait, then answer."""
        assert request is not None
        self.asked.set()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return self.answer


@dataclass(frozen=True, slots=True)
class Response:
    """A response. ``chunks`` are the bodies of the ASGI messages."""

    status: int
    headers: dict[str, str]
    chunks: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        """The whole body of the response."""
        return b"".join(self.chunks)

    @property
    def error(self) -> dict[str, Any]:
        """The content of the error envelope."""
        content: dict[str, Any] = json.loads(self.body)["error"]
        return content


class HttpScene:
    """A chat scene behind the HTTP application. A test changes the collaborators' answers before a call."""

    def __init__(self, answer: ProviderBody | ProviderStream | Exception | None = None) -> None:
        self.chat = ChatScene(ProviderBody(COMPLETION) if answer is None else answer, chat_request())
        self.observer: RecordingRequestObserver = RecordingRequestObserver()
        self.checks: list[ReadinessCheck] = []
        self.drain = Drain()
        self.limits = Limits()
        self.docs_base: str | None = None
        self.base_path = ""
        self.cors_origins: Sequence[str] = ()
        self.operations: list[DocumentedOperation] = [ChatCompletions()]
        self.metrics = b"metrics 1\n"

    def app(self, observer: RequestObserver | None = None, exchange_observers: Sequence[ExchangeObserver] = ()) -> App:
        """Return the application over the collaborators in their present state."""
        chat = self.chat
        chat.recorder = Recorder(
            chat.journal, [chat.observer, *exchange_observers], chat.ids, status_of, chat.responses.remember
        )
        return create_app(
            operations=self.operations,
            proxy_request=chat.use_case(),
            admission=chat.admission(),
            models=RoutedModels(ProviderRegistry([chat.provider]), chat.clock, ModelListTelemetry()),
            clock=chat.clock,
            ids=chat.ids,
            render_metrics=lambda: (self.metrics, "text/plain; version=0; charset=utf-8"),
            readiness_checks=self.checks,
            drain=self.drain,
            observer=observer or self.observer,
            limits=self.limits,
            capacity=self.chat.capacity,
            error_docs_base=self.docs_base,
            base_path=self.base_path,
            cors_origins=self.cors_origins,
        )

    async def post(
        self, body: bytes | Sequence[bytes] = REQUEST, path: str = CHAT, headers: dict[str, str | None] | None = None
    ) -> Response:
        """Send a POST request with a body in one or more parts, and changed headers; None omits a header."""
        return await call(self.app(), "POST", path, HEADERS | (headers or {}), body)

    async def get(self, path: str, method: str = "GET", headers: dict[str, str | None] | None = None) -> Response:
        """Send a GET request with changed headers; None omits a header."""
        return await call(self.app(), method, path, HEADERS | (headers or {}))


def encoded(headers: dict[str, str | None]) -> list[tuple[bytes, bytes]]:
    """Return headers in the form in which an ASGI server passes them."""
    return [(n.encode(), v.encode("latin-1")) for n, v in headers.items() if v is not None]


def chat_scope(*more: tuple[bytes, bytes]) -> dict[str, Any]:
    """Return the scope of a chat request with the usual headers and additional ones."""
    return scope_of("POST", CHAT, [*encoded(HEADERS), *more])


def scope_of(method: str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Return the scope of a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"ibex.test"), *headers],
        "client": None,
        "server": None,
    }


@dataclass(slots=True)
class AsgiCall:
    """One request as a server sees it. Setting ``leave`` disconnects the client; clearing ``accept`` stops its reading.

    Without ``ends`` the request body remains incomplete.
    """

    parts: Sequence[bytes] = (b"",)
    ends: bool = True
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    accept: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[Message] = field(default_factory=list)
    something_sent: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    given: int = 0

    def __post_init__(self) -> None:
        self.accept.set()

    async def run(self, app: App, scope: dict[str, Any]) -> None:
        """Run an application on the request."""
        await app(scope, self.receive, self.send)

    async def until_sent(self, messages: int) -> None:
        """Return once this many messages were sent."""
        while len(self.sent) < messages:
            self.something_sent.clear()
            await self.something_sent.wait()

    async def receive(self) -> Message:
        """Return the parts of the body, then wait until the client leaves or has its answer."""
        await pause()
        if self.given < len(self.parts) and not self.leave.is_set():
            self.given += 1
            more = self.given < len(self.parts) or not self.ends
            return {"type": "http.request", "body": self.parts[self.given - 1], "more_body": more}
        waits = [asyncio.create_task(event.wait()) for event in (self.leave, self.finished)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Accept a message, unless the client has left."""
        await self.accept.wait()
        if self.leave.is_set():
            return
        self.sent.append(message)
        self.something_sent.set()
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.finished.set()

    def response(self) -> Response:
        """Return the response that was sent."""
        start, *bodies = self.sent
        headers = [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]]
        assert len(dict(headers)) == len(headers), "a header was sent twice"
        return Response(start["status"], dict(headers), tuple(message["body"] for message in bodies))


async def call(
    app: App,
    method: str,
    path: str,
    headers: dict[str, str | None] | None = None,
    body: bytes | Sequence[bytes] = b"",
) -> Response:
    """Call an application and return its whole response."""
    exchange = AsgiCall((body,) if isinstance(body, bytes) else body)
    await exchange.run(app, scope_of(method, path, encoded(headers or {})))
    assert exchange.finished.is_set()
    return exchange.response()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        """Stop as soon as the server is told to, not at uvicorn's next tick."""
        ticking = asyncio.create_task(super().main_loop())
        ending = asyncio.create_task(self.ending.wait())
        await asyncio.wait([ticking, ending], return_when=asyncio.FIRST_COMPLETED)
        for task in (ticking, ending):
            task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def served(app: App, limits: ConnectionLimits | None = None) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    """Serve an application on a loopback socket as the proxy does; yield its address and the server."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            http=LimitedHttpProtocol.limited(limits or ConnectionLimits()),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.listening.wait()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
        finally:
            server.should_exit = True
            server.ending.set()
            await serving


def scripted_stream(*reads: Any) -> ScriptedStream:
    """Return a provider stream with these reads."""
    return ScriptedStream(reads)
