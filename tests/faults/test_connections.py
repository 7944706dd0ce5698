"""Clients that hold connections or send endless data, through the whole proxy (ADR 0037)."""

from __future__ import annotations

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import openai
import pytest

from harness.loopback import CHAT, REQUEST, Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_wire import Gate, Pause, Send, chunked, completion, open_stream, stream_events, text_deltas

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.raw_http import RawClient

pytestmark = pytest.mark.integration

HEAD_S = 0.5
SLOW_S = 2.0
ENDS_WITHIN_S = 15.0
"""More than any time limit of a connection here, and less than a client waits."""
ROOM = 8
SETTINGS = {"IBEX_HEADER_TIMEOUT": str(HEAD_S), "IBEX_KEEP_ALIVE": "30"}
HEALTH = b"GET /health HTTP/1.1\r\nhost: ibex.test\r\n\r\n"
EVENTS = stream_events(text_deltas("Hello"), usage=False)
CHUNKS = "transfer-encoding: chunked"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


BODY = _chunk(json.dumps(REQUEST).encode())
TOO_LARGE = "content-length: 11534336"
DISCARDED_AT_MOST = 48 << 20
"""What is discarded after the refusal, and what the system's buffers on both sides hold."""
ENDLESS = {
    "one trailer": b"0\r\nx-trailer: " + b"a" * 200_000,
    "many trailers": b"0\r\n" + b"t: a\r\n" * 300,
    "a chunk extension": b"1;" + b"a" * 200_000,
    "a chunk size": b"0" * 200_000,
}


@pytest.mark.parametrize("endless", ENDLESS)
def test_endless_framing_gets_431(proxy: Loopback, endless: str) -> None:
    """IBEX records the refusal and closes the connection. The provider gets no request."""
    request_id = uuid4()
    with proxy.client() as client:
        client.send(proxy.head(CHUNKS, request_id=request_id) + BODY + ENDLESS[endless])
        seen = client.response()
        assert seen.outcome == (431, "HEADERS_TOO_LARGE")
        assert seen.headers["connection"] == "close"
        assert client.is_at_end()
    exchange = proxy.record(request_id)
    assert (exchange.status, exchange.error_code, exchange.reached_provider) == (431, "HEADERS_TOO_LARGE", False)


def test_a_head_that_is_too_large_gets_431(proxy: Loopback) -> None:
    """The client gets the response although it writes the whole head before it reads."""
    with proxy.client() as client:
        client.send(proxy.head()[:-2] + b"x-large: " + b"a" * 5_000_000)
        seen = client.response()
        assert seen.outcome == (431, "HEADERS_TOO_LARGE")
        assert client.is_at_end()
    assert proxy.recorded_nothing_of(seen.request_id)


@pytest.mark.parametrize("path", [CHAT, "/health"])
def test_trickling_trailers_time_out(proxy: Loopback, path: str) -> None:
    """Single bytes do not extend the time limit, even if no handler reads the body.

    Other clients are served meanwhile.
    """
    request_id = uuid4()
    with proxy.client() as client:
        client.send(proxy.head(CHUNKS, path=path, request_id=request_id) + BODY + b"0\r\nx: ")
        proxy.assert_healthy()
        _trickle(client)
    if path == CHAT:
        exchange = proxy.record(request_id)  # the time limits of the trailers and of the body end at the same moment
        assert (exchange.status, exchange.reached_provider) in {(408, False), (499, False)}
    else:
        assert proxy.recorded_nothing_of(str(request_id))


def test_endless_trailers_do_not_delay_other_clients(proxy: Loopback) -> None:
    """IBEX processes them in linear time."""
    before = _slowest_health(proxy)
    with ThreadPoolExecutor(4) as threads:
        attacks = [threads.submit(_send_trailers, proxy) for _ in range(4)]
        during = _slowest_health(proxy)
        sent = [attack.result() for attack in attacks]
    assert max(sent) < DISCARDED_AT_MOST
    assert during < before + 1.0  # before the fix it was 11 s


@pytest.mark.parametrize("how", ["raw", "http.client", "httpx", "openai"])
def test_a_client_that_sends_a_too_large_body_reads_the_413(proxy: Loopback, how: str) -> None:
    """The client sends the whole body before it reads the response."""
    body = b'{"x":"' + b"x" * (11 << 20) + b'"}'
    status, request_id = _CLIENTS[how](proxy, body)
    assert status == 413
    exchange = proxy.record(request_id)
    assert (exchange.status, exchange.error_code, exchange.reached_provider) == (413, "PAYLOAD_TOO_LARGE", False)


