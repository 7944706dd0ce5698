"""Tests of the default transport without a connection."""

from __future__ import annotations

import httpx

from ibex.adapters.http_client.transport import default_transport


async def test_a_transport_opens_no_connection_before_the_first_request() -> None:
    """It can be created at start and closed unused."""
    transport = default_transport(max_connections=5)
    await transport.aclose()
    assert transport.open_requests == 0


async def test_a_server_has_one_pool() -> None:
    """The path does not matter. Another scheme or port is another server."""
    transport = default_transport()
    first = transport.pool(httpx.URL("http://provider.test/v1/"))
    assert transport.pool(httpx.URL("http://provider.test/other")) is first
    assert transport.pool(httpx.URL("https://provider.test/v1/")) is not first
    assert transport.pool(httpx.URL("http://provider.test:8080/v1/")) is not first
    await transport.aclose()
