"""The replicas of auth: where they are, a connection to each, and which of them is asked next (ADR 0046)."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health_pb2_grpc

from ibex.adapters.grpc.generated import auth_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

LOOK_INTERVAL_S: Final = 0.05
RESOLVE_INTERVAL_S: Final = 10.0
RESOLVE_AGAIN_S: Final = 1.0
"""How often a name is resolved while not every replica is connected."""
AVOIDED_S: Final = 1.0
"""How long a replica that did not answer is asked only if no other one is connected."""
_DNS: Final = "dns:///"
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host, by name or by address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def target(self) -> str:
        """The address as gRPC takes it. The host must not be a name."""
        return f"{'ipv6' if ':' in self.host else 'ipv4'}:{self}"

    @property
    def is_address(self) -> bool:
        """Whether the host is an address, which needs no resolution."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


def endpoints_in(address: str) -> tuple[Endpoint, ...]:
    """Return what ``host:port``, ``dns:///name:port`` or several of them, separated by commas, name.

    Raises ``ValueError``.
    """
    parts = [part.strip().removeprefix(_DNS).rpartition(":") for part in address.split(",")]
    if not all(host for host, _, _ in parts):
        raise ValueError("the address of auth is host:port")
    return tuple(Endpoint(host.removeprefix("[").removesuffix("]"), int(port)) for host, _, port in parts)


class Replica:
    """One replica and the connection to it."""

    def __init__(self, endpoint: Endpoint, channel: grpc.aio.Channel) -> None:
        self.endpoint = endpoint
        self.service: Any = auth_pb2_grpc.AuthServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)
        self.channel = channel
        self.is_connected = False
        self.avoided_until_s = 0.0
        self.warm: asyncio.Task[None] | None = None

    def avoid(self) -> None:
        """Prefer other replicas for a second."""
        self.avoided_until_s = asyncio.get_running_loop().time() + AVOIDED_S

    def rank(self, now_s: float) -> int:
        """Return how little there is to expect of a call: 0 for a connected replica that has answered lately."""
        state = self.channel.get_state()
        if state is grpc.ChannelConnectivity.READY:
            return int(now_s < self.avoided_until_s)
        return 3 if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE else 2


class Replicas:
    """A connection to each replica, kept open.

    gRPC can resolve names and take turns itself, but then a second attempt may reach the replica that failed the first.
    """

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        connect: Callable[[str, str], grpc.aio.Channel],
        introduce: Callable[[Replica], Awaitable[object]],
    ) -> None:
        """Take ``connect``, which is given a target and the name that its certificate must have.

        ``introduce`` is called with each replica that has just been connected.
        """
        self._endpoints = endpoints
        self._connect = connect
        self._introduce = introduce
        self._all: dict[tuple[Endpoint, str], Replica] = {}
        self._unresolved: set[Endpoint] = set()
        self._turn = 0
        self._following: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()

    def __iter__(self) -> Iterator[Replica]:
        return iter(tuple(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    async def open(self) -> None:
        """Begin to connect and to follow names. Waits until names are resolved, at most a second."""
        if all(endpoint.is_address for endpoint in self._endpoints):
            self._use({(endpoint, str(endpoint)) for endpoint in self._endpoints})
            return
        resolved = asyncio.Event()
        self._following = asyncio.create_task(self._follow_names(resolved))
        with suppress(TimeoutError):
            async with asyncio.timeout(RESOLVE_AGAIN_S):
                await resolved.wait()

    async def close(self) -> None:
        """Disconnect; calls under way fail."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.wait([following])
        replicas = list(self._all.values())
        self._all.clear()
        self.connected.clear()
        for replica in replicas:
            await _close(replica)

    def next(self, besides: Replica | None = None) -> Replica | None:
        """Return the replica whose turn it is, of those that are connected if any is; None if there is no other one."""
        replicas = tuple(self._all.values())
        now_s = asyncio.get_running_loop().time()
        best, best_rank, best_index = None, 4, 0
        for step in range(len(replicas)):
            index = (self._turn + step) % len(replicas)
            replica = replicas[index]
            if replica is besides:
                continue
            rank = replica.rank(now_s)
            if rank < best_rank:
                best, best_rank, best_index = replica, rank, index
                if rank == 0:
                    break
        if best is not None:
            self._turn = best_index + 1
        return best

    async def _follow_names(self, resolved: asyncio.Event) -> None:
        while True:
            gone = self._use(await self._places())
            resolved.set()
            for replica in gone:
                await _close(replica)
            are_connected = self._all and all(replica.is_connected for replica in self._all.values())
            await asyncio.sleep(RESOLVE_INTERVAL_S if are_connected else RESOLVE_AGAIN_S)

    async def _places(self) -> set[tuple[Endpoint, str]]:
        """Return where the replicas are. A name that cannot be resolved now stands for its last addresses."""
        wanted: set[tuple[Endpoint, str]] = set()
        for endpoint in self._endpoints:
            try:
                wanted.update(await _places_of(endpoint))
            except (OSError, UnicodeError):
                if endpoint not in self._unresolved:
                    _LOG.warning("the address of auth cannot be resolved: %s", endpoint)
                self._unresolved.add(endpoint)
                wanted.update(place for place in self._all if place[1] == str(endpoint))
            else:
                self._unresolved.discard(endpoint)
        return wanted

    def _use(self, wanted: set[tuple[Endpoint, str]]) -> list[Replica]:
        """Connect to what is new; return the replicas that are gone."""
        for place in wanted - self._all.keys():
            endpoint, name = place
            replica = self._all[place] = Replica(endpoint, self._connect(endpoint.target, name))
            replica.warm = asyncio.create_task(self._keep_warm(replica))
        return [self._all.pop(place) for place in self._all.keys() - wanted]

    async def _keep_warm(self, replica: Replica) -> None:
        """Connect again whenever the connection has gone, log it, and introduce this proxy on a new connection.

        Auth closes connections that have not presented the service credential in time, and under an attack soon. So a
        new connection carries one call at once, whether or not a request needs it.

        This looks now and then. The library would tell of changes, but a caller that waits for one and is cancelled
        leaves an event behind that later disturbs another event loop.
        """
        seen = None
        while True:
            state = replica.channel.get_state(try_to_connect=True)
            if state is not seen:
                seen = state
                self._see(replica, state)
                if state is grpc.ChannelConnectivity.READY:
                    await self._introduce(replica)
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _see(self, replica: Replica, state: grpc.ChannelConnectivity) -> None:
        replica.is_connected = state is grpc.ChannelConnectivity.READY
        if replica.is_connected:
            self.connected.set()
            _LOG.info("connected to auth at %s", replica.endpoint)
        elif not any(other.is_connected for other in self._all.values()):
            self.connected.clear()
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            _LOG.warning("auth cannot be reached at %s", replica.endpoint)


async def _close(replica: Replica) -> None:
    if replica.warm is not None:
        replica.warm.cancel()
        await asyncio.wait([replica.warm])
    await replica.channel.close()


async def _places_of(endpoint: Endpoint) -> list[tuple[Endpoint, str]]:
    """Return the addresses of an endpoint, each with the endpoint as its name.

    Raises ``OSError``, and ``UnicodeError`` for what cannot be a name.
    """
    if endpoint.is_address:
        return [(endpoint, str(endpoint))]
    found = await asyncio.get_running_loop().getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    return [(Endpoint(str(place[0]), endpoint.port), str(endpoint)) for *_, place in found]
