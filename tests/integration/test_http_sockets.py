"""The HTTP surface behind its real server, on a loopback socket."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from harness.chat_scene import event
from harness.http_scene import (
    CHAT,
    COMPLETION,
    HEADERS,
    REQUEST,
    STREAM_REQUEST,
    HeldProvider,
    HeldStream,
    HttpScene,
    scripted_stream,
    served,
)
from ibex.adapters.http_server.client_connection import Limits
from ibex.adapters.http_server.connections import ConnectionLimits
from ibex.domain.provider_errors import ProviderUnavailableError
from ibex.domain.proxying.capacity import Capacity
from ibex.domain.proxying.provider import ProviderBody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.record.exchange import Exchange

pytestmark = pytest.mark.integration

HEL = event(b'{"choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}')
STOP = event(b'{"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}')
DONE = event(b"[DONE]")
FIELDS = {name: value for name, value in HEADERS.items() if value is not None}


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a TCP connection to the server."""
    return await asyncio.open_connection("127.0.0.1", urlsplit(url).port)


def head(*more: str) -> bytes:
    """Return the head of a chat request with more header lines."""
    lines = [f"POST {CHAT} HTTP/1.1", "host: ibex.test", *(f"{n}: {v}" for n, v in FIELDS.items()), *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def whole(body: bytes, *more: str) -> bytes:
    """Return a whole chat request."""
    return head(f"content-length: {len(body)}", *more) + body


async def response_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read one response that has a content length."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def settled(scene: HttpScene) -> Exchange:
    """Return the exchange once its request is over."""
    async with asyncio.timeout(5):
        await scene.observer.one_over.wait()
    return scene.chat.exchange


async def test_completions_over_one_connection_reach_the_client() -> None:
    """The client gets the provider's bytes and the headers of each exchange."""
    scene = HttpScene()
    async with served(scene.app()) as (url, _), httpx.AsyncClient(base_url=url, headers=FIELDS) as client:
        responses = [await client.post(CHAT, content=REQUEST) for _ in range(3)]

    assert [r.content for r in responses] == [COMPLETION] * 3
    assert [r.headers["x-ratelimit-remaining"] for r in responses] == ["599", "598", "597"]
    assert len({r.headers["x-request-id"] for r in responses}) == 3


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "NOT_FOUND"),
        ("GET", "/v1/../secret", 404, "NOT_FOUND"),
        ("GET", "/%00", 404, "NOT_FOUND"),
        ("DELETE", CHAT, 405, "METHOD_NOT_ALLOWED"),
        ("OPTIONS", CHAT, 405, "METHOD_NOT_ALLOWED"),
        ("PURGE", "/health", 405, "METHOD_NOT_ALLOWED"),
    ],
)
async def test_every_error_of_the_server_has_an_envelope(method: str, path: str, status: int, code: str) -> None:
    """This includes errors that the framework raises."""
    async with served(HttpScene().app()) as (url, _), httpx.AsyncClient(base_url=url) as client:
        response = await client.request(method, path)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.headers["x-request-id"] == response.json()["error"]["request_id"]


async def test_head_returns_the_headers_of_get_without_the_body() -> None:
    """This covers GET routes and errors. The connection stays usable for the next request."""
    async with served(HttpScene().app()) as (url, _), httpx.AsyncClient(base_url=url, headers=FIELDS) as client:
        for path, status in (("/health", 200), ("/v1/models", 200), ("/metrics", 200), (CHAT, 405), ("/nothing", 404)):
            head, get = await client.head(path), await client.get(path)
            assert (head.status_code, head.content, get.status_code) == (status, b"", status)
            assert head.headers["content-type"] == get.headers["content-type"]
            assert int(head.headers["content-length"]) == len(get.content)


async def test_an_unexpected_exception_leaves_the_server_serving() -> None:
    """The client gets an envelope with status 500, and the next request succeeds."""
    scene = HttpScene(RuntimeError("canary"))
    async with served(scene.app()) as (url, _), httpx.AsyncClient(base_url=url, headers=FIELDS) as client:
        response = await client.post(CHAT, content=REQUEST)
        after = await client.get("/health")

    assert (response.status_code, response.json()["error"]["code"]) == (500, "INTERNAL_ERROR")
    assert "canary" not in response.text
    assert after.status_code == 200


