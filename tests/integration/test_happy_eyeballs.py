"""Racing the addresses of a host, over real sockets on both event loops."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.addresses import address_info, black_hole, refusing, resolver
from harness.openai_wire import completion, completion_body
from ibex.adapters.http_client.happy_eyeballs import AddressInfo, connect, resolve
from ibex.adapters.http_client.pool import PoolLimits
from ibex.adapters.http_client.transport import Http1Transport
from ibex.adapters.http_client.upstream import upstream_over

if TYPE_CHECKING:
    from harness.openai import ScriptedOpenAI

pytestmark = [pytest.mark.integration, pytest.mark.both_loops]

LONG_S = 60.0
SOON_S = 0.01


def good(server: ScriptedOpenAI) -> AddressInfo:
    """Return the server's address."""
    return address_info(httpx.URL(server.base_url).port or 0)


def descriptors() -> set[str]:
    """Return the open file descriptors of this process."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def is_socket(descriptor: int) -> bool:
    """Return whether a descriptor is open, and a socket."""
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # it belonged to the listing of the descriptors
        return False


def sockets_to(address: AddressInfo) -> list[socket.socket]:
    """Return a copy of each socket of this process that is connected to an address."""
    found = []
    # ``fromfd`` raises an error for any other descriptor, and leaves a copy of it open.
    for descriptor in [number for number in map(int, descriptors()) if is_socket(number)]:
        copy = socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM)
        with suppress(OSError):
            if copy.getpeername() == address[4]:
                found.append(copy)
                continue
        copy.close()
    return found


async def ask(transport: Http1Transport, connect_s: float) -> bytes:
    """Send a request to a host whose addresses the transport's resolver knows; return the response's body."""
    url = httpx.URL("http://provider.test/v1/")
    upstream = upstream_over(transport, url, [(b"host", url.netloc)], connect_s)
    by = asyncio.get_running_loop().time() + LONG_S
    response = await upstream.send("POST", "chat/completions", b"{}", stream=False, by=by, fresh=False)
    try:
        return b"".join([chunk async for chunk in response])
    finally:
        await response.aclose()


async def test_the_second_address_is_tried_if_the_first_does_not_answer(openai_server: ScriptedOpenAI) -> None:
    """The request is served within a second, and the other attempt is closed."""
    openai_server.put(completion("ok"))
    with black_hole() as silent:
        transport = Http1Transport(PoolLimits(1, 0), resolve=resolver(silent, good(openai_server)))
        before = descriptors()
        began = time.monotonic()
        assert await ask(transport, connect_s=5) == completion_body("ok")
        assert time.monotonic() - began < 1
        await transport.aclose()
        await openai_server.requests[0].closed_at()
        await openai_server.cut()
        assert descriptors() <= before


async def test_the_next_address_is_tried_at_once_if_one_refuses(openai_server: ScriptedOpenAI) -> None:
    """The attempt delay is for addresses that do not answer."""
    with refusing() as first, refusing() as second:
        async with asyncio.timeout(10):
            connected = await connect([first, second, good(openai_server)], delay_s=LONG_S)
    assert connected.getpeername() == good(openai_server)[4]
    connected.close()


async def test_an_address_that_refuses_does_not_end_the_attempt_before_it(openai_server: ScriptedOpenAI) -> None:
    """Attempts in progress continue, and further attempts begin."""
    with black_hole() as silent, refusing() as refused:
        async with asyncio.timeout(10):
            connected = await connect([silent, refused, good(openai_server)], delay_s=SOON_S)
    assert connected.getpeername() == good(openai_server)[4]
    connected.close()


async def test_the_first_failure_is_raised_if_all_addresses_fail() -> None:
    """The error has its errno, which shows whether file descriptors ran out."""
    with refusing() as first, refusing() as second:
        before = descriptors()
        with pytest.raises(ConnectionRefusedError) as raised:
            await connect([first, second])
        assert raised.value.errno == errno.ECONNREFUSED
        assert descriptors() == before


async def test_an_address_family_that_the_machine_lacks_is_skipped(openai_server: ScriptedOpenAI) -> None:
    """The next address is tried if the socket cannot be created."""
    unknown: AddressInfo = (255, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))
    connected = await connect([unknown, good(openai_server)], delay_s=LONG_S)
    assert connected.getpeername() == good(openai_server)[4]
    connected.close()


async def test_a_cancellation_closes_all_attempts() -> None:
    """They close at once, without another iteration of the event loop."""
    with black_hole() as silent:
        before = descriptors()
        connecting = asyncio.create_task(connect([silent, silent], delay_s=0))
        for _ in range(100):  # iterations of the event loop; both attempts begin after a few
            await asyncio.sleep(0)
        assert len(descriptors() - before) == 2
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert descriptors() == before


async def test_the_time_limit_covers_all_addresses() -> None:
    """The pool's limit for connecting applies to the whole race."""
    with black_hole() as silent:
        transport = Http1Transport(PoolLimits(1, 0), resolve=resolver(silent, silent, silent))
        with pytest.raises(httpx.ConnectTimeout):
            await ask(transport, connect_s=0.05)
        await transport.aclose()


async def test_a_connection_sends_without_delay(openai_server: ScriptedOpenAI) -> None:
    """Nagle's algorithm is off, as for connections that the event loop opens itself."""
    transport = Http1Transport(PoolLimits(1, 0))
    await transport.pool(httpx.URL(openai_server.base_url)).get(connect_s=10, wait_s=10)
    (own,) = sockets_to(good(openai_server))
    assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    own.close()
    await transport.aclose()


async def test_a_host_name_is_resolved_by_the_system() -> None:
    """A numeric host resolves to itself."""
    (found,) = await resolve("127.0.0.1", 443)
    assert found[0] == socket.AF_INET
    assert found[1] == socket.SOCK_STREAM
    assert found[4] == ("127.0.0.1", 443)
