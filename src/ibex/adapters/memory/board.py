"""Generations, lease and filter in this process: what Redis keeps for many processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.domain.announce import BoardUnavailableError, Connection
from ibex.domain.freshness import LEASE_S, Kind, News
from ibex.domain.known_tokens import positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource

_LEASE_NS: Final = int(LEASE_S * 1_000_000_000)


class InMemoryBoard:
    """A ``Board`` and a ``KnownTokens`` of one process, and the news that a rate limiter of that process brings.

    Tests take it through what can happen to a Redis: ``reachable``, ``flush`` and ``fail_over``.
    """

    def __init__(self, clock: Clock, ids: IdSource) -> None:
        self._clock = clock
        self._ids = ids
        self._generations: dict[UUID, dict[Kind, str]] = {}
        self._instance = str(ids.uuid7())
        self._connections = 1
        self._lease: str | None = None
        self._lease_ends_ns = 0
        self._filter: bytearray | None = None
        self._marks: set[str] = set()
        self.reachable = True

    def news(self, org_id: UUID) -> News:
        """Return what is known of an organization; a generation that is missing is made."""
        asked_ns = self._clock.monotonic_ns()
        own = self._generations.setdefault(org_id, {})
        for kind in Kind:
            own.setdefault(kind, self._fresh_value())
        lease = self._lease if asked_ns < self._lease_ends_ns and self._lease == self._instance else None
        return News(asked_ns, lease, dict(own))

    async def excludes(self, token_id: UUID) -> bool:
        """Tell whether the token is certainly not live; see ``KnownTokens``."""
        vouched = self._lease == self._instance and self._clock.monotonic_ns() < self._lease_ends_ns
        if not self.reachable or not vouched or self._filter is None:
            return False
        content = self._filter
        return not all(content[bit >> 3] & (0x80 >> (bit & 7)) for bit in positions(token_id))

    async def connection(self) -> Connection:
        """Return the connection; see ``Board``."""
        if not self.reachable:
            raise BoardUnavailableError
        return Connection(self._instance, self._connections)

    async def announce(self, connection: Connection, org_id: UUID, kinds: Iterable[Kind]) -> None:
        """Replace generations; see ``Board``."""
        self._check(connection)
        own = self._generations.setdefault(org_id, {})
        own.update({kind: self._fresh_value() for kind in kinds})

    async def add_tokens(self, connection: Connection, token_ids: Sequence[UUID]) -> bool:
        """Put tokens into the filter; see ``Board``."""
        self._check(connection)
        if self._filter is None:
            return False
        for token_id in token_ids:
            for bit in positions(token_id):
                self._filter[bit >> 3] |= 0x80 >> (bit & 7)
        return True

    async def renew(self, connection: Connection) -> bool:
        """Renew the lease; see ``Board``."""
        self._check(connection)
        if self._filter is None:
            return False
        self._lease = connection.instance
        self._lease_ends_ns = self._clock.monotonic_ns() + _LEASE_NS
        return True

    async def begin_filter(self, connection: Connection) -> str:
        """Leave a mark; see ``Board``."""
        self._check(connection)
        mark = self._fresh_value()
        self._marks.add(mark)
        return mark

    async def finish_filter(self, connection: Connection, mark: str, content: bytes) -> bool:
        """Make the filter; see ``Board``."""
        self._check(connection)
        if mark not in self._marks or self._filter is not None:
            return False
        self._marks.discard(mark)
        self._filter = bytearray(content)
        return True

    def cut(self) -> None:
        """Lose the connection; the next one is another."""
        self._connections += 1

    def flush(self) -> None:
        """Lose everything, but stay the same instance."""
        self._generations.clear()
        self._marks.clear()
        self._lease = self._filter = None

    def fail_over(self) -> None:
        """Become another instance, which has all of the old one's data but its filter."""
        self._instance = self._fresh_value()
        self._filter = None
        self._marks.clear()
        self.cut()

    def _check(self, connection: Connection) -> None:
        if not self.reachable or connection != Connection(self._instance, self._connections):
            raise BoardUnavailableError

    def _fresh_value(self) -> str:
        return str(self._ids.uuid7())
