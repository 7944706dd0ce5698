"""The replicas of auth: name resolution, one connection for each replica, and the choice of the next one (ADR 0046)."""

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
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

POLL_INTERVAL_S: Final = 0.05
"""The interval between polls of the state of a channel that is not connected."""
READY_POLL_INTERVAL_S: Final = 0.25
"""The same for a connected channel. Each poll wakes an idle worker, and calls notice a lost connection sooner."""
CHECK_INTERVAL_S: Final = 4.0
"""The interval between calls of ``on_connected`` while a replica is connected: less than half of the default of
``IBEX_HEADER_TIMEOUT``, the time that auth gives a connection to authenticate."""
RESOLVE_INTERVAL_S: Final = 10.0
RESOLVE_RETRY_S: Final = 1.0
"""The interval between resolutions while not every replica is connected."""
AVOIDED_S: Final = 1.0
"""For this long after a replica did not answer, it is only called if no other one is connected."""
RENEWAL_TIMEOUT_S: Final = 5.0
RENEWAL_GRACE_S: Final = 2.0
"""How long calls may run on a connection that was replaced. Longer than the deadline of a validation."""
_DNS: Final = "dns:///"
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host name or IP address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def target(self) -> str:
        """The endpoint as a gRPC target. The host must be an IP address."""
        return f"{'ipv6' if ':' in self.host else 'ipv4'}:{self}"

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP address, which needs no resolution."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


def endpoints_in(address: str) -> tuple[Endpoint, ...]:
    """Parse ``host:port``, ``dns:///name:port``, or several of them separated by commas. Raises ``ValueError``."""
    parts = [part.strip().removeprefix(_DNS).rpartition(":") for part in address.split(",")]
    if not all(host for host, _, _ in parts):
        raise ValueError(f"invalid address of auth {address!r}: must be host:port, or several separated by commas")
    return tuple(Endpoint(host.removeprefix("[").removesuffix("]"), int(port)) for host, _, port in parts)


class Replica:
    """One replica and the connection to it."""

    def __init__(self, endpoint: Endpoint, channel: grpc.aio.Channel) -> None:
        self.endpoint = endpoint
        self.service: Any = auth_pb2_grpc.AuthServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)
        self.channel = channel
        self.is_connected = False
        self.was_connected = asyncio.Event()
        self.avoided_until_s = 0.0
        self.monitor: asyncio.Task[None] | None = None

    def avoid(self) -> None:
        """Prefer other replicas for ``AVOIDED_S``."""
        self.avoided_until_s = asyncio.get_running_loop().time() + AVOIDED_S

    def rank(self, now_s: float) -> int:
        """Return the replica's rank for the next call; the lowest is best. ``now_s`` is the event loop's time.

        0 is a connected replica, 1 a connected one to avoid, 2 one that is connecting, 3 one that failed to connect.
        """
        state = self.channel.get_state()
        if state is grpc.ChannelConnectivity.READY:
            return int(now_s < self.avoided_until_s)
        return 3 if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE else 2