async def test_a_declared_length_over_the_limit_is_refused_before_the_body_arrives() -> None:
    """The response arrives although the client has sent no byte of the body."""
    scene = HttpScene()
    async with served(scene.app()) as (url, _):
        reader, writer = await connect(url)
        writer.write(head(f"content-length: {10 * 1024 * 1024 + 1}"))
        status, _, body = await response_of(reader)
        writer.close()

    assert (status, json.loads(body)["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_100_continue_is_sent_only_to_an_admitted_client() -> None:
    """A client that is refused by its headers never sends its body."""
    scene = HttpScene()
    async with served(scene.app()) as (url, _):
        refused, one = await connect(url)
        one.write(head("expect: 100-continue", f"content-length: {10 * 1024 * 1024 + 1}"))
        admitted, other = await connect(url)
        other.write(head("expect: 100-continue", f"content-length: {len(REQUEST)}"))
        status, _, _ = await response_of(refused)
        go_on = await admitted.readuntil(b"\r\n\r\n")
        other.write(REQUEST)
        answer, _, _ = await response_of(admitted)
        one.close()
        other.close()

    assert (status, go_on, answer) == (413, b"HTTP/1.1 100 Continue\r\n\r\n", 200)


async def test_a_chunked_body_over_the_limit_is_refused_while_it_arrives() -> None:
    """The client can finish sending and then reads the error. The next request succeeds."""
    scene = HttpScene()
    scene.limits = Limits(max_request_body_bytes=200_000)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(10_000)

    async with served(scene.app()) as (url, _), httpx.AsyncClient(base_url=url, headers=FIELDS) as client:
        response = await client.post(CHAT, content=chunks())
        after = await client.post(CHAT, content=REQUEST)

    assert (response.status_code, response.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert after.status_code == 200


async def test_a_large_body_reaches_the_provider_unchanged() -> None:
    """The body contains a text of eight megabytes."""
    scene = HttpScene()
    scene.chat.directives.answer = None
    body = REQUEST.replace(b"Hello", b"x" * 8_000_000)
    async with served(scene.app()) as (url, _), httpx.AsyncClient(base_url=url, headers=FIELDS) as client:
        response = await client.post(CHAT, content=body)

    assert response.status_code == 200
    assert scene.chat.provider.asked[0].body == body


async def test_a_stream_arrives_event_by_event() -> None:
    """The client gets each event before the provider sends the next one."""
    stream = HeldStream()
    scene = HttpScene(stream)
    async with (
        served(scene.app()) as (url, _),
        httpx.AsyncClient(base_url=url, headers=FIELDS) as client,
        client.stream("POST", CHAT, content=STREAM_REQUEST) as response,
    ):
        arrived = response.aiter_raw()
        for read in ([HEL], [STOP], [DONE]):
            stream.queue.put_nowait(read)
            assert await anext(arrived) == read[0].raw
        rest = [chunk async for chunk in arrived]

    assert rest == []
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.closed.is_set()


async def test_a_silent_provider_is_bridged_with_keep_alive_comments() -> None:
    """The client's connection is never silent for longer than the keep-alive interval."""
    stream = HeldStream()
    scene = HttpScene(stream)
    scene.limits = Limits(keep_alive_s=0.02)
    async with (
        served(scene.app()) as (url, _),
        httpx.AsyncClient(base_url=url, headers=FIELDS) as client,
        client.stream("POST", CHAT, content=STREAM_REQUEST) as response,
    ):
        lines = response.aiter_lines()
        assert await anext(lines) == ": keep-alive"
        stream.queue.put_nowait([STOP, DONE])
        rest = [line async for line in lines]

    assert rest[-2:] == ["data: [DONE]", ""]


async def test_a_stream_that_fails_ends_with_an_error_event() -> None:
    """The client gets the events so far, the error event and a well-formed end. The next request succeeds."""
    scene = HttpScene(scripted_stream([HEL], ProviderUnavailableError()))
    async with served(scene.app()) as (url, _), httpx.AsyncClient(base_url=url, headers=FIELDS) as client:
        response = await client.post(CHAT, content=STREAM_REQUEST)
        after = await client.get("/health")

    first, last = response.content.split(b"\n\n")[:2]
    assert first + b"\n\n" == HEL.raw
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "PROVIDER_UNAVAILABLE"
    assert b"[DONE]" not in response.content
    assert after.status_code == 200


async def test_a_client_that_disconnects_before_its_completion_cancels_the_provider() -> None:
    """The provider's request is cancelled within a second, and the exchange is recorded with status 499."""
    scene = HttpScene()
    provider = HeldProvider(ProviderBody(COMPLETION))
    scene.chat.provider = provider  # type: ignore[assignment]  # another provider of the same port
    async with served(scene.app()) as (url, _):
        _, writer = await connect(url)
        writer.write(whole(REQUEST))
        await provider.asked.wait()
        writer.close()
        async with asyncio.timeout(1):
            await provider.cancelled.wait()
        exchange = await settled(scene)

    assert (exchange.status, exchange.is_complete, exchange.reached_provider) == (499, False, True)
    assert exchange.attempts == 1


async def test_a_client_that_disconnects_during_a_stream_cancels_the_provider() -> None:
    """The provider's stream is closed within a second, although it is silent."""
    stream = HeldStream()
    scene = HttpScene(stream)
    async with served(scene.app()) as (url, _):
        reader, writer = await connect(url)
        writer.write(whole(STREAM_REQUEST))
        stream.queue.put_nowait([HEL])
        await reader.readuntil(b"Hel")
        writer.transport.abort()
        async with asyncio.timeout(1):
            await stream.closed.wait()
        exchange = await settled(scene)

    assert (exchange.status, exchange.is_complete) == (499, False)


async def test_a_client_that_disconnects_during_its_body_is_recorded() -> None:
    """The status is 499, and the provider gets no request."""
    scene = HttpScene()
    async with served(scene.app()) as (url, _):
        _, writer = await connect(url)
        writer.write(head("content-length: 1000") + b"{")
        await writer.drain()
        writer.close()
        exchange = await settled(scene)

    assert (exchange.status, exchange.reached_provider) == (499, False)


async def test_a_client_that_stops_reading_a_stream_slows_the_provider_and_is_disconnected() -> None:
    """Backpressure stops reading from the provider. After the stall timeout the server drops the connection."""
    stream = HeldStream()
    scene = HttpScene(stream)
    big = event(b'{"choices":[],"x":"' + b"x" * 65_536 + b'"}')
    async with served(scene.app(), ConnectionLimits(stall_s=0.2)) as (url, server):
        reader, writer = await connect(url)
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio has no public way not to read
        writer.write(whole(STREAM_REQUEST))
        for _ in range(1_000):
            stream.queue.put_nowait([big])
        async with asyncio.timeout(5):
            await stream.closed.wait()
        exchange = await settled(scene)
        left = stream.queue.qsize()
        async with httpx.AsyncClient(base_url=url, headers={"connection": "close"}) as client:
            assert (await client.get("/health")).status_code == 200
        waiting = [c for c in server.server_state.connections if c.transport.get_write_buffer_size()]
        writer.close()

    assert left > 500
    assert waiting == []
    assert exchange.status == 499


async def test_a_client_that_stops_reading_a_response_is_disconnected() -> None:
    """The exchange is over. The response must not stay in memory until the client reads it."""
    scene = HttpScene(ProviderBody(b'{"choices":[{}],"x":"' + b"x" * 20_000_000 + b'"}'))
    async with served(scene.app(), ConnectionLimits(stall_s=0.2)) as (url, server):
        reader, writer = await connect(url)
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio has no public way not to read
        writer.write(whole(REQUEST))
        assert (await settled(scene)).status == 200
        async with asyncio.timeout(5):
            while server.server_state.connections:  # noqa: ASYNC110 - nothing reports that a connection was dropped
                await asyncio.sleep(0.01)
        writer.close()


async def test_a_client_that_reads_slowly_gets_the_whole_response() -> None:
    """The stall timeout applies to each pause, not to the whole response."""
    body = b'{"choices":[{}],"x":"' + b"x" * 6_000_000 + b'"}'
    scene = HttpScene(ProviderBody(body))
    async with served(scene.app(), ConnectionLimits(stall_s=0.4)) as (url, _):
        reader, writer = await connect(url)
        writer.write(whole(REQUEST, "connection: close"))
        await reader.readuntil(b"\r\n\r\n")
        received = b""
        while chunk := await reader.read(400_000):
            received += chunk
            await asyncio.sleep(0.05)  # slower than the server writes
        writer.close()
    assert received == body


@pytest.mark.parametrize("sent", [b"POST", head()[:-2]])
async def test_an_incomplete_head_times_out(sent: bytes) -> None:
    """The server closes the connection, however much of the head has arrived."""
    scene = HttpScene()
    async with served(scene.app(), ConnectionLimits(head_s=0.05)) as (url, _):
        reader, writer = await connect(url)
        writer.write(sent)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_an_idle_connection_may_wait_longer_than_the_head_timeout() -> None:
    """The head timeout does not apply between requests."""
    scene = HttpScene()
    async with served(scene.app(), ConnectionLimits(head_s=0.05)) as (url, _):
        reader, writer = await connect(url)
        for _ in range(2):
            writer.write(whole(REQUEST))
            assert (await response_of(reader))[0] == 200
            await asyncio.sleep(0.1)  # longer than the head timeout
        writer.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_http_1_0_client_gets_an_unchunked_response(*, stream: bool) -> None:
    """HTTP/1.0 has no chunks: a response without a length ends with the connection (RFC 9112, 6.1)."""
    scene = HttpScene(scripted_stream([HEL, STOP], [DONE])) if stream else HttpScene()
    body = STREAM_REQUEST if stream else REQUEST
    async with served(scene.app()) as (url, _):
        reader, writer = await connect(url)
        writer.write(whole(body).replace(b"HTTP/1.1", b"HTTP/1.0"))
        fields, _, answer = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert fields.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in fields.lower()
    assert answer == (HEL.raw + STOP.raw + DONE.raw if stream else COMPLETION)


async def test_a_request_beyond_the_capacity_is_refused_with_retry_after() -> None:
    """It is refused at once with status 503. Running and later requests succeed."""
    provider = HeldProvider(ProviderBody(COMPLETION))
    scene = HttpScene()
    scene.chat.provider = provider  # type: ignore[assignment]  # another provider of the same port
    scene.chat.capacity = Capacity(slots=1, body_bytes=1 << 20, max_authenticating=1)
    async with served(scene.app()) as (url, _), httpx.AsyncClient(base_url=url, headers=FIELDS) as client:
        running = asyncio.create_task(client.post(CHAT, content=REQUEST))
        await provider.asked.wait()
        refused = await client.post(CHAT, content=REQUEST)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "OVERLOADED")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await client.get("/health")).status_code == 200
        provider.let_go.set()
        assert (await running).status_code == 200
        assert (await client.post(CHAT, content=REQUEST)).status_code == 200


async def test_a_stopping_server_ends_streams_with_an_error_event() -> None:
    """A stream that outlasts the grace period gets the error event and a well-formed end."""
    stream = HeldStream()
    scene = HttpScene(stream)
    async with (
        served(scene.app()) as (url, server),
        httpx.AsyncClient(base_url=url, headers=FIELDS) as client,
        client.stream("POST", CHAT, content=STREAM_REQUEST) as response,
    ):
        server.should_exit = True
        text = await response.aread()

    assert json.loads(text.removeprefix(b"data: "))["error"]["code"] == "SERVICE_DEGRADED"
    assert stream.closed.is_set()
    (kept,) = scene.chat.journal.kept
    assert (kept.status, kept.error_code, kept.is_complete) == (503, "SERVICE_DEGRADED", False)


async def test_a_request_cancelled_by_the_shutdown_is_not_recorded_as_a_disconnect() -> None:
    """A request that outlasts the grace period is recorded with status 503, not 499."""
    provider = HeldProvider(ProviderBody(COMPLETION))
    scene = HttpScene()
    scene.chat.provider = provider  # type: ignore[assignment]  # another provider of the same port
    async with served(scene.app()) as (url, server), httpx.AsyncClient(base_url=url, headers=FIELDS) as client:
        running = asyncio.create_task(client.post(CHAT, content=REQUEST))
        await provider.asked.wait()
        server.should_exit = True
        (outcome,) = await asyncio.gather(running, return_exceptions=True)

    assert getattr(outcome, "status_code", 503) == 503  # or the connection just ended
    (kept,) = scene.chat.journal.kept
    assert (kept.status, kept.error_code, kept.is_complete) == (503, "SERVICE_DEGRADED", False)


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Each response has the id of its request."""
    scene = HttpScene()
    ids = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(3)]
    async with served(scene.app()) as (url, _):
        reader, writer = await connect(url)
        writer.write(b"".join(whole(REQUEST, f"x-request-id: {request_id}") for request_id in ids))
        answers = [await response_of(reader) for _ in ids]
        writer.close()

    assert [headers["x-request-id"] for _, headers, _ in answers] == ids
    assert {status for status, _, _ in answers} == {200}


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"{", b"[]", b'{"a":' + b"[" * 100_000, b"\x00" * 1000])
async def test_hostile_bodies_are_refused_through_the_server(body: bytes) -> None:
    """The status is 400, with an envelope."""
    async with served(HttpScene().app()) as (url, _), httpx.AsyncClient(base_url=url, headers=FIELDS) as client:
        response = await client.post(CHAT, content=body)

    assert response.status_code == 400
    assert response.json()["error"]["code"] in {"INVALID_JSON", "VALIDATION_ERROR"}


async def test_two_hundred_concurrent_requests_do_not_mix() -> None:
    """Each client gets the response with its own request id, and each exchange is recorded."""
    scene = HttpScene()

    async def one(client: httpx.AsyncClient, number: int) -> Any:
        headers = {"x-request-id": f"00000000-0000-4000-8000-{number:012d}"}
        response = await client.post(CHAT, content=REQUEST, headers=headers)
        return response.status_code, response.headers["x-request-id"] == headers["x-request-id"]

    limits = httpx.Limits(max_connections=50)
    async with (
        served(scene.app()) as (url, _),
        httpx.AsyncClient(base_url=url, headers=FIELDS, limits=limits, timeout=30) as client,
    ):
        outcomes = await asyncio.gather(*(one(client, number) for number in range(200)))

    assert set(outcomes) == {(200, True)}
    assert len(scene.chat.journal.kept) == 200
