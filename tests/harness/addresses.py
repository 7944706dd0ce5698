"""Loopback addresses that do not answer or that refuse connections, and a resolver for a host with several."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.readable import is_readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ibex.adapters.http_client.happy_eyeballs import AddressInfo, Resolver

LOOPBACK = "127.0.0.1"
WAIT_S = 10.0


def address_info(port: int, host: str = LOOPBACK, family: int = socket.AF_INET) -> AddressInfo:
    """Return an address as ``getaddrinfo`` does."""
    where = (host, port) if family == socket.AF_INET else (host, port, 0, 0)
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)


def resolver(*addresses: AddressInfo) -> Resolver:
    """Return a resolver that resolves every host to these addresses."""

    async def resolve(_host: str, _port: int) -> Sequence[AddressInfo]:
        return addresses

    return resolve


@contextmanager
def black_hole() -> Iterator[AddressInfo]:
    """Yield an address where connections are neither accepted nor refused.

    The queue of its socket has room for one connection and is full. Linux drops every further SYN.
    """
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen(0)
        with socket.create_connection(listener.getsockname(), WAIT_S):
            assert is_readable(listener, WAIT_S), "the queue did not fill"
            yield address_info(listener.getsockname()[1])


@contextmanager
def refusing() -> Iterator[AddressInfo]:
    """Yield an address that refuses connections: its port is bound, but not listening."""
    with socket.socket() as bound:
        bound.bind((LOOPBACK, 0))
        yield address_info(bound.getsockname()[1])
