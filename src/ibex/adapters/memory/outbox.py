"""An outbox in a list."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from ibex.domain.announce import Change, OutboxUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from uuid import UUID

    from ibex.domain.freshness import Kind


class InMemoryOutbox:
    """An ``Outbox`` of this process. Tests set ``reachable``."""

    def __init__(self, live_tokens: Callable[[], Sequence[UUID]]) -> None:
        """Take who knows the live tokens."""
        self._live_tokens = live_tokens
        self._changes: dict[int, Change] = {}
        self._ids = count(1)
        self.reachable = True

    def note(self, org_id: UUID, kind: Kind, new_token: UUID | None = None) -> None:
        """Add a change: for who commits it, in the same moment."""
        change = Change(next(self._ids), org_id, kind, new_token)
        self._changes[change.id] = change

    async def pending(self, limit: int) -> Sequence[Change]:
        """Return changes, oldest first; see ``Outbox``."""
        self._check()
        return list(self._changes.values())[:limit]

    async def forget(self, ids: Iterable[int]) -> None:
        """Remove changes; see ``Outbox``."""
        self._check()
        for change_id in ids:
            self._changes.pop(change_id, None)

    async def live_tokens(self) -> Sequence[UUID]:
        """Return the ids of all tokens that are not revoked; see ``Outbox``."""
        self._check()
        return self._live_tokens()

    def _check(self) -> None:
        if not self.reachable:
            raise OutboxUnavailableError
