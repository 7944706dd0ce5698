"""What the default transport sends and refuses to send, without a connection."""

from __future__ import annotations

import httpx
import pytest

from ibex.adapters.openai.http1.pool import PoolLimits
from ibex.adapters.openai.transport import Http1Transport, default_transport


async def test_it_opens_nothing_until_it_is_asked() -> None:
    """It can be made at start and closed unused."""
    transport = default_transport(max_connections=5)
    await transport.aclose()
    assert transport.open_requests == 0


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\x00b"])
async def test_a_header_that_would_be_several(value: str) -> None:
    """Refused before anything is connected."""
    transport = Http1Transport(PoolLimits(1, 0))
    request = httpx.Request("POST", "http://provider.example/", headers=[(b"x", value.encode())], content=b"{}")
    with pytest.raises(httpx.LocalProtocolError):
        await transport.handle_async_request(request)
    assert transport.open_requests == 0
