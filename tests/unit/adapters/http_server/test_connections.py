"""Tests of the states and time limits of connections, and of eviction (ADR 0037)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from harness.server_connection import Connection
from harness.simulated_time import SimulatedLoop, in_simulated_time
from ibex.adapters.http_server.connections import (
    DISCARDED_BYTES_PER_S,
    OVERLOAD_RESERVE,
    ConnectionLimits,
    ConnectionTable,
    State,
)
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS = ConnectionLimits(head_s=10, stall_s=60, keep_alive_s=75, linger_s=2, connections=4)
REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
TOO_LARGE = b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 70_000


class Server:
    """The connections of one worker."""

    def __init__(self, limits: ConnectionLimits = LIMITS) -> None:
        self._protocol = LimitedHttpProtocol.limited(limits)
        assert self._protocol.table is not None
        self.table: ConnectionTable = self._protocol.table

    def connect(self, *, waits: bool = False, reads: bool = True) -> Connection:
        """Return a new connection."""
        return Connection(waits=waits, reads=reads, server=self._protocol)

    def fill(self, prepare: Callable[[Connection], object] = lambda _: None) -> list[Connection]:
        """Connect as many clients as the limit allows."""
        connections = [self.connect() for _ in range(LIMITS.connections)]
        for connection in connections:
            prepare(connection)
        return connections


SCENARIOS: dict[str, tuple[bool, bool, tuple[bytes, ...], float]] = {
    "new": (False, True, (), LIMITS.head_s),
    "head": (False, True, (REQUEST, b"GET / HTTP/1.1\r\nx: "), LIMITS.head_s),
    "pipelined": (True, True, (REQUEST, b"GET / HTTP/1.1\r\nx: "), LIMITS.head_s),
    "framing": (False, True, (CHUNKED, b"0\r\nt: a"), LIMITS.head_s),
    "idle": (False, True, (REQUEST,), LIMITS.keep_alive_s),
    "lingering": (False, True, (TOO_LARGE,), LIMITS.linger_s),
}
"""For each state: whether the application waits, whether it reads the body, what the client sends, the time limit."""


def test_each_state_has_a_time_limit() -> None:
    """Only a running request has none, because the application has its deadlines. Each state has a scenario below."""
    states = [value for value in vars(ConnectionTable(LIMITS)).values() if isinstance(value, State)]

    assert {state.name for state in states if state.limit_s is None} == {"request"}
    assert {state.name for state in states} == {*SCENARIOS, "request", "overloaded"}


@pytest.mark.parametrize("name", SCENARIOS)
@in_simulated_time
async def test_a_silent_client_is_disconnected(name: str) -> None:
    """This happens in each state, exactly at its time limit."""
    waits, reads, sent, limit_s = SCENARIOS[name]
    connection = Server().connect(waits=waits, reads=reads)
    for data in sent:
        connection.protocol.data_received(data)
        await connection.settle()
    state = connection.protocol.state

    assert state is not None
    assert state.name == name
    await asyncio.sleep(limit_s * 0.99)
    assert not connection.transport.aborted
    await asyncio.sleep(limit_s * 0.02)
    assert connection.transport.aborted
    await connection.finish()


@pytest.mark.parametrize("name", ["new", "head", "pipelined", "framing"])
@in_simulated_time
async def test_a_slow_client_is_disconnected(name: str) -> None:
    """A byte per second extends no time limit, except the first byte of a connection."""
    waits, reads, sent, limit_s = SCENARIOS[name]
    connection = Server().connect(waits=waits, reads=reads)
    for data in sent or (b"GET / HTTP/1.1\r\nx: ",):
        connection.protocol.data_received(data)
        await connection.settle()
    began = asyncio.get_running_loop().time()
    while not connection.transport.aborted:
        connection.protocol.data_received(b"A")
        await asyncio.sleep(1)

    assert limit_s <= asyncio.get_running_loop().time() - began <= limit_s + 1.1
    await connection.finish()


@in_simulated_time
async def test_data_while_lingering_extends_no_limit() -> None:
    """An unread response extends it only up to the limit of reading."""
    connection = Server().connect()
    connection.protocol.data_received(TOO_LARGE)
    await connection.settle()
    connection.transport.unsent = 1_000
    for _ in range(58):
        assert not connection.transport.aborted
        connection.protocol.data_received(b"A")
        await asyncio.sleep(1)
    await asyncio.sleep(LIMITS.stall_s / 2)

    assert connection.transport.aborted
    await connection.finish()


@pytest.mark.parametrize("clients", [1, 4])
@in_simulated_time
async def test_a_worker_discards_at_a_limited_rate(clients: int) -> None:
    """Connections share the rate in order of arrival. One alone gets the whole rate."""
    server, piece, seconds = Server(), b"A" * (256 << 10), 0.2
    connections = [server.connect() for _ in range(clients)]
    for connection in connections:
        connection.protocol.data_received(TOO_LARGE)
        await connection.settle()
    discarded = [0] * clients
    ends = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < ends:
        for number, connection in enumerate(connections):
            if connection.transport.is_read:
                connection.protocol.data_received(piece)
                discarded[number] += len(piece)
        await asyncio.sleep(0.0005)

    assert 0.8 < sum(discarded) / (DISCARDED_BYTES_PER_S * seconds) < 1.2
    assert min(discarded) > 0.8 * max(discarded)
    for connection in connections:
        await connection.finish()


@in_simulated_time
async def test_a_connection_is_reused_repeatedly() -> None:
    """Each response restarts its time limit."""
    connection = Server().connect()
    for _ in range(5):
        connection.protocol.data_received(REQUEST)
        await asyncio.sleep(LIMITS.keep_alive_s * 0.9)
        assert not connection.transport.aborted
    await asyncio.sleep(LIMITS.keep_alive_s * 0.2)

    assert connection.transport.aborted
    await connection.finish()


@in_simulated_time
async def test_a_blocked_loop_disconnects_no_client_at_once() -> None:
    """Data that arrived in that time is read first."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    connection = Server().connect()
    await asyncio.sleep(0)
    loop.stand_still(LIMITS.head_s + 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    connection.protocol.data_received(REQUEST)
    await asyncio.sleep(LIMITS.head_s)

    assert not connection.transport.aborted
    await connection.finish()


@in_simulated_time
async def test_a_slow_reader_is_disconnected() -> None:
    """It reads less than a KiB per second over 30 s, or in the long run. A faster one is not disconnected."""
    for rate, every_s, dropped in ((300, 1, True), (600, 50, True), (1_100, 1, False), (2_000, 40, False)):
        connection = Server().connect(waits=True)
        connection.protocol.data_received(REQUEST)
        connection.transport.unsent = 1_000_000
        connection.protocol.pause_writing()
        for _ in range(240 // every_s):
            await asyncio.sleep(every_s)
            connection.transport.unsent -= rate * every_s
        assert connection.transport.aborted is dropped
        connection.protocol.resume_writing()
        await connection.finish()


@in_simulated_time
async def test_connections_without_a_request_are_evicted_first() -> None:
    """The order is the oldest silent connection, then lingering ones, then the longest idle. Running requests stay."""
    server = Server()
    running = server.connect(waits=True)
    running.protocol.data_received(REQUEST)
    idle, lingering, silent = server.connect(), server.connect(), server.connect()
    idle.protocol.data_received(REQUEST)
    lingering.protocol.data_received(TOO_LARGE)
    await idle.settle()
    others = [running]
    for number, victim in enumerate((silent, lingering, idle)):
        assert not victim.transport.aborted
        newcomer = server.connect(waits=True)
        newcomer.protocol.data_received(REQUEST)
        assert [connection.transport.aborted for connection in (silent, lingering, idle)] == [
            n <= number for n in range(3)
        ]
        assert server.table.count == LIMITS.connections
        others.append(newcomer)

    assert not any(connection.transport.aborted for connection in others)
    for connection in (silent, lingering, idle, *others):
        await connection.finish()
    assert server.table.count == 0


@in_simulated_time
async def test_a_worker_that_is_full_of_requests_responds_503() -> None:
    """Connections beyond the limit get 503 OVERLOADED and are closed. Only a reserve of them stays."""
    server = Server()
    running = [server.connect(waits=True) for _ in range(LIMITS.connections)]
    for connection in running:
        connection.protocol.data_received(REQUEST)
    beyond = [server.connect() for _ in range(OVERLOAD_RESERVE + 1)]
    assert [connection.transport.aborted for connection in beyond] == [True] + [False] * OVERLOAD_RESERVE
    beyond[1].protocol.data_received(REQUEST)
    await beyond[1].settle()

    assert beyond[1].transport.written.startswith(b"HTTP/1.1 503 ")
    assert beyond[1].codes == ["OVERLOADED"]
    assert not any(connection.transport.aborted for connection in running)
    await asyncio.sleep(LIMITS.head_s * 1.1)
    assert all(connection.transport.aborted for connection in beyond)
    for connection in (*running, *beyond):
        await connection.finish()
    assert server.table.count == 0
