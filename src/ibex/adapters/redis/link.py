"""A worker's way to Redis, whatever servers there are behind the URL."""

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
    from collections.abc import Awaitable, Callable, Coroutine, Iterable
    from uuid import UUID

    from redis.asyncio.connection import AbstractConnection
    from redis.credentials import CredentialProvider

    from ibex.adapters.redis.connection import Command
    from ibex.domain.clock import Clock

__all__ = ["LinkError", "RedisLink", "RedisObserver", "RedisReply", "Unheard"]


class Unheard:
    """A ``RedisObserver`` that ignores what it hears, for commands that a person waits for."""

    def answered(self, questions: int, duration_ns: int) -> None:
        """Ignore it."""

    def failed(self, reason: str, questions: int = 1) -> None:
        """Ignore it."""

    def passed_over(self) -> None:
        """Ignore it."""


class RedisLink:
    """The link of one event loop. ``ask`` does not raise; None means that Redis did not answer."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        observer: RedisObserver,
        *,
        timeout_s: float = TIMEOUT_S,
        credential_provider: CredentialProvider | None = None,
    ) -> None:
        """Take seconds for a round trip. Raises ``ValueError`` for a URL that Redis is not reached by."""
        self._address = RedisAddress.parse(url, credential_provider)
        self._clock = clock
        self._observer = observer
        self._timeout_s = timeout_s
        self._one: ServerLink | None = None
        self._sentinel: SentinelPrimary | None = None
        if self._address.topology is Topology.SENTINEL:
            self._sentinel = SentinelPrimary(self._address, self._leave_old_primary)
            self._one = self._server(self._sentinel.connection)
        elif self._address.topology is Topology.STANDALONE:
            self._one = self._server_at()
        self._cluster = ClusterLinks(self._address, observer, self._server_at)

    async def open(self) -> None:
        """Connect, if Redis is there: the first request shall not pay for it."""
        await (self._cluster if self._one is None else self._one).open()

    async def close(self) -> None:
        """Disconnect. What is under way, or waits for it, is not answered."""
        await (self._cluster if self._one is None else self._one).close()
        if self._sentinel is not None:
            await self._sentinel.close()

    async def ping(self) -> None:
        """Return if every server answers, each by a connection of its own. Raises ``LinkError``."""
        for link in await self._servers():
            await (await link.fresh_connection()).close()

    async def refused_commands(self) -> list[str]:
        """Return the commands that requests need and the user may not run, and "keys" where those are what it lacks.

        Raises ``LinkError``.
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

    def ask(
        self, tag: UUID | str, key: object, build: Callable[[int], Command]
    ) -> Coroutine[Any, Any, tuple[RedisReply | None, int]]:
        """Send the question with all others of this event loop iteration.

        Returns None as the answer if Redis did not answer in time, or if the link is not asking it now.

        ``tag`` is the hash tag of all keys of the command. Callers with an equal ``key`` ask the same; with the answer
        comes the caller's own place among them, from 1, also where one of them leaves. ``build`` is given their number
        and returns the one command for all of them.
        """
        link = self._one or self._cluster.link_for(tag)
        return self._pass_over() if link is None else link.ask(key, build)

    async def _pass_over(self) -> tuple[RedisReply | None, int]:
        self._observer.passed_over()
        return None, 0

    async def _servers(self) -> Iterable[ServerLink]:
        if self._one is not None:
            return (self._one,)
        if not self._cluster.all_links():
            await self._cluster.open()
        if not self._cluster.all_links():
            raise LinkError(self._cluster.reason)
        return self._cluster.all_links()

    def _leave_old_primary(self) -> None:
        if self._one is not None:
            self._one.leave()

    def _server_at(self, host: str = "", port: int = 0) -> ServerLink:
        async def connection() -> AbstractConnection:
            return self._address.connection(host, port)

        return self._server(connection)

    def _server(self, prepare: Callable[[], Awaitable[AbstractConnection]]) -> ServerLink:
        return ServerLink(prepare, self._clock, self._observer, timeout_s=self._timeout_s)
