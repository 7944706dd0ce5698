"""Generations, lease and filter in this process: what Redis keeps for many processes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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


@dataclass(slots=True)
class _Filter:
    """For which instance and by what mark it was made, with what content, and the bits that came later."""

    instance: str
    mark: str
    content: bytes
    added: set[int] = field(default_factory=set)

    @property
    def made(self) -> str:
        """What the lease says that vouches for it."""
        return f"{self.instance} {self.mark}"

    def holds(self, token_id: UUID) -> bool:
        return all(bit in self.added or self.content[bit >> 3] & (0x80 >> (bit & 7)) for bit in positions(token_id))


@dataclass(slots=True)
class Kept:
    """What a board holds at one time."""

    generations: dict[UUID, dict[Kind, str]] = field(default_factory=dict)
    lease: str | None = None
    lease_ends_ns: int = 0
    filter: _Filter | None = None
    marks: set[str] = field(default_factory=set)
    tickets: dict[str, tuple[str, int]] = field(default_factory=dict)

    def copy(self) -> Kept:
        """Return what is not changed by what happens to this."""
        return replace(
            self,
            generations={org_id: dict(own) for org_id, own in self.generations.items()},
            filter=self.filter and replace(self.filter, added=set(self.filter.added)),
            marks=set(self.marks),
            tickets=dict(self.tickets),
        )


class InMemoryBoard:
    """A ``Board`` and a ``KnownTokens`` of one process, and the news that a rate limiter of that process brings.

    Tests take it through what can happen to a Redis: ``reachable``, ``cut``, ``flush`` and ``fail_over``.
    """

    def __init__(self, clock: Clock, ids: IdSource) -> None:
        self._clock = clock
        self._ids = ids
        self._kept = Kept()
        self.instance = self._fresh_value()
        self._connections = 1
        self.reachable = True

    def news(self, org_id: UUID) -> News:
        """Return what is known of an organization; a generation that is missing is made."""
        asked_ns = self._clock.monotonic_ns()
        own = self._kept.generations.setdefault(org_id, {})
        for kind in Kind:
            own.setdefault(kind, self._fresh_value())
        vouched_for = self._vouched_for()
        return News(asked_ns, None if vouched_for is None else vouched_for.made, dict(own))

    async def excludes(self, token_id: UUID) -> bool:
        """Tell whether the token is certainly not live; see ``KnownTokens``."""
        vouched_for = self._vouched_for()
        return self.reachable and vouched_for is not None and not vouched_for.holds(token_id)

    async def connection(self) -> Connection:
        """Return the connection; see ``Board``."""
        if not self.reachable:
            raise BoardUnavailableError
        return Connection(self.instance, self._connections)

    async def announce(self, connection: Connection, org_id: UUID, kinds: Iterable[Kind]) -> None:
        """Replace generations; see ``Board``."""
        self._check(connection)
        own = self._kept.generations.setdefault(org_id, {})
        own.update({kind: self._fresh_value() for kind in kinds})

    async def add_tokens(self, connection: Connection, token_ids: Sequence[UUID]) -> bool:
        """Put tokens into the filter; see ``Board``."""
        self._check(connection)
        known = self._filter()
        if known is None:
            return False
        known.added.update(bit for token_id in token_ids for bit in positions(token_id))
        return True

    async def begin_turn(self, connection: Connection) -> str | None:
        """Give out a ticket; see ``Board``."""
        self._check(connection)
        known = self._filter()
        if known is None:
            return None
        now_ns, ticket = self._clock.monotonic_ns(), self._fresh_value()
        self._kept.tickets = {name: one for name, one in self._kept.tickets.items() if now_ns < one[1]}
        self._kept.tickets[ticket] = (known.made, now_ns + _LEASE_NS)
        return ticket

    async def renew(self, connection: Connection, ticket: str) -> bool:
        """Renew the lease; see ``Board``."""
        self._check(connection)
        known = self._filter()
        made, ends_ns = self._kept.tickets.pop(ticket, ("", 0))
        if known is None or known.made != made or self._clock.monotonic_ns() >= ends_ns:
            return False
        self._kept.lease = made
        self._kept.lease_ends_ns = ends_ns
        return True

    async def begin_filter(self, connection: Connection) -> str:
        """Leave a mark; see ``Board``."""
        self._check(connection)
        mark = self._fresh_value()
        self._kept.marks.add(mark)
        return mark

    async def finish_filter(self, connection: Connection, mark: str, content: bytes) -> bool:
        """Make the filter; see ``Board``."""
        self._check(connection)
        if mark not in self._kept.marks or self._filter() is not None:
            return False
        self._kept.marks.discard(mark)
        self._kept.filter = _Filter(self.instance, mark, content)
        return True

    def cut(self) -> None:
        """Lose the connection; the next one is another."""
        self._connections += 1

    def flush(self) -> None:
        """Lose everything, but stay the same instance."""
        self._kept = Kept()

    def kept(self) -> Kept:
        """Return what is held now."""
        return self._kept.copy()

    def fail_over(self, replicated: Kept | None = None, instance: str | None = None) -> None:
        """Become another instance, a new one or one that has been here before.

        It holds what it was sent in time: all, unless said otherwise.
        """
        self._kept = (self._kept if replicated is None else replicated).copy()
        self.instance = instance or self._fresh_value()
        self.cut()

    def _filter(self) -> _Filter | None:
        """Return the filter; None if there is none, or another instance's."""
        known = self._kept.filter
        return known if known is not None and known.instance == self.instance else None

    def _vouched_for(self) -> _Filter | None:
        """Return the filter if a valid lease names it, and so this very instance."""
        known, kept = self._filter(), self._kept
        valid = known is not None and kept.lease == known.made and self._clock.monotonic_ns() < kept.lease_ends_ns
        return known if valid else None

    def _check(self, connection: Connection) -> None:
        if not self.reachable or connection != Connection(self.instance, self._connections):
            raise BoardUnavailableError

    def _fresh_value(self) -> str:
        return str(self._ids.uuid7())
