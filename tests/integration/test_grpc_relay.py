"""The relay in front of the gRPC server: listening, forwarding and closing."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.grpc.connections import PeerRole
from ibex.adapters.grpc.health import Health
from ibex.adapters.grpc.relay import Relay, bind, connection_of
from ibex.adapters.grpc.statuses import UnknownServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MUCH = 8 << 20
WAIT_S = 30.0


@asynccontextmanager
async def echoing(relay: Relay) -> AsyncIterator[int]:
    """Run an echo server behind a relay. Yield the relay's port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(echo, relay.prepare().removeprefix("unix:"))
    listeners = bind("127.0.0.1:0")
    port = listeners[0].getsockname()[1]
    await relay.start(listeners)
    try:
        yield port
    finally:
        await relay.close()
        await relay.close()
        server.close()
        await asyncio.sleep(0)


async def test_bytes_are_forwarded_in_both_directions() -> None:
    """A slow reader gets all of them, in order."""
    relay = Relay(10, WAIT_S)
    sent = bytes(range(256)) * (MUCH // 256)
    async with asyncio.timeout(WAIT_S), echoing(relay) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sending = asyncio.create_task(_send(writer, sent))
        received = await reader.readexactly(len(sent))
        await sending
        writer.close()
        await writer.wait_closed()

    assert received == sent


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def test_an_unauthenticated_connection_is_closed_and_removed() -> None:
    """A connection with an authenticated caller stays open."""
    relay = Relay(10, 0.5)
    async with asyncio.timeout(WAIT_S), echoing(relay) as port:
        proven, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        assert await proven.readexactly(1) == b"x"
        relay.table.authenticated("1", PeerRole.SERVICE)
        silent, other = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionError):
            assert await silent.read() == b""
        writer.write(b"y")
        assert await proven.readexactly(1) == b"y"
        assert len(relay.table) == 1
        writer.close()
        other.close()
        await writer.wait_closed()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "0.0.0.0:0", "[::]:0"])
def test_all_addresses_of_a_host_have_one_port(address: str) -> None:
    """The IPv6 wildcard includes IPv4. A port in use is refused."""
    if address.startswith("[") and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    listeners = bind(address)
    try:
        (port,) = {listener.getsockname()[1] for listener in listeners}
        for listener in listeners:
            listener.listen()
        socket.create_connection(("127.0.0.1", port), WAIT_S).close()
        with pytest.raises(OSError, match="in use"):
            bind(f"{address.rpartition(':')[0]}:{port}")
    finally:
        for listener in listeners:
            listener.close()


def test_the_peer_of_a_call_names_its_connection() -> None:
    """The name is the last part of the peer."""
    assert connection_of("unix:folder/12") == "12"


async def test_health_reports_not_serving_after_the_stop() -> None:
    """An unknown service is an error, before and after."""
    health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
    health = Health("a.B")
    assert (await health.check(health_pb2.HealthCheckRequest(service="a.B"), None)).status == 1
    health.stop_serving()
    assert (await health.check(health_pb2.HealthCheckRequest(), None)).status == 2
    with pytest.raises(UnknownServiceError):
        await health.check(health_pb2.HealthCheckRequest(service="c.D"), None)