class Replicas:
    """A pool with one open connection for each replica.

    gRPC can resolve names and balance calls itself, but then a retry may reach the replica that failed the first call.
    """

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        connect: Callable[[str, str], grpc.aio.Channel],
        on_connected: Callable[[Replica], Awaitable[object]],
    ) -> None:
        """Set the endpoints, and two callbacks.

        ``connect`` takes a gRPC target and the name that its certificate must have, and returns a channel.
        ``on_connected`` is called with a replica when it is connected, and every ``CHECK_INTERVAL_S`` from then on.
        """
        self._endpoints = endpoints
        self._connect = connect
        self._on_connected = on_connected
        self._all: dict[tuple[Endpoint, str], Replica] = {}
        self._unresolved: set[Endpoint] = set()
        self._next_index = 0
        self._resolving: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()

    def __iter__(self) -> Iterator[Replica]:
        return iter(tuple(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    async def open(self) -> None:
        """Start to connect, and to resolve names periodically. Wait for the first resolution, at most a second."""
        if all(endpoint.is_address for endpoint in self._endpoints):
            self._update({(endpoint, str(endpoint)) for endpoint in self._endpoints})
            return
        resolved = asyncio.Event()
        self._resolving = asyncio.create_task(self._resolve_periodically(resolved))
        with suppress(TimeoutError):
            async with asyncio.timeout(RESOLVE_RETRY_S):
                await resolved.wait()

    async def close(self) -> None:
        """Disconnect. Calls in flight fail. Idempotent."""
        resolving, self._resolving = self._resolving, None
        if resolving is not None:
            resolving.cancel()
            await asyncio.wait([resolving])
        replicas = list(self._all.values())
        self._all.clear()
        self.connected.clear()
        for replica in replicas:
            await _close(replica)

    def next(self, other_than: Replica | None = None) -> Replica | None:
        """Return the next replica of the best rank, in turn, or None if no replica but ``other_than`` exists."""
        replicas = tuple(self._all.values())
        now_s = asyncio.get_running_loop().time()
        best, best_rank, best_index = None, 4, 0
        for step in range(len(replicas)):
            index = (self._next_index + step) % len(replicas)
            replica = replicas[index]
            if replica is other_than:
                continue
            rank = replica.rank(now_s)
            if rank < best_rank:
                best, best_rank, best_index = replica, rank, index
                if rank == 0:
                    break
        if best is not None:
            self._next_index = best_index + 1
        return best

    async def renew(self) -> bool:
        """Replace each connection by a new one from ``connect``. Calls in flight on the old ones end first.

        Watches move to the new connections after ``RENEWAL_GRACE_S``. Return False, and keep the old connections, if no
        new one is made within ``RENEWAL_TIMEOUT_S``, or none to a replica that is connected.
        """
        former = dict(self._all)
        renewed = {key: self._connect_to(*key) for key in former}
        try:
            if not await self._are_connected(renewed):
                await _close_all(renewed.values())
                return False
        except BaseException:
            await asyncio.shield(_close_all(renewed.values()))
            raise
        still = [key for key in former if self._all.get(key) is former[key]]
        self._all.update({key: renewed[key] for key in still})
        await _close_all(renewed[key] for key in former if key not in still)
        await _close_all((former[key] for key in still), RENEWAL_GRACE_S)
        return True

    async def _are_connected(self, renewed: Mapping[tuple[Endpoint, str], Replica]) -> bool:
        """Wait until a new connection exists to each connected replica, or to any replica if none is connected."""
        ready = grpc.ChannelConnectivity.READY
        needed = [renewed[key] for key in renewed if self._all[key].channel.get_state() is ready]
        with suppress(TimeoutError):
            async with asyncio.timeout(RENEWAL_TIMEOUT_S):
                if not needed:
                    await self.connected.wait()
                for replica in needed:
                    await replica.was_connected.wait()
        connected = [replica for replica in renewed.values() if replica.was_connected.is_set()]
        return bool(connected) and all(replica in connected for replica in needed)

    async def _resolve_periodically(self, resolved: asyncio.Event) -> None:
        while True:
            removed = self._update(await self._resolve())
            resolved.set()
            for replica in removed:
                await _close(replica)
            are_connected = self._all and all(replica.is_connected for replica in self._all.values())
            await asyncio.sleep(RESOLVE_INTERVAL_S if are_connected else RESOLVE_RETRY_S)

    async def _resolve(self) -> set[tuple[Endpoint, str]]:
        """Return the address and the name of each replica. A name that cannot be resolved keeps its last addresses."""
        wanted: set[tuple[Endpoint, str]] = set()
        for endpoint in self._endpoints:
            try:
                wanted.update(await _addresses_of(endpoint))
            except (OSError, UnicodeError):
                if endpoint not in self._unresolved:
                    _LOG.warning("cannot resolve the address of auth: %s", endpoint)
                self._unresolved.add(endpoint)
                wanted.update(known for known in self._all if known[1] == str(endpoint))
            else:
                self._unresolved.discard(endpoint)
        return wanted

    def _update(self, wanted: set[tuple[Endpoint, str]]) -> list[Replica]:
        """Connect to new replicas. Remove and return those that are not wanted any more."""
        for key in wanted - self._all.keys():
            self._all[key] = self._connect_to(*key)
        return [self._all.pop(key) for key in self._all.keys() - wanted]

    def _connect_to(self, endpoint: Endpoint, name: str) -> Replica:
        replica = Replica(endpoint, self._connect(endpoint.target, name))
        replica.monitor = asyncio.create_task(self._keep_connected(replica))
        return replica

    async def _keep_connected(self, replica: Replica) -> None:
        """Reconnect whenever the connection is lost, log changes of its state, and call ``on_connected``.

        Auth closes connections on which no caller has presented the service credential in time, and sooner during an
        attack. Therefore the callback makes one call on each new connection, whether or not a request needs it.

        When auth ends a connection, at its maximum age for example, gRPC reconnects by itself within a millisecond. No
        poll sees that, so the callback is repeated every ``CHECK_INTERVAL_S``.

        This polls the state. gRPC can report changes, but if a caller that waits for one is cancelled, gRPC leaves an
        event behind that later disturbs another event loop.
        """
        loop, check_at_s = asyncio.get_running_loop(), 0.0
        last = None
        while True:
            state = replica.channel.get_state(try_to_connect=True)
            if state is not last:
                last, check_at_s = state, 0.0
                self._record_state(replica, state)
            if replica.is_connected and loop.time() >= check_at_s:
                check_at_s = loop.time() + CHECK_INTERVAL_S
                await self._on_connected(replica)
            await asyncio.sleep(READY_POLL_INTERVAL_S if replica.is_connected else POLL_INTERVAL_S)

    def _record_state(self, replica: Replica, state: grpc.ChannelConnectivity) -> None:
        replica.is_connected = state is grpc.ChannelConnectivity.READY
        if replica.is_connected:
            replica.was_connected.set()
            self.connected.set()
            _LOG.info("connected to auth at %s", replica.endpoint)
        elif not any(other.is_connected for other in self._all.values()):
            self.connected.clear()
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            _LOG.warning("cannot connect to auth at %s", replica.endpoint)


async def _close(replica: Replica, grace_s: float | None = None) -> None:
    if replica.monitor is not None:
        replica.monitor.cancel()
        await asyncio.wait([replica.monitor])
    await replica.channel.close(grace_s)


async def _close_all(replicas: Iterable[Replica], grace_s: float | None = None) -> None:
    await asyncio.gather(*(_close(replica, grace_s) for replica in replicas))


async def _addresses_of(endpoint: Endpoint) -> list[tuple[Endpoint, str]]:
    """Resolve an endpoint. Return each of its addresses with the endpoint as its name.

    Raises ``OSError`` if it cannot be resolved, and ``UnicodeError`` if the host is not a valid name.
    """
    if endpoint.is_address:
        return [(endpoint, str(endpoint))]
    found = await asyncio.get_running_loop().getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    return [(Endpoint(str(address[0]), endpoint.port), str(endpoint)) for *_, address in found]
