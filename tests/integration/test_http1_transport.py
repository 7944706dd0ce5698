"""The default transport over real sockets: how requests get, wait for and return connections."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme

from harness.cancellation import Cut, Moment, run_cut
from harness.openai import ScriptedOpenAI
from harness.openai_wire import (
    Close,
    Gate,
    Pause,
    Reset,
    Silent,
    completion,
    completion_body,
    connection_close,
    open_stream,
)
from ibex.adapters.http_client.connection import StaleConnectionError
from ibex.adapters.http_client.not_connected import NotConnectedError
from ibex.adapters.http_client.pool import ConnectionPool, Origin, PoolLimits
from ibex.adapters.http_client.tls import client_context
from ibex.adapters.http_client.transport import Http1Transport
from ibex.adapters.http_client.upstream import upstream_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.adapters.http_client.connection import Http1Connection
    from ibex.adapters.http_client.tls import ResumingContext

pytestmark = [pytest.mark.integration, pytest.mark.both_loops]


@asynccontextmanager
async def transport_with(
    *, connections: int = 10, waiting: int = 10, keep_s: float = 30
) -> AsyncIterator[Http1Transport]:
    """Yield a transport with these limits. Assert at the end that no request is open."""
    transport = Http1Transport(PoolLimits(connections, waiting, keep_s))
    try:
        yield transport
        assert transport.open_requests == 0
    finally:
        await transport.aclose()


def root(server: ScriptedOpenAI) -> httpx.URL:
    """Return the root of the server's API."""
    return httpx.URL(f"{server.base_url}/")


async def ask(
    transport: Http1Transport, server: ScriptedOpenAI, *, wait_s: float = 60, is_fresh: bool = False
) -> bytes:
    """Send a request and return the body of its response. ``wait_s`` limits the wait for a connection."""
    url = root(server)
    upstream = upstream_over(transport, url, [(b"host", url.netloc)], wait_s)
    by = asyncio.get_running_loop().time() + 60
    response = await upstream.send("POST", "chat/completions", b"{}", stream=False, by=by, fresh=is_fresh)
    try:
        return b"".join([chunk async for chunk in response])
    finally:
        await response.aclose()


async def test_the_most_recently_used_connection_is_reused_first(openai_server: ScriptedOpenAI) -> None:
    """Connections beyond the needed number then stay idle until they expire."""
    async with transport_with() as transport:
        gates = [Gate(), Gate(), Gate()]
        openai_server.put(*((Pause(gate), *completion("ok")) for gate in gates))
        asking = [asyncio.create_task(ask(transport, openai_server)) for _ in gates]
        await openai_server.request(3)
        for gate in gates:
            gate.open()
        await asyncio.gather(*asking)
        for _ in range(5):
            openai_server.put(completion("ok"))
            await ask(transport, openai_server)
        assert len({one.connection for one in openai_server.requests[3:]}) == 1
        assert openai_server.connections == 3


async def test_the_longest_waiting_request_gets_the_next_connection(openai_server: ScriptedOpenAI) -> None:
    """Six requests over one connection get their responses in the order in which they were sent."""
    async with transport_with(connections=1) as transport:
        gate = Gate()
        openai_server.put((Pause(gate), *completion("0")), *(completion(f"{n}") for n in range(1, 6)))
        asking = []
        for _ in range(6):
            asking.append(asyncio.create_task(ask(transport, openai_server)))
            await asyncio.sleep(0)
        await openai_server.request()
        gate.open()
        assert list(await asyncio.gather(*asking)) == [completion_body(f"{n}") for n in range(6)]
        assert openai_server.connections == 1


