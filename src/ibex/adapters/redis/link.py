"""A worker's Redis client, for a single server, a primary behind Sentinels, or a Cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError

from ibex.adapters.redis.cluster import ClusterLinks
from ibex.adapters.redis.connection import LinkError
from ibex.adapters.redis.keys import PROBES
from ibex.adapters.redis.sentinel import SentinelPrimary
from ibex.adapters.redis.server import TIMEOUT_S, RedisObserver, RedisReply, ServerLink
from ibex.adapters.redis.urls import RedisAddress, Topology

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
    from uuid import UUID

    from redis.asyncio.connection import AbstractConnection
    from redis.credentials import CredentialProvider

    from ibex.adapters.redis.connection import Command
    from ibex.domain.clock import Clock

__all__ = ["LinkError", "NullRedisObserver", "RedisLink", "RedisObserver", "RedisReply"]


class NullRedisObserver:
    """A ``RedisObserver`` that ignores all outcomes, for the command line."""

    def answered(self, questions: int, duration_ns: int) -> None:
        """Do nothing."""

    def failed(self, reason: str, questions: int = 1) -> None:
        """Do nothing."""

    def passed_over(self) -> None:
        """Do nothing."""


class RedisLink:
    """The Redis client of one event loop. ``execute`` does not raise; None means that Redis did not answer."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        observer: RedisObserver,
        *,
        timeout_s: float = TIMEOUT_S,
        credential_provider: CredentialProvider | None = None,
    ) -> None:
        """Set the URL (see ``urls``) and the timeout of a round trip, in seconds. Raises ``ValueError``."""
        self._address = RedisAddress.parse(url, credential_provider)
        self._credential_provider = credential_provider
        self._clock = clock
        self._observer = observer
        self._timeout_s = timeout_s
        self._server: ServerLink | None = None
        self._sentinel: SentinelPrimary | None = None
        if self._address.topology is Topology.SENTINEL:
            self._sentinel = SentinelPrimary(self._address, self._reconnect_to_primary)
            self._server = self._link(self._sentinel.connection)
        elif self._address.topology is Topology.STANDALONE:
            self._server = self._link_to()
        self._cluster = ClusterLinks(self._address, observer, self._link_to)

    async def change_url(self, url: str) -> None:
        """Use another URL, such as one with a new password. The certificates that it names are read again.

        Every connection is replaced by a new one; the round trips in flight on the old ones end first. Raises
        ``ValueError`` for an invalid URL, for one with another topology, and if a server does not accept a new
        connection. The former URL then stays in use.
        """
        address, former = RedisAddress.parse(url, self._credential_provider), self._address
        if address.topology is not former.topology:
            raise ValueError("a running process cannot change between one server, Sentinels and a Cluster")
        await self._use(address)
        links = (self._server,) if self._server is not None else self._cluster.all_links()
        try:
            for link in links:
                await link.renew()
        except LinkError as refused:
            await self._use(former)
            raise ValueError(f"Redis does not accept a new connection: {refused}") from None

    async def _use(self, address: RedisAddress) -> None:
        self._address = self._cluster.address = address
        if self._sentinel is not None:
            await self._sentinel.change_address(address)

    @property
    def certificate_files(self) -> Sequence[str]:
        """The certificates and keys that the URL names."""
        return self._address.certificate_files

    async def open(self) -> None:
        """Connect, so that the first request does not have to. Does not raise if Redis is down."""
        await (self._cluster if self._server is None else self._server).open()

    async def close(self) -> None:
        """Disconnect. Commands in flight and pending commands return None."""
        await (self._cluster if self._server is None else self._server).close()
        if self._sentinel is not None:
            await self._sentinel.close()

    async def ping(self) -> None:
        """Return if every server answers on a new connection. Raises ``LinkError`` if one does not."""
        for link in await self._servers():
            await (await link.fresh_connection()).close()

    async def refused_commands(self) -> list[str]:
        """Return the commands that requests need but the Redis user may not run; "keys" if it may not use the keys.

        Empty if the user has all permissions. Raises ``LinkError``.
        """
        refused: list[str] = []
        for link in await self._servers():
            connection = await link.fresh_connection()
            try:
                replies = await connection.call(PROBES)
            finally:
                await connection.close()
            refused += [
                str(probe[0]) if "key" not in str(reply) else "keys"
                for probe, reply in zip(PROBES, replies, strict=True)
                if isinstance(reply, NoPermissionError)
            ]
        return list(dict.fromkeys(refused))

    def execute(
        self, tag: UUID | str, key: object, build: Callable[[int], Command]
    ) -> Coroutine[Any, Any, tuple[RedisReply | None, int]]:
        """Send a command with all others of this event loop iteration; return its reply and the caller's place.

        The reply is None if Redis did not answer in time. It is also None, at once, while the circuit breaker is open
        and while connecting takes longer than the timeout.

        ``tag`` is the hash tag of all keys of the command. Callers with an equal ``key`` share one command: ``build``
        takes their number and returns it. The place of a caller among them counts from 1, and stays the same if another
        caller is cancelled.
        """
        link = self._server or self._cluster.link_for(tag)
        return self._skip() if link is None else link.execute(key, build)

    async def _skip(self) -> tuple[RedisReply | None, int]:
        self._observer.passed_over()
        return None, 0

    async def _servers(self) -> Iterable[ServerLink]:
        if self._server is not None:
            return (self._server,)
        if not self._cluster.all_links():
            await self._cluster.open()
        if not self._cluster.all_links():
            raise LinkError(self._cluster.reason)
        return self._cluster.all_links()

    def _reconnect_to_primary(self) -> None:
        if self._server is not None:
            self._server.reconnect()

    def _link_to(self, host: str = "", port: int = 0) -> ServerLink:
        async def connection() -> AbstractConnection:
            return self._address.connection(host, port)

        return self._link(connection)

    def _link(self, prepare: Callable[[], Awaitable[AbstractConnection]]) -> ServerLink:
        return ServerLink(prepare, self._clock, self._observer, timeout_s=self._timeout_s)
