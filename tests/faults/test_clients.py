"""Clients that leave, stop reading, send slowly or send too many requests (docs/faults.md), through the whole proxy."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from harness.loopback import REQUEST, Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_wire import (
    JSON_TYPE,
    Gate,
    Pause,
    Send,
    Silent,
    answer,
    chunked,
    completion,
    completion_body,
    head,
    open_stream,
    stream,
    stream_events,
    text_deltas,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.openai_wire import Script
    from harness.raw_http import RawClient

pytestmark = pytest.mark.integration

EVENTS = stream_events(text_deltas("Hello"))
GONE = (499, "CLIENT_CLOSED_REQUEST")
LETS_GO_WITHIN_S = 1.0
SILENCE_S = 1.0
MEGABYTES = 64
BUFFERED_BYTES = 256 << 10
SYSTEM_BUFFERS = 24 << 20
"""What the operating system may hold of it between three sockets, at most."""


def _close(client: RawClient) -> None:
    client.close()


def _reset(client: RawClient) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()


def _half_close(client: RawClient) -> None:
    client.socket.shutdown(socket.SHUT_WR)


PHASES: dict[str, tuple[Script, bool]] = {
    "on a buffered request": ((Silent(),), False),
    "within a buffered answer": (
        (Send(head(200, {"content-type": JSON_TYPE, "content-length": "9"}) + b"{"), Silent()),
        False,
    ),
    "before the headers of a stream": ((Silent(),), True),
    "before the first event": ((*open_stream(), Silent()), True),
    "in the middle of a stream": ((*open_stream(*EVENTS[:2]), Silent()), True),
}


@pytest.mark.parametrize("goes", [_close, _reset, _half_close])
@pytest.mark.parametrize("phase", PHASES)
def test_a_client_that_leaves_cancels_its_provider_request(
    proxy: Loopback, phase: str, goes: Callable[[RawClient], None]
) -> None:
    """The cancellation takes less than a second. The turn is recorded as incomplete."""
    script, streamed = PHASES[phase]
    proxy.provider.put(script)
    request_id = uuid4()
    with proxy.client() as client:
        client.send(proxy.chat(stream=streamed, request_id=request_id))
        if phase == "in the middle of a stream":
            client.read_head()
            assert next(client.chunks()).startswith(EVENTS[0])
        asked = proxy.provider.see(proxy.provider.request(1))
        left_at = time.monotonic()
        goes(client)
        assert proxy.provider.see(asked.closed_at()) - left_at < LETS_GO_WITHIN_S
        exchange = proxy.record(request_id)
    assert (exchange.status, exchange.error_code) == GONE
    assert (exchange.reached_provider, exchange.is_complete, exchange.is_streaming) == (True, False, streamed)


@pytest.mark.parametrize("goes", [_close, _reset])
@pytest.mark.parametrize("kilobytes", [70, 300, 1_000])
def test_a_client_that_leaves_after_a_large_request_is_detected(
    proxy: Loopback, kilobytes: int, goes: Callable[[RawClient], None]
) -> None:
    """IBEX paused reading from the connection because of the body, and detects the disconnect nevertheless."""
    proxy.provider.put((Silent(),))
    request_id = uuid4()
    words = [{"role": "user", "content": "word " * (kilobytes * 200)}]
    body = json.dumps(REQUEST | {"messages": words}).encode()
    with proxy.client() as client, proxy.client() as other:
        client.send(proxy.head(f"content-length: {len(body)}", request_id=request_id))
        other.send(b"GET /health HTTP/1.1\r\nhost: ibex.test\r\n\r\n")
        other.read_head()  # so the proxy has read the head before it, and waits for the body
        client.send(body)
        asked = proxy.provider.see(proxy.provider.request(1))
        left_at = time.monotonic()
        goes(client)
        assert proxy.provider.see(asked.closed_at()) - left_at < LETS_GO_WITHIN_S
        exchange = proxy.record(request_id)
    assert (exchange.status, exchange.error_code) == GONE


def test_a_client_that_leaves_with_pipelined_requests_is_detected(proxy: Loopback) -> None:
    """The pipelined requests pause reading too. IBEX does not process them."""
    proxy.provider.put((Silent(),))
    request_id = uuid4()
    with proxy.client() as client:
        client.send(proxy.chat(request_id=request_id))
        asked = proxy.provider.see(proxy.provider.request(1))
        client.send(proxy.chat() * 2)
        left_at = time.monotonic()
        client.close()
        assert proxy.provider.see(asked.closed_at()) - left_at < LETS_GO_WITHIN_S
        exchange = proxy.record(request_id)
    assert (exchange.status, exchange.error_code) == GONE
    proxy.assert_healthy()
    assert len(proxy.provider.requests) == 3


def test_a_client_that_leaves_before_the_response_causes_no_retry(proxy: Loopback) -> None:
    """The provider gets no further attempt."""
    request_id = uuid4()
    proxy.provider.put((Silent(),))
    with proxy.client() as client:
        client.send(proxy.chat(request_id=request_id))
        proxy.provider.see(proxy.provider.request(1))
    assert proxy.record(request_id).status == 499
    proxy.assert_healthy()
    assert len(proxy.provider.requests) == 3


@pytest.mark.parametrize("sent", [b"", b"{", b'{"model":'])
def test_a_client_that_leaves_within_its_body_is_recorded(proxy: Loopback, sent: bytes) -> None:
    """The provider gets no request. A trace exists because the organization is known."""
    request_id = uuid4()
    with proxy.client() as client:
        client.send(proxy.head("content-length: 100", request_id=request_id) + sent)
        client.socket.shutdown(socket.SHUT_WR)
        exchange = proxy.record(request_id)
    assert (exchange.status, exchange.reached_provider) == (499, False)
    assert proxy.provider.requests == []


def test_a_hundred_clients_that_leave_at_once_are_recorded(proxy: Loopback) -> None:
    """No connection to the provider stays open."""
    ids = [uuid4() for _ in range(100)]
    proxy.provider.put(*[(Silent(),)] * len(ids))
    clients = []
    for request_id in ids:
        clients.append(proxy.connect())
        clients[-1].send(proxy.chat(request_id=request_id))
    proxy.provider.see(proxy.provider.request(len(ids)))
    for client in clients:
        client.close()
    assert {proxy.record(request_id).status for request_id in ids} == {499}
    for asked in list(proxy.provider.requests):
        proxy.provider.see(asked.closed_at())


def test_a_client_that_leaves_after_its_response_has_a_complete_turn(proxy: Loopback) -> None:
    """The response was sent before the client left."""
    request_id = uuid4()
    with proxy.client() as client:
        proxy.provider.put(completion("well"))
        client.send(proxy.chat(request_id=request_id))
        client.read_head()
    assert (proxy.record(request_id).status, proxy.record(request_id).is_complete) == (200, True)


@pytest.fixture(scope="module")
def stern_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A proxy with short time limits and two slots."""
    settings = {
        "IBEX_HEADER_TIMEOUT": str(SILENCE_S),
        "IBEX_CLIENT_STALL_TIMEOUT": str(SILENCE_S),
        "IBEX_MAX_CONCURRENCY": "2",
    }
    folder = tmp_path_factory.mktemp("stern")
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, folder, **settings) as proxy:
        yield proxy