@pytest.mark.parametrize(
    ("version", "more"), [("1.1", b""), ("1.0", b""), ("1.1", HEALTH * 20)], ids=["1.1", "1.0", "pipelined"]
)
def test_bytes_after_an_early_refusal_are_not_parsed(proxy: Loopback, version: str, more: bytes) -> None:
    """The response announces the close, and IBEX closes the connection although the client continues to send."""
    request_id = uuid4()
    head = proxy.head(TOO_LARGE, request_id=request_id).replace(b"HTTP/1.1", b"HTTP/" + version.encode())
    with proxy.client() as client:
        client.send(head + more)
        seen = client.response()
        assert (seen.outcome, seen.headers["connection"]) == ((413, "PAYLOAD_TOO_LARGE"), "close")
        _trickle(client)
    assert proxy.record(request_id).status == 413


def test_a_client_that_floods_after_its_refusal_is_disconnected(proxy: Loopback) -> None:
    """IBEX discards 16 MiB first."""
    with proxy.client() as client:
        client.send(proxy.head("content-length: 1000000000"))
        assert client.response().status == 413
        sent = _send_until_closed(client, bytes(1 << 20), 256 << 20)
    assert sent < 64 << 20  # the system has buffers too


@pytest.mark.parametrize(
    "protocol", ["RTSP/1.0", "ICE/1.0", "RTSP/1.1", "HTTP/0.9", "HTTP/2.0", "HTTP/1.10", "http/1.1"]
)
def test_a_request_of_another_protocol_gets_400(proxy: Loopback, protocol: str) -> None:
    """IBEX closes the connection without processing the request."""
    request_id = uuid4()
    with proxy.client() as client:
        client.send(proxy.chat(request_id=request_id).replace(b"HTTP/1.1", protocol.encode()))
        seen = client.response()
        assert seen.outcome == (400, "VALIDATION_ERROR")
        assert client.is_at_end()
    assert proxy.recorded_nothing_of(str(request_id))


@pytest.fixture(scope="module")
def small_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A proxy with a small limit of connections."""
    settings = {"IBEX_MAX_CONNECTIONS": str(ROOM), "IBEX_CLIENT_STALL_TIMEOUT": str(2 * SLOW_S), "slow_s": str(SLOW_S)}
    folder = tmp_path_factory.mktemp("small")
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, folder, **settings) as proxy:
        yield proxy


@pytest.fixture
def small(small_proxy: Loopback) -> Iterator[Loopback]:
    """The same proxy for one test. Afterwards it must serve the next request."""
    small_proxy.provider.requests.clear()
    yield small_proxy
    small_proxy.assert_healthy()


def test_silent_connections_are_closed_first(small: Loopback) -> None:
    """Three times the limit of silent connections affect neither a running stream nor a kept connection."""
    gate = Gate()
    small.provider.put(
        (*open_stream(), Pause(gate), *completion("well")[:0], Send(chunked(b"data: [DONE]\n\n") + chunked(b"")))
    )
    with small.client() as running, small.client() as kept, ExitStack() as stack:
        request_id = uuid4()
        running.send(small.chat(stream=True, request_id=request_id))
        assert running.read_head()[0] == 200
        kept.send(HEALTH)
        assert kept.response().status == 200
        silent = [stack.enter_context(small.client()) for _ in range(3 * ROOM)]
        small.provider.put(completion("well"))
        assert _ask(small, kept) == 200
        assert all(client.is_at_end() for client in silent[: 2 * ROOM])
        gate.open()
        assert b"[DONE]" in b"".join(running.chunks())
    assert small.record(request_id).status == 200


def test_the_longest_idle_connection_is_closed_for_a_new_one(small: Loopback) -> None:
    """Every connection has served a request, so none is silent."""
    with ExitStack() as stack:
        idle = [stack.enter_context(small.client()) for _ in range(ROOM)]
        for client in idle:
            client.send(HEALTH)
            assert client.response().status == 200
        small.provider.put(completion("well"))
        assert _ask(small, stack.enter_context(small.client())) == 200
        assert idle[0].is_at_end()
        idle[-1].send(HEALTH)
        assert idle[-1].response().status == 200


def test_a_connection_beyond_the_limit_gets_503(small: Loopback) -> None:
    """All connections have running requests. The new one gets ``Retry-After`` and is closed, and the others finish."""
    gates = [Gate() for _ in range(ROOM)]
    running = []
    for number, gate in enumerate(gates, 1):
        small.provider.put((Pause(gate), *completion("well")))
        running.append(small.connect())
        running[-1].send(small.chat())
        small.provider.see(small.provider.request(number))
    request_id = uuid4()
    with small.client() as client:
        client.send(small.chat(request_id=request_id))
        seen = client.response()
        assert seen.outcome == (503, "OVERLOADED")
        assert int(seen.headers["retry-after"]) >= 1
        assert client.is_at_end()
    assert small.recorded_nothing_of(str(request_id))
    for gate in gates:
        gate.open()
    assert [client.response().status for client in running] == [200] * ROOM
    for client in running:
        client.close()


def test_a_client_that_reads_too_slowly_is_disconnected(small: Loopback) -> None:
    """It reads less than a KiB per second. IBEX closes its connection and the provider's."""
    event = b'data: {"choices":[],"x":"' + b"x" * (1 << 20) + b'"}\n\n'
    small.provider.put((*open_stream(), *[Send(chunked(event))] * 16))
    request_id = uuid4()
    with small.client(receive_buffer=1 << 12) as client:
        client.send(small.chat(stream=True, request_id=request_id))
        asked = small.provider.see(small.provider.request(1))
        reading = threading.Event()
        reading.set()
        with ThreadPoolExecutor(1) as thread:
            read = thread.submit(_read_slowly, client, reading)
            small.provider.see(asked.closed_at())
            reading.clear()
            assert read.result() > 0
        exchange = small.record(request_id)
    assert (exchange.status, exchange.error_code, exchange.is_complete) == (499, "CLIENT_CLOSED_REQUEST", False)


