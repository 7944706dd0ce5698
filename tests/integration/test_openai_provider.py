"""The OpenAI adapter over real sockets, against the faults that a provider can have (docs: faults)."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from harness.cancellation import Cut, Moment, run_cut
from harness.chat_scene import outgoing_request
from harness.memory.clock import ManualClock
from harness.openai import ScriptedOpenAI
from harness.openai_wire import (
    DONE,
    JSON_TYPE,
    REQUEST_ID,
    SSE_TYPE,
    Close,
    Gate,
    Pause,
    Reset,
    Send,
    Silent,
    answer,
    broken_chunk,
    chunked,
    completion,
    completion_body,
    connection_close,
    cut_in_body,
    error,
    gzipped,
    gzipped_stream,
    head,
    html,
    http_1_0,
    informational_first,
    length_too_long,
    length_too_short,
    no_content,
    open_stream,
    redirect,
    stream,
    stream_events,
    text_deltas,
    text_stream,
)
from ibex.adapters.http_client.httpx_transport import httpx_transport
from ibex.adapters.http_client.pool import PoolLimits
from ibex.adapters.http_client.transport import Http1Transport, default_transport
from ibex.adapters.openai.config import ApiKey, OpenAIConfig
from ibex.adapters.openai.provider import OpenAIProvider
from ibex.adapters.openai.stream import OpenAIStream
from ibex.domain.errors import IbexError, OverloadedError
from ibex.domain.provider_errors import (
    ProviderError,
    ProviderRateLimitedError,
    ProviderRefusal,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from ibex.domain.proxying.provider import ProviderBody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from harness.openai_wire import Script
    from ibex.adapters.http_client.httpx_transport import CancelSafeTransport
    from ibex.domain.proxying.provider import StreamEvent

pytestmark = [pytest.mark.integration, pytest.mark.both_loops]

KEY = "sk-canary-6d"
SHORT_S = 0.2
EVENTS = stream_events(text_deltas("Grüße", " an", " alle"))


async def _no_sleep(seconds: float) -> None:
    del seconds
    await asyncio.sleep(0)


class Client:
    """Providers over one transport, with the configuration that a test needs. Retries do not sleep."""

    def __init__(self, server: ScriptedOpenAI, transport: Http1Transport | CancelSafeTransport) -> None:
        self.server = server
        self.transport = transport

    def provider(self, **config: Any) -> OpenAIProvider:
        """Return a provider of the server."""
        options = {"base_url": self.server.base_url} | config
        return OpenAIProvider(
            OpenAIConfig(api_key=ApiKey(KEY), **options), self.transport, ManualClock(), sleep=_no_sleep
        )

    async def fails(self, kind: type[IbexError], *, stream: bool = False, **config: Any) -> Any:
        """Send a request and return its error, which must be of this kind. The next request must succeed."""
        with pytest.raises(kind) as raised:
            await self.provider(**config).complete(outgoing_request(stream=stream))
        assert type(raised.value) is kind
        await self.is_healthy()
        return raised.value

    async def answers(self, text: str = "well", **config: Any) -> ProviderBody:
        """Send a request and return the body, which must be this completion. The next request must succeed."""
        body = await self.provider(**config).complete(outgoing_request())
        assert isinstance(body, ProviderBody)
        assert body.body == completion_body(text)
        await self.is_healthy()
        return body

    async def reads(self, **config: Any) -> tuple[list[StreamEvent], IbexError | None]:
        """Send a request and read its stream. Return its events and its final error. The next request must succeed."""
        answer = await self.provider(**config).complete(outgoing_request(stream=True))
        assert isinstance(answer, OpenAIStream)
        events: list[StreamEvent] = []
        failure = None
        try:
            async for read in answer:
                events += read
        except IbexError as error:
            failure = error
        await answer.aclose()
        await self.is_healthy()
        return events, failure

    async def is_healthy(self) -> None:
        """Assert that no request is open, and that a buffered and a streamed request succeed at the first attempt."""
        if not isinstance(self.transport, Http1Transport):
            await self.transport.settle()
        assert self.transport.open_requests == 0
        self.server.put(completion("healthy"), text_stream("healthy"))
        body = await self.provider(max_retries=0).complete(outgoing_request())
        assert isinstance(body, ProviderBody)
        assert body.body == completion_body("healthy")
        healthy = await self.provider(max_retries=0).complete(outgoing_request(stream=True))
        assert isinstance(healthy, OpenAIStream)
        assert [event.data async for events in healthy for event in events][-1] == b"[DONE]"
        await healthy.aclose()
        assert self.transport.open_requests == 0


@pytest.fixture(params=["direct", "httpx"])
async def client(openai_server: ScriptedOpenAI, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """A client of the scripted server, over each transport."""
    transport = default_transport() if request.param == "direct" else httpx_transport(openai_server.base_url, 100)
    yield Client(openai_server, transport)
    await transport.aclose()


def raw(events: list[StreamEvent]) -> bytes:
    """Return all bytes of events."""
    return b"".join(event.raw for event in events)


async def test_a_request_is_sent_unchanged_with_allowed_headers_only(client: Client) -> None:
    """The provider gets the exact body, and only the headers of the allow-list."""
    client.server.put(completion("well"))
    await client.answers()
    (sent, *_) = client.server.requests
    assert (sent.method, sent.path) == ("POST", "/v1/chat/completions")
    assert sent.body == outgoing_request().body
    assert sorted(name for name, _ in sent.headers) == [
        *("accept", "accept-encoding", "authorization", "content-length", "content-type", "host", "user-agent")
    ]
    assert (sent.header("authorization"), sent.header("accept-encoding")) == (f"Bearer {KEY}", "identity")


async def test_connections_are_reused(client: Client) -> None:
    """A connection is reused after bodies, streams, refusals and errors."""
    client.server.put(completion("well"), text_stream("well"), error(400), error(503), error(404), completion("well"))
    provider = client.provider(max_retries=0)
    for n in range(6):
        try:
            answer = await provider.complete(outgoing_request(stream=n == 1))
        except ProviderError:
            continue
        if isinstance(answer, OpenAIStream):
            assert await anext(answer)
            async for events in answer:
                if events[-1].raw == DONE:
                    break
            await answer.aclose()
    assert (len(client.server.requests), client.server.connections) == (6, 1)


async def test_proxies_of_the_environment_are_not_used(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables such as HTTP_PROXY, which other programs need, must not send the API key elsewhere."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    client.transport = default_transport()
    await client.is_healthy()
    await client.transport.aclose()


async def test_a_server_that_refuses_connections_is_unavailable_after_all_retries(client: Client) -> None:
    """The error has the number of attempts and the reason. A request to a running server then succeeds."""
    gone = ScriptedOpenAI()
    await gone.start()
    await gone.stop()
    error = await client.fails(ProviderUnavailableError, base_url=gone.base_url)
    assert (error.attempts, error.provider_request_id) == (4, None)
    server = gone.base_url.split("/")[2]
    assert error.connect_failure == f"cannot connect to {server}: connection refused"


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_name_that_does_not_resolve_is_unavailable_after_all_retries(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test replaces the resolver by one that fails, so that it queries no name server."""

    async def no_address(*_args: object, **_kwargs: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_address)
        with pytest.raises(ProviderUnavailableError) as raised:
            await client.provider(base_url="http://nowhere.invalid/v1").complete(outgoing_request())
    assert raised.value.attempts == 4
    assert raised.value.connect_failure == "cannot connect to nowhere.invalid: name not resolved"
    await client.is_healthy()