@pytest.fixture
def stern(stern_proxy: Loopback) -> Iterator[Loopback]:
    """The same proxy for one test. Afterwards it must serve the next request."""
    stern_proxy.provider.requests.clear()
    yield stern_proxy
    stern_proxy.assert_healthy()


def _large_stream() -> tuple[Script, bytes]:
    event = b'data: {"choices":[],"x":"' + b"x" * (1 << 20) + b'"}\n\n'
    return (*open_stream(), *[Send(chunked(event))] * MEGABYTES, *(Send(chunked(e)) for e in (*EVENTS, b""))), event


def test_a_client_that_stops_reading_is_disconnected(stern: Loopback) -> None:
    """IBEX stops reading from the provider, then closes both connections."""
    script, event = _large_stream()
    request_id = uuid4()
    stern.provider.put(script)
    with stern.client(receive_buffer=1 << 14) as client:
        client.send(stern.chat(stream=True, request_id=request_id))
        asked = stern.provider.see(stern.provider.request(1))
        unsent = _stands_still(lambda: stern.provider.unsent_bytes)
        exchange = stern.record(request_id)
        stern.provider.see(asked.closed_at())
    assert MEGABYTES * len(event) - unsent < SYSTEM_BUFFERS + BUFFERED_BYTES
    assert (exchange.status, exchange.error_code, exchange.is_complete) == (*GONE, False)


def test_a_client_that_does_not_read_its_response_has_a_complete_turn(stern: Loopback) -> None:
    """The provider has sent the whole response. IBEX drops the connection with the unread rest."""
    body = b'{"choices":[{}],"x":"' + b"x" * (32 << 20) + b'"}'
    request_id = uuid4()
    stern.provider.put(answer(200, body, JSON_TYPE))
    with stern.client(receive_buffer=1 << 14) as client:
        client.send(stern.chat(request_id=request_id))
        assert stern.record(request_id).status == 200
        time.sleep(2.5 * SILENCE_S)  # the fault: the client reads nothing for this long
        read = 0
        try:
            while part := client.socket.recv(1 << 20):
                read += len(part)
        except ConnectionError:
            pass
    assert read < len(body)