def _trickle(client: RawClient) -> None:
    """Send single bytes until the connection closes. Fail if it stays open."""
    began = time.monotonic()
    client.socket.settimeout(0.05)
    while time.monotonic() - began < ENDS_WITHIN_S:
        try:
            client.send(b"a")
            client.socket.recv(1)
        except TimeoutError:
            continue
        except ConnectionError:
            return
        time.sleep(0.05)  # half-closed: the socket has no more data to read
    pytest.fail("the connection was still there")


def _read_slowly(client: RawClient, goes_on: threading.Event) -> int:
    """Read 300 bytes per second, and return the number of bytes."""
    read = 0
    while goes_on.is_set():
        try:
            read += len(client.socket.recv(30))
        except ConnectionError:
            break
        time.sleep(0.1)  # the fault: the client reads slowly
    return read


def _slowest_health(proxy: Loopback) -> float:
    slowest = 0.0
    with proxy.client() as client:
        for _ in range(50):
            began = time.monotonic()
            client.send(HEALTH)
            assert client.response().status == 200
            slowest = max(slowest, time.monotonic() - began)
    return slowest


def _send_trailers(proxy: Loopback) -> int:
    """Send an endless trailer in small pieces, and return the number of bytes sent."""
    with proxy.client() as client:
        client.send(proxy.head(CHUNKS, path="/health") + b"0\r\nx: ")
        return _send_until_closed(client, b"a" * 8_192, 64 << 20)


def _send_until_closed(client: RawClient, piece: bytes, most: int) -> int:
    sent = 0
    try:
        while sent < most:
            client.send(piece)
            sent += len(piece)
    except ConnectionError:
        pass
    return sent


def _ask(proxy: Loopback, client: RawClient) -> int:
    client.send(proxy.chat())
    return client.response().status


def _by_hand(proxy: Loopback, body: bytes) -> tuple[int, UUID]:
    request_id = uuid4()
    with proxy.client() as client:
        client.send(proxy.chat(body, request_id=request_id))
        seen = client.response()
        assert seen.headers["connection"] == "close"
        assert client.is_at_end()
    return seen.status, request_id


def _headers(proxy: Loopback, request_id: UUID) -> dict[str, str]:
    own = {"authorization": f"Bearer {proxy.token}", "content-type": "application/json"}
    return {**own, "x-request-id": str(request_id)}


def _by_http_client(proxy: Loopback, body: bytes) -> tuple[int, UUID]:
    request_id = uuid4()
    connection = http.client.HTTPConnection(proxy.address.removeprefix("http://"))
    connection.request("POST", CHAT, body, _headers(proxy, request_id))
    response = connection.getresponse()
    assert json.loads(response.read())["error"]["code"] == "PAYLOAD_TOO_LARGE"
    connection.close()
    return response.status, request_id


def _by_httpx(proxy: Loopback, body: bytes) -> tuple[int, UUID]:
    request_id = uuid4()
    with httpx.Client(trust_env=False) as client:
        response = client.post(proxy.address + CHAT, content=body, headers=_headers(proxy, request_id))
    assert response.json()["error"]["code"] == "PAYLOAD_TOO_LARGE"
    return response.status_code, request_id


def _by_openai(proxy: Loopback, body: bytes) -> tuple[int, UUID]:
    request_id = uuid4()
    messages: Any = [{"role": "user", "content": "x" * len(body)}]
    with (
        openai.OpenAI(api_key=proxy.token, base_url=f"{proxy.address}/v1", max_retries=0) as sdk,
        pytest.raises(openai.APIStatusError) as refused,
    ):
        sdk.chat.completions.create(model="gpt-4o", messages=messages, extra_headers={"x-request-id": str(request_id)})
    assert refused.value.code == "PAYLOAD_TOO_LARGE"
    return refused.value.status_code, request_id


_CLIENTS = {"raw": _by_hand, "http.client": _by_http_client, "httpx": _by_httpx, "openai": _by_openai}