async def test_a_server_without_tls_is_unavailable(client: Client) -> None:
    """The adapter never sends a request to an https URL in plaintext."""
    address = client.server.base_url.replace("http://", "https://")
    error = await client.fails(ProviderUnavailableError, base_url=address)
    assert str(error.connect_failure).endswith("the TLS handshake failed")
    assert KEY not in repr(vars(error))


async def test_an_untrusted_certificate_is_unavailable(client: Client) -> None:
    """The adapter verifies TLS, so it never sends the key to such a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    impostor = ScriptedOpenAI()
    await impostor.start(tls=context)
    error = await client.fails(ProviderUnavailableError, base_url=impostor.base_url)
    assert error.attempts == 4
    assert "the TLS certificate is not valid (unable to get local issuer certificate)" in str(error.connect_failure)
    assert impostor.requests == []
    await impostor.stop()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind", "attempts"),
    [
        (400, ProviderRefusedError, 1),
        (401, ProviderUnavailableError, 1),
        (403, ProviderUnavailableError, 1),
        (404, ProviderRefusedError, 1),
        (408, ProviderUnavailableError, 4),
        (409, ProviderRefusedError, 4),
        (413, ProviderRefusedError, 1),
        (422, ProviderRefusedError, 1),
        (429, ProviderRateLimitedError, 4),
        (500, ProviderUnavailableError, 4),
        (502, ProviderUnavailableError, 4),
        (503, ProviderUnavailableError, 4),
        (504, ProviderUnavailableError, 4),
        (529, ProviderUnavailableError, 4),
    ],
)
async def test_each_status_of_the_provider_has_its_error_and_attempts(
    client: Client, status: int, kind: type[ProviderError], attempts: int, *, stream: bool
) -> None:
    """The error also has the provider's request id, and the provider's message only if it is a refusal."""
    client.server.put(*[error(status, "canary-2e")] * attempts)
    failure = await client.fails(kind, stream=stream)
    assert (failure.attempts, failure.provider_request_id) == (attempts, REQUEST_ID)
    assert ("canary-2e" in repr(vars(failure))) is (kind is ProviderRefusedError)


async def test_a_refusal_keeps_the_fields_of_the_provider(client: Client) -> None:
    """Clients check the code, for example of a context that is too long."""
    client.server.put(error(400, "too long", code="context_length_exceeded", param="messages"))
    refusal = await client.fails(ProviderRefusedError)
    assert (refusal.refusal, refusal.detail, refusal.param) == (ProviderRefusal.BAD_REQUEST, "too long", "messages")
    assert (refusal.provider_type, refusal.provider_code) == ("invalid_request_error", "context_length_exceeded")


async def test_a_rate_limit_with_a_long_delay_is_not_retried(client: Client) -> None:
    """The error has the delay."""
    client.server.put(error(429, headers={"retry-after": "120"}))
    failure = await client.fails(ProviderRateLimitedError)
    assert (failure.attempts, failure.retry_after_s) == (1, 120)


async def test_transient_failures_are_retried(client: Client) -> None:
    """The client gets the completion of the fourth attempt."""
    client.server.put(error(503), (Close(),), (Reset(),), completion("well"))
    assert (await client.answers()).attempts == 4


async def test_a_dead_idle_connection_is_replaced(client: Client) -> None:
    """The next request finds it closed or loses it, and is sent on another connection."""
    await client.is_healthy()
    await client.server.cut()
    client.server.put(completion("well"))
    await client.answers()


@pytest.mark.parametrize("stream", [False, True])
async def test_silence_before_the_headers_times_out(client: Client, *, stream: bool) -> None:
    """The request is not retried, and its connection is closed."""
    client.server.put((Silent(),))
    failure = await client.fails(ProviderTimeoutError, stream=stream, first_byte_timeout_s=SHORT_S)
    assert failure.attempts == 1
    await client.server.requests[0].closed_at()


async def test_silence_after_the_headers_of_a_stream_times_out(client: Client) -> None:
    """The timeout for the first byte still applies."""
    client.server.put((*open_stream(), Silent()))
    events, failure = await client.reads(first_byte_timeout_s=SHORT_S)
    assert (events, type(failure)) == ([], ProviderTimeoutError)


async def test_silence_after_the_first_byte_times_out(client: Client) -> None:
    """The reader gets the events so far and then the error. A buffered response times out as well."""
    client.server.put((*open_stream(EVENTS[0]), Silent()))
    events, failure = await client.reads(idle_timeout_s=SHORT_S)
    assert (raw(events), type(failure)) == (EVENTS[0], ProviderTimeoutError)
    client.server.put((Send(head(200, {"content-type": JSON_TYPE, "content-length": "9"}) + b"{"), Silent()))
    await client.fails(ProviderTimeoutError, idle_timeout_s=SHORT_S)


async def test_a_response_that_never_ends_reaches_the_deadline(client: Client) -> None:
    """The deadline applies to a buffered response even if bytes keep arriving."""
    headers = {"content-type": JSON_TYPE, "transfer-encoding": "chunked"}
    client.server.put((Send(head(200, headers)), *[Send(chunked(b" "))] * 100_000, Silent()))
    await client.fails(ProviderTimeoutError, request_timeout_s=0.2)


async def test_the_deadline_does_not_apply_to_a_stream(client: Client) -> None:
    """The stream ends only by the idle timeout."""
    client.server.put((*open_stream(), *[Send(chunked(b":\n\n"))] * 2_000, Silent()))
    events, failure = await client.reads(request_timeout_s=0.2, idle_timeout_s=0.5)
    assert type(failure) is ProviderTimeoutError
    assert raw(events) == b":\n\n" * 2_000


BROKEN: list[Script] = [
    cut_in_body("cut"),
    length_too_long("long"),
    length_too_short("short"),
    broken_chunk(),
    html(),
    no_content(),
    redirect("http://127.0.0.1:1/elsewhere"),
    (Send(head(200, {"content-type": JSON_TYPE, "content-length": "100"})), Reset()),
    (Send(head(200, {"content-type": JSON_TYPE, "content-length": "100"}) + b"{"), Reset()),
    (Send(head(200, {"content-type": JSON_TYPE}, version="1.0") + b'{"cut'), Close()),
    answer(200, b"{}", JSON_TYPE, {"content-encoding": "zstd"}),
    answer(200, b"\x1f\x8bbroken", JSON_TYPE, {"content-encoding": "gzip"}),
    stream(*EVENTS),
]


@pytest.mark.parametrize("script", BROKEN)
async def test_a_broken_response_is_unavailable_without_a_retry(client: Client, script: Script) -> None:
    """The provider has responded, so the request is not retried, and it never hangs."""
    client.server.put(script)
    failure = await client.fails(ProviderUnavailableError)
    assert (failure.attempts, failure.provider_request_id) == (1, REQUEST_ID)


@pytest.mark.parametrize(
    "data", [b"no http\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nbroken\x00header\r\n\r\n", head(101)]
)
async def test_a_response_that_is_not_http_is_retried(client: Client, data: bytes) -> None:
    """The adapter treats it like a lost connection, because no valid response has begun."""
    client.server.put(*[(Send(data), Close())] * 4)
    assert (await client.fails(ProviderUnavailableError)).attempts == 4


@pytest.mark.parametrize("script", [http_1_0, informational_first, connection_close, gzipped])
async def test_an_unusual_response_is_accepted(client: Client, script: Callable[[str], Script]) -> None:
    """The client gets the exact bytes of the body."""
    client.server.put(script("well"))
    await client.answers()


@pytest.mark.parametrize("script", [html(), no_content(), completion("json"), answer(200, b'{"error":{}}', JSON_TYPE)])
async def test_a_response_that_is_not_a_stream_is_unavailable(client: Client, script: Script) -> None:
    """The client can still get an error envelope."""
    client.server.put(script)
    await client.fails(ProviderUnavailableError, stream=True)


STREAM_HEAD = head(200, {"content-type": SSE_TYPE, "transfer-encoding": "chunked"})
CRLF = b"".join(EVENTS).replace(b"\n", b"\r\n")
ODD = [
    CRLF,
    b"".join(EVENTS).replace(b"\n", b"\r"),
    b": comment\n\n" + b"".join(EVENTS),
    b"event: message\nid: 1\n" + b"".join(EVENTS),
    b"".join(EVENTS).replace(b"data: ", b"data:"),
    b'data: {"choices":\ndata: []}\n\n' + DONE,
    b"data: " + b"x" * (1 << 20) + b"\n\n" + DONE,
    b'data: {"error":{"message":"x"}}\n\n',
    b"".join(EVENTS[:-1]),
    b"".join(EVENTS) + b": after the end\n\n",
]


@pytest.mark.parametrize("body", ODD)
async def test_an_unusual_stream_is_forwarded_unchanged(client: Client, body: bytes) -> None:
    """The events together are exactly the bytes of the provider."""
    client.server.put(stream(body))
    events, failure = await client.reads()
    assert (raw(events), failure) == (body, None)
    assert len(events) > 1 or b"error" in body


async def test_a_stream_split_at_every_byte_has_whole_events(client: Client) -> None:
    """Each chunk has one byte."""
    body = b"".join(EVENTS)
    client.server.put(stream(*(body[i : i + 1] for i in range(len(body)))))
    events, failure = await client.reads()
    assert ([event.raw for event in events], failure) == (EVENTS, None)


async def test_a_compressed_stream_is_decompressed(client: Client) -> None:
    """The provider compresses it although the adapter does not accept compression."""
    client.server.put(gzipped_stream(*EVENTS))
    events, failure = await client.reads()
    assert ([event.raw for event in events], failure) == (EVENTS, None)


@pytest.mark.parametrize(
    "end",
    [
        (Close(),),
        (Send(chunked(b"data: half")), Close()),
        (Send(chunked(b"data: half")), Reset()),
        (Send(b"zz\r\nno chunk"),),
    ],
)
async def test_a_broken_stream_raises_after_its_events(client: Client, end: Script) -> None:
    """The reader gets the complete events and then the error. A reset may lose some of the events."""
    client.server.put((*open_stream(EVENTS[0], EVENTS[1]), *end))
    events, failure = await client.reads()
    assert type(failure) is ProviderUnavailableError
    assert (b"".join(EVENTS[:2]) + b"data: half").startswith(raw(events))
    if Reset() not in end:
        assert raw(events).startswith(b"".join(EVENTS[:2]))


async def test_a_stream_without_a_length_ends_with_its_connection(client: Client) -> None:
    """In HTTP/1.0 only the end of the connection marks the end of the body."""
    client.server.put((Send(head(200, {"content-type": SSE_TYPE}, version="1.0") + b"".join(EVENTS)), Close()))
    events, failure = await client.reads()
    assert ([event.raw for event in events], failure) == (EVENTS, None)


async def test_an_event_is_returned_before_the_next_one_arrives(client: Client) -> None:
    """The provider sends the next event only after the reader has the first."""
    gate = Gate()
    client.server.put((*open_stream(EVENTS[0]), Pause(gate), *stream(*EVENTS[1:])[1:]))
    answer = await client.provider().complete(outgoing_request(stream=True))
    assert isinstance(answer, OpenAIStream)
    assert [event.raw for event in await anext(answer)] == [EVENTS[0]]
    await gate.reached()
    gate.open()
    assert [event.raw async for events in answer for event in events] == EVENTS[1:]
    await answer.aclose()
    await client.is_healthy()


@pytest.mark.parametrize("reads", [0, 1])
async def test_closing_a_stream_stops_the_provider(client: Client, reads: int) -> None:
    """Its connection is closed within a second, whether or not an event was read."""
    client.server.put((*open_stream(EVENTS[0]), Silent()))
    answer = await client.provider().complete(outgoing_request(stream=True))
    assert isinstance(answer, OpenAIStream)
    for _ in range(reads):
        await anext(answer)
    left_at = asyncio.get_running_loop().time()
    await answer.aclose()
    assert await client.server.requests[0].closed_at() - left_at < 1
    await client.is_healthy()


async def test_closing_a_stream_ends_a_pending_read(client: Client) -> None:
    """The read returns the end of the stream."""
    client.server.put((*open_stream(EVENTS[0]), Silent()))
    answer = await client.provider().complete(outgoing_request(stream=True))
    assert isinstance(answer, OpenAIStream)
    await anext(answer)
    reading = asyncio.ensure_future(anext(answer, None))
    await asyncio.sleep(0)
    await answer.aclose()
    assert await reading is None
    await client.is_healthy()


async def test_a_stream_that_stays_open_after_done_is_closed(client: Client) -> None:
    """The adapter closes its connection instead of waiting or keeping it."""
    client.server.put((*open_stream(*EVENTS), Silent()))
    answer = await client.provider().complete(outgoing_request(stream=True))
    assert isinstance(answer, OpenAIStream)
    async for events in answer:
        if events[-1].raw == DONE:
            break
    await answer.aclose()
    await client.server.requests[0].closed_at()
    await client.is_healthy()


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        ((Silent(),), False),
        ((Send(head(200, {"content-type": JSON_TYPE, "content-length": "9"}) + b"{"), Silent()), False),
        ((Silent(),), True),
        ((*open_stream(EVENTS[0]), Silent()), True),
    ],
)
async def test_no_cancellation_leaves_a_connection_open(client: Client, script: Script, *, stream: bool) -> None:
    """The request is cancelled at each wait, once or twice in a row. Its connection closes, and the next works."""
    cuts_reached = 0
    for suspension in range(1, 6):
        for moment in Moment:
            client.server.requests.clear()
            client.server.put(script)

            async def converse() -> None:
                try:
                    answer = await client.provider(idle_timeout_s=0.03, first_byte_timeout_s=0.03).complete(
                        outgoing_request(stream=stream)
                    )
                    assert isinstance(answer, OpenAIStream)
                    try:
                        async for _ in answer:
                            pass
                    finally:
                        await answer.aclose()
                except ProviderTimeoutError:
                    pass

            run = await run_cut(converse, Cut(suspension, moment), Cut(suspension + 1, moment))
            cuts_reached += run.cuts_reached
            assert (run.complaints, run.tasks_left) == ([], [])
            for request in client.server.requests:
                await request.closed_at()
            client.server.scripts.clear()  # the request may have been cut before it was sent
            await client.is_healthy()
    assert cuts_reached > 0


async def test_concurrent_cancelled_requests_close_their_connections(client: Client) -> None:
    """Fifty requests are cancelled while they wait for the provider."""
    client.server.put(*[(Silent(),)] * 50)
    asking = [asyncio.create_task(client.provider().complete(outgoing_request())) for _ in range(50)]
    await client.server.request(50)
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
    for request in list(client.server.requests):
        await request.closed_at()
    await client.is_healthy()


async def test_a_request_beyond_the_connection_limit_is_refused(openai_server: ScriptedOpenAI) -> None:
    """It is refused at once with a retry delay. The other requests succeed."""
    transport = Http1Transport(PoolLimits(connections=2, waiting=0))
    client = Client(openai_server, transport)
    gates = [Gate(), Gate()]
    openai_server.put(*((Pause(gate), *completion("well")) for gate in gates))
    asking = [asyncio.create_task(client.provider().complete(outgoing_request())) for _ in gates]
    await openai_server.request(2)
    with pytest.raises(OverloadedError) as raised:
        await client.provider().complete(outgoing_request())
    assert raised.value.retry_after_s == 1
    for gate in gates:
        gate.open()
    assert all(isinstance(body, ProviderBody) for body in await asyncio.gather(*asking))
    await client.is_healthy()
    await transport.aclose()