async def test_waiting_for_a_connection_is_limited_in_number_and_time(openai_server: ScriptedOpenAI) -> None:
    """A request beyond the limit is refused, and a request that waits too long times out. Other requests succeed."""
    async with transport_with(connections=1, waiting=1) as transport:
        gate = Gate()
        openai_server.put((Pause(gate), *completion("ok")), completion("ok"))
        first = asyncio.create_task(ask(transport, openai_server))
        await openai_server.request()
        with pytest.raises(httpx.PoolTimeout):
            await ask(transport, openai_server, wait_s=0.01)
        second = asyncio.create_task(ask(transport, openai_server))
        await asyncio.sleep(0)
        with pytest.raises(httpx.PoolTimeout):
            await ask(transport, openai_server)
        gate.open()
        assert set(await asyncio.gather(first, second)) == {completion_body("ok")}


async def test_a_request_during_the_handover_of_a_connection_opens_another(openai_server: ScriptedOpenAI) -> None:
    """The pool has room for a second connection, so the request must not wait for the first to be released."""
    later: list[asyncio.Task[Http1Connection]] = []

    class Pool(ConnectionPool):
        def connected(self, connection: Http1Connection) -> None:
            super().connected(connection)
            if not later:
                later.append(asyncio.create_task(self.get(connect_s=60, wait_s=60)))

    url = httpx.URL(openai_server.base_url)
    pool = Pool(Origin(url.host, url.port or 0), PoolLimits(2, 10))
    first = await pool.get(connect_s=60, wait_s=60)
    async with asyncio.timeout(10):
        second = await later[0]

    assert second is not first
    await pool.aclose()


async def test_a_cancelled_wait_for_a_connection_leaks_nothing(openai_server: ScriptedOpenAI) -> None:
    """The request is cancelled at each of its waits, and also just as it receives the connection."""
    for suspension in range(1, 5):
        for moment in Moment:
            async with transport_with(connections=1) as transport:
                gate = Gate()
                openai_server.put((Pause(gate), *completion("ok")))
                first = asyncio.create_task(ask(transport, openai_server))
                await openai_server.request(len(openai_server.requests) + 1)
                asyncio.get_running_loop().call_later(0.01, gate.open)

                async def wait(transport: Http1Transport = transport) -> None:
                    await ask(transport, openai_server)

                run = await run_cut(wait, Cut(suspension, moment))
                assert (run.complaints, run.tasks_left) == ([], [])
                await first
                assert await ask(transport, openai_server)


