"""Faults of the proxy's own process: a blocked event loop and a changed clock (docs/faults.md)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from harness.loopback import Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_wire import (
    Gate,
    Pause,
    Send,
    chunked,
    completion,
    completion_body,
    open_stream,
    stream_events,
    text_deltas,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.raw_http import RawClient

pytestmark = pytest.mark.integration

LIMIT_S = 1.5
SETTINGS = {
    "IBEX_OPENAI_FIRST_BYTE_TIMEOUT": str(LIMIT_S),
    "IBEX_OPENAI_IDLE_TIMEOUT": str(LIMIT_S),
    "IBEX_HEADER_TIMEOUT": str(LIMIT_S),
}
EVENTS = stream_events(text_deltas("Hello"), usage=False)
EACH = 10


def test_a_blocked_event_loop_causes_no_timeouts(proxy: Loopback) -> None:
    """It is blocked for longer than every time limit. Data that arrived meanwhile is on time."""
    gate = Gate()
    clients: list[RawClient] = []

    def send(data: bytes) -> RawClient:
        clients.append(proxy.connect())
        clients[-1].send(data)
        return clients[-1]

    for number in range(EACH):
        proxy.provider.put((Pause(gate), *completion("well")))
        send(proxy.chat())
        proxy.provider.see(proxy.provider.request(2 * number + 1))
        proxy.provider.put((*open_stream(EVENTS[0]), Pause(gate), *(Send(chunked(e)) for e in (*EVENTS[1:], b""))))
        send(proxy.chat(stream=True))
        proxy.provider.see(proxy.provider.request(2 * number + 2))
    rests: list[tuple[RawClient, bytes]] = []
    for whole in (proxy.chat() for _ in range(2 * EACH)):
        cut = whole.index(b"\r\n\r\n") + 10 if len(rests) % 2 else 20  # within the body, within the head
        rests.append((send(whole[:cut]), whole[cut:]))
    proxy.provider.put(*[completion("well")] * len(rests))

    proxy.block(2 * LIMIT_S).wait()
    gate.open()
    for client, rest in rests:
        client.send(rest)

    seen = [client.response() for client in clients]
    for client in clients:
        client.close()
    with proxy.client() as client:
        client.send(b"GET /metrics HTTP/1.1\r\nhost: ibex.test\r\n\r\n")
        lines = client.response().body.decode().splitlines()
    (lag,) = [line for line in lines if line.startswith("ibex_proxy_event_loop_lag_seconds_sum")]
    assert float(lag.rpartition(" ")[2]) > LIMIT_S
    whole_stream = b"".join(EVENTS)
    assert [one.body for one in seen[: 2 * EACH]] == [completion_body("well"), whole_stream] * EACH
    assert [one.status for one in seen[2 * EACH :]] == [200] * 2 * EACH
    assert all(proxy.record(one.request_id).is_complete for one in seen[: 2 * EACH])


@pytest.fixture
def watched(proxy: Loopback) -> Iterator[Loopback]:
    """The proxy. Its clock is correct again after the test."""
    yield proxy
    proxy.clock.by = timedelta()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_changed_clock_affects_no_request(watched: Loopback, hours: int) -> None:
    """The clock changes by an hour during a request.

    No duration is negative or too long, and an admitted caller stays admitted.
    """
    gate = Gate()
    watched.provider.put((Pause(gate), *completion("well")))
    with watched.client() as client:
        client.send(watched.chat())
        watched.provider.see(watched.provider.request(1))
        watched.clock.by = timedelta(hours=hours)
        gate.open()
        under_way = client.response()
    after = [watched.ask(completion("well")) for _ in range(3)]

    for seen in (under_way, *after):
        assert (seen.status, seen.body) == (200, completion_body("well"))
        assert 0 <= float(seen.headers["x-response-time"]) < 60_000
        exchange = watched.record(seen.request_id)
        assert exchange.completed_at >= exchange.requested_at
        assert 0 <= exchange.timings.overhead_ns <= exchange.timings.total_ns < 60 * 10**9
    assert all(float(part.rpartition("=")[2]) >= 0 for part in after[0].headers["server-timing"].split(","))


@pytest.mark.parametrize("hours", [-1, 1])
def test_the_rate_limit_follows_a_changed_clock(tmp_path: Path, hours: int) -> None:
    """The window is that of the current clock, and the limit resets with the next window."""
    with (
        ScriptedOpenAI.in_thread() as provider,
        Loopback.running(provider, tmp_path, IBEX_RATE_LIMIT_DEFAULT_RPM="2") as proxy,
    ):
        proxy.clock.held_at = datetime.now(UTC).replace(second=30)  # so that no minute ends during the test
        seen = [proxy.ask() for _ in range(3)]
        proxy.clock.by += timedelta(hours=hours)
        seen += [proxy.ask() for _ in range(3)]
    assert [one.status for one in seen] == [200, 200, 429] * 2
    for one in seen:
        if one.status == 429:
            assert 0 < int(one.headers["retry-after"]) <= 60
    resets = [int(one.headers["x-ratelimit-reset"]) for one in seen]
    assert resets[3] - resets[0] == hours * 3_600
