"""Tests of the order in which the addresses of a host are tried."""

from __future__ import annotations

from socket import AF_INET, AF_INET6

import pytest

from harness.addresses import address_info
from ibex.adapters.http_client.happy_eyeballs import AddressInfo, connect, interleaved

V4 = [address_info(port, family=AF_INET) for port in (41, 42, 43)]
V6 = [address_info(port, "::1", AF_INET6) for port in (61, 62, 63)]


@pytest.mark.parametrize(
    ("found", "order"),
    [
        ([], []),
        (V4, V4),
        ([*V6, *V4], [V6[0], V4[0], V6[1], V4[1], V6[2], V4[2]]),
        ([V4[0], *V6[:2]], [V4[0], V6[0], V6[1]]),
        ([V6[0], V6[1], V6[2], V4[0]], [V6[0], V4[0], V6[1], V6[2]]),
    ],
)
def test_families_alternate(found: list[AddressInfo], order: list[AddressInfo]) -> None:
    """Within a family, the order is the resolver's. Its first address stays first."""
    assert interleaved(found) == order


async def test_connecting_to_a_host_without_an_address_raises() -> None:
    """The error is an ``OSError``, as for any failed connection."""
    with pytest.raises(OSError, match="no address"):
        await connect([])
