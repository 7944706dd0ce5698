"""Tests of the addresses of auth, and of the calls that authenticate each connection."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any, cast

import grpc
import pytest

from harness.simulated_time import in_simulated_time
from ibex.adapters.grpc.replicas import CHECK_INTERVAL_S, READY_POLL_INTERVAL_S, Endpoint, Replicas, endpoints_in


class ReadyChannel:
    """A channel that is connected at each poll, whether or not it has reconnected between two polls."""

    def get_state(self, *, try_to_connect: bool) -> grpc.ChannelConnectivity:
        """Return READY."""
        assert try_to_connect
        return grpc.ChannelConnectivity.READY

    def unary_unary(self, *_: Any, **__: Any) -> None:
        """Return nothing: nobody calls a method."""

    unary_stream = stream_stream = unary_unary

    async def close(self, grace: float | None = None) -> None:
        """Close."""


@pytest.mark.parametrize(
    ("address", "endpoints"),
    [
        ("auth:9091", (Endpoint("auth", 9091),)),
        ("dns:///auth.svc:9091", (Endpoint("auth.svc", 9091),)),
        ("10.0.0.1:1, 10.0.0.2:2", (Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 2))),
        ("[::1]:9091,auth:1", (Endpoint("::1", 9091), Endpoint("auth", 1))),
    ],
)
def test_an_address_names_endpoints(address: str, endpoints: tuple[Endpoint, ...]) -> None:
    """It has one endpoint or several, each with a host name or an IP address."""
    assert endpoints_in(address) == endpoints


@pytest.mark.parametrize("address", ["", ",", "auth", ":9091", "auth:", "auth:x", "auth:1,"])
def test_an_invalid_address_is_refused(address: str) -> None:
    """This covers every kind of mistake."""
    with pytest.raises(ValueError, match=r"host:port|invalid literal"):
        endpoints_in(address)


def test_an_endpoint_has_the_form_of_a_grpc_target() -> None:
    """An IPv6 address is in brackets. Only IP addresses are targets."""
    assert [Endpoint(host, 1).target for host in ("10.0.0.1", "::1")] == ["ipv4:10.0.0.1:1", "ipv6:[::1]:1"]
    assert [Endpoint(host, 1).is_address for host in ("10.0.0.1", "::1", "auth")] == [True, True, False]


@in_simulated_time
async def test_a_reconnection_that_no_poll_sees_is_authenticated() -> None:
    """Auth ends a connection at its maximum age, and gRPC reconnects within a millisecond: the state is still READY."""
    calls: asyncio.Queue[float] = asyncio.Queue()

    async def authenticate(_: object) -> None:
        calls.put_nowait(asyncio.get_running_loop().time())

    channel = cast("grpc.aio.Channel", ReadyChannel())
    replicas = Replicas(endpoints_in("127.0.0.1:9091"), lambda _target, _name: channel, authenticate)
    await replicas.open()
    async with asyncio.timeout(10 * CHECK_INTERVAL_S):
        called_at_s = [await calls.get() for _ in range(3)]
    await replicas.close()

    for earlier, later in pairwise(called_at_s):
        assert CHECK_INTERVAL_S <= later - earlier <= CHECK_INTERVAL_S + READY_POLL_INTERVAL_S
