"""Tests of the graceful end of a client connection. ``tests/integration/test_proxy_server`` has those with sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.server_connection import Connection
from ibex.adapters.http_server.connections import ConnectionLimits
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol

if TYPE_CHECKING:
    from ibex.adapters.http_server.connections import ConnectionTable

REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def _connection(*, is_draining: bool) -> tuple[Connection, ConnectionTable]:
    """Return a connection of a worker, and the worker's table."""
    server = LimitedHttpProtocol.limited(ConnectionLimits())
    assert server.table is not None
    server.table.is_draining = is_draining
    return Connection(server=server), server.table


async def test_a_response_during_the_drain_closes_its_connection() -> None:
    """The client sends its next request on another connection."""
    connection, _ = _connection(is_draining=True)
    connection.protocol.data_received(REQUEST)

    assert b"\r\nconnection: close\r\n" in await connection.finish()


async def test_every_request_of_a_pipeline_is_answered_if_a_drain_begins() -> None:
    """Only the last response closes the connection."""
    connection, table = _connection(is_draining=False)
    connection.protocol.data_received(REQUEST * 3)
    table.is_draining = True
    connection.protocol.announce_close()
    for _ in range(3):
        await connection.settle()

    assert connection.transport.written.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert connection.transport.written.count(b"connection: close") == 1
    assert connection.is_over


async def test_a_request_that_runs_when_the_drain_begins_announces_the_close() -> None:
    """Its head has not been sent yet."""
    connection = Connection()
    connection.protocol.data_received(REQUEST)
    connection.protocol.announce_close()

    assert b"\r\nconnection: close\r\n" in await connection.finish()


async def test_a_connection_with_a_part_of_a_request_stays_until_its_response() -> None:
    """An idle connection is closed at once, also one that never had a request, once it was silent for long enough."""
    connection, _ = _connection(is_draining=True)
    connection.protocol.data_received(REQUEST[:10])
    connection.protocol.shutdown()
    connection.protocol.close_if_silent()
    assert not connection.is_over
    connection.protocol.data_received(REQUEST[10:])
    await connection.settle()
    assert connection.transport.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert connection.is_over

    new = Connection()
    new.protocol.shutdown()
    assert not new.is_over
    new.protocol.close_if_silent()
    assert new.is_over

    idle = Connection()
    idle.protocol.data_received(REQUEST)
    await idle.settle()
    idle.protocol.shutdown()
    assert idle.is_over