def test_a_client_that_reads_slowly_gets_the_whole_stream(stern: Loopback) -> None:
    """The stall timeout does not apply while the client reads. Backpressure slows the provider."""
    script, event = _large_stream()
    stern.provider.put(script)
    with stern.client(receive_buffer=1 << 14) as client:
        client.send(stern.chat(stream=True))
        _, headers = client.read_head()
        chunks = client.chunks()
        began, received = time.monotonic(), 0
        while time.monotonic() - began < 2 * SILENCE_S:
            received += len(next(chunks))
            time.sleep(SILENCE_S / 5)  # the fault: the client reads slowly
        assert stern.provider.unsent_bytes > MEGABYTES * len(event) / 4
        received += sum(len(chunk) for chunk in chunks)
    exchange = stern.record(headers["x-request-id"])
    assert received > MEGABYTES * len(event)
    assert (exchange.status, exchange.is_complete) == (200, True)


@pytest.mark.parametrize("cut", [4, -2])
def test_an_incomplete_head_closes_its_connection(stern: Loopback, cut: int) -> None:
    """Other clients are served meanwhile. The caller is unknown, so there is no record."""
    request_id = uuid4()
    with stern.client() as client:
        client.send(stern.head("content-length: 2", request_id=request_id)[:cut])
        stern.assert_healthy()
        assert client.is_at_end()
    assert stern.recorded_nothing_of(str(request_id))


@pytest.mark.parametrize("framing", ["content-length: 10000", "transfer-encoding: chunked"])
def test_an_incomplete_body_times_out(stern: Loopback, framing: str) -> None:
    """The client gets 408, the connection closes, and the refusal is recorded."""
    request_id = uuid4()
    with stern.client() as client:
        client.send(stern.head(framing, request_id=request_id) + b"1\r\n{")
        seen = client.response()
        assert seen.outcome == (408, "REQUEST_TIMEOUT")
        assert seen.headers["connection"] == "close"
        assert client.is_at_end()
    exchange = stern.record(request_id)
    assert (exchange.status, exchange.error_code, exchange.reached_provider) == (408, "REQUEST_TIMEOUT", False)


def test_a_kept_connection_may_idle_longer_than_the_header_timeout(stern: Loopback) -> None:
    """The header timeout does not apply between two requests."""
    with stern.client() as client:
        for _ in range(2):
            stern.provider.put(completion("well"))
            client.send(stern.chat())
            assert client.response().body == completion_body("well")
            time.sleep(1.2 * SILENCE_S)  # longer than the header timeout


def test_requests_beyond_the_concurrency_limit_get_503(stern: Loopback) -> None:
    """The response has ``Retry-After`` and comes at once. Running requests continue."""
    gates = [Gate(), Gate()]
    running: list[RawClient] = []
    for number, gate in enumerate(gates, 1):
        stern.provider.put((Pause(gate), *completion("well")))
        running.append(stern.connect())
        running[-1].send(stern.chat())
        stern.provider.see(stern.provider.request(number))
    for streamed in (False, True):
        refused = stern.ask(stream=streamed)
        assert refused.outcome == (503, "OVERLOADED")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-ibex-error-source"] == "proxy"
        assert stern.record(refused.request_id).status == 503
    with stern.client() as client:
        client.send(b"GET /health HTTP/1.1\r\nhost: ibex.test\r\n\r\n")
        assert client.response().status == 200
    for gate in gates:
        gate.open()
    assert [client.response().status for client in running] == [200, 200]
    for client in running:
        client.close()
    assert len(stern.provider.requests) == 2


def test_requests_without_a_provider_connection_get_503(tmp_path: Path) -> None:
    """A limited number of requests wait for a connection. Those that get none in time are recorded as refused."""
    with (
        ScriptedOpenAI.in_thread() as provider,
        Loopback.running(
            provider, tmp_path, IBEX_OPENAI_MAX_CONNECTIONS="1", IBEX_OPENAI_CONNECT_TIMEOUT="0.5"
        ) as proxy,
    ):
        gate = Gate()
        provider.put((Pause(gate), *stream(*EVENTS)))
        with proxy.client() as first:
            first.send(proxy.chat(stream=True))
            provider.see(provider.request(1))
            refused = [proxy.ask() for _ in range(2)]
            gate.open()
            assert first.response().status == 200
        assert {seen.outcome for seen in refused} == {(503, "OVERLOADED")}
        assert all(int(seen.headers["retry-after"]) >= 1 for seen in refused)
        left = [proxy.record(seen.request_id) for seen in refused]
        assert {(exchange.status, exchange.reached_provider, exchange.attempts) for exchange in left} == {
            (503, False, 0)
        }
        proxy.assert_healthy()


def _stands_still(value: Callable[[], int]) -> int:
    """Return a value once it has not changed for a while."""
    last, since = value(), time.monotonic()
    while time.monotonic() - since < SILENCE_S / 4:
        time.sleep(0.01)  # there is no event to wait for
        now = value()
        if now != last or not now:
            last, since = now, time.monotonic()
    return last