async def test_a_refused_connection_fails_all_waiting_requests() -> None:
    """Each of them raises ConnectError instead of waiting for a connection that is never opened."""
    gone = ScriptedOpenAI()
    await gone.start()
    await gone.stop()
    async with transport_with(connections=2) as transport:
        outcomes = await asyncio.gather(*(ask(transport, gone) for _ in range(6)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {NotConnectedError}


async def test_an_idle_connection_closed_by_the_server_is_not_reused(openai_server: ScriptedOpenAI) -> None:
    """The pool detects the close before the next request, which opens another connection."""
    async with transport_with() as transport:
        openai_server.put((*completion("ok"), Close()), completion("ok"))
        await ask(transport, openai_server)
        await openai_server.requests[0].closed_at()
        for _ in range(10):  # lets the transport detect the close; the next test has an undetected one
            await asyncio.sleep(0)
        assert await ask(transport, openai_server) == completion_body("ok")
        assert openai_server.connections == 2


async def test_an_idle_connection_lost_during_a_request_raises_a_stale_connection_error(
    openai_server: ScriptedOpenAI,
) -> None:
    """The error differs from other failures, and the retry can ask for a new connection."""
    async with transport_with() as transport:
        openai_server.put(completion("ok"), (Reset(),), completion("ok"))
        await ask(transport, openai_server)
        with pytest.raises(StaleConnectionError):
            await ask(transport, openai_server)
        assert await ask(transport, openai_server, is_fresh=True) == completion_body("ok")


async def test_a_fresh_connection_is_not_an_idle_one(openai_server: ScriptedOpenAI) -> None:
    """The transport opens a new connection although an idle one is available."""
    async with transport_with() as transport:
        openai_server.put(completion("ok"), completion("ok"))
        await ask(transport, openai_server)
        await ask(transport, openai_server, is_fresh=True)
        assert [one.connection for one in openai_server.requests] == [1, 2]


async def test_idle_connections_expire(openai_server: ScriptedOpenAI) -> None:
    """The transport closes a connection after its keep-alive time, without another request."""
    async with transport_with(keep_s=0.02) as transport:
        openai_server.put(completion("ok"))
        await ask(transport, openai_server)
        await openai_server.requests[0].closed_at()


async def test_a_connection_is_not_reused_after_connection_close(openai_server: ScriptedOpenAI) -> None:
    """The next request gets another connection."""
    async with transport_with() as transport:
        openai_server.put(connection_close("ok"), completion("ok"))
        await ask(transport, openai_server)
        await ask(transport, openai_server)
        assert openai_server.connections == 2


async def test_closing_the_transport_fails_all_requests_and_closes_all_connections(
    openai_server: ScriptedOpenAI,
) -> None:
    """Open and waiting requests raise a transport error, and so does a request after the close."""
    transport = Http1Transport(PoolLimits(2, 10))
    openai_server.put((Silent(),), open_stream(b"data: 1\n\n"))
    asking = [asyncio.create_task(ask(transport, openai_server)) for _ in range(3)]
    await openai_server.request(2)
    await transport.aclose()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(outcome, httpx.TransportError) for outcome in outcomes)
    for one in openai_server.requests:
        await one.closed_at()
    with pytest.raises(httpx.ConnectError):
        await ask(transport, openai_server)


async def test_a_tls_session_is_resumed() -> None:
    """Later connections resume the TLS session, also if the first was closed after ``Connection: close``."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = ScriptedOpenAI()
    await server.start(tls=context)

    def trusting() -> ResumingContext:
        own = client_context()
        authority.configure_trust(own)
        return own

    transport = Http1Transport(PoolLimits(2, 0), trusting)
    resumed = []
    for _ in range(3):
        server.put(connection_close("ok"))
        connection = await transport.pool(root(server)).get(connect_s=60, wait_s=60)
        assert connection.ssl_object is not None
        response = connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n", b"{}")
        await response.head()
        assert b"".join([chunk async for chunk in response]) == completion_body("ok")
        resumed.append(connection.ssl_object.session_reused)
        await response.aclose()
    assert resumed == [False, True, True]
    await transport.aclose()
    await server.stop()


async def test_new_connections_use_cas_that_were_read_again() -> None:
    """Open connections stay, and their sessions are not resumed with the new CAs."""
    authority, other, context = trustme.CA(), trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = ScriptedOpenAI()
    await server.start(tls=context)
    trusted = [authority, other, authority]

    def trusting() -> ResumingContext:
        own = client_context()
        trusted.pop(0).configure_trust(own)
        return own

    transport = Http1Transport(PoolLimits(2, 0), trusting)
    pool = transport.pool(root(server))
    await ask(transport, server)
    transport.renew_tls()
    await ask(transport, server)
    with pytest.raises(httpx.ConnectError):
        await pool.get(connect_s=60, wait_s=60, fresh=True)
    transport.renew_tls()
    connection = await pool.get(connect_s=60, wait_s=60, fresh=True)
    assert connection.ssl_object is not None
    assert not connection.ssl_object.session_reused
    await transport.aclose()
    await server.stop()


async def test_a_certificate_for_another_name_is_refused() -> None:
    """The transport refuses it although it trusts the issuer, and sends no request."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    server = ScriptedOpenAI()
    await server.start(tls=context)

    def trusting() -> ResumingContext:
        own = client_context()
        authority.configure_trust(own)
        return own

    transport = Http1Transport(PoolLimits(2, 0), trusting)
    with pytest.raises(httpx.ConnectError):
        await ask(transport, server)
    assert server.requests == []
    await transport.aclose()
    await server.stop()
