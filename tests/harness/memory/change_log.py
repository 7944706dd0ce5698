"""A change log in a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.domain.freshness.change_log import Change, ChangeLogUnavailableError, ChangesRead

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.freshness.kinds import Kind


class InMemoryChangeLog:
    """A ``ChangeLog`` of this process. Tests set ``reachable``, and simulate crashes, fail-overs and pruning."""

    def __init__(self) -> None:
        self._changes: list[Change] = []
        self._incarnation = 1
        self._pruned = 0
        self.reachable = True

    def append(self, org_id: UUID, kind: Kind, live_token: UUID | None = None) -> None:
        """Append a change at the time of its commit."""
        self._changes.append(Change(org_id, kind, live_token))

    def begin_incarnation(self) -> None:
        """Simulate a crash or a promotion: earlier positions cannot be resumed."""
        self._incarnation += 1

    def prune(self, keep: int) -> None:
        """Drop all but the newest changes."""
        gone = max(0, len(self._changes) - keep)
        del self._changes[:gone]
        self._pruned += gone

    async def read(self, since: str | None) -> ChangesRead:
        """Return the changes since a position; see ``ChangeLog``."""
        if not self.reachable:
            raise ChangeLogUnavailableError
        position = f"{self._incarnation}:{self._pruned + len(self._changes)}"
        if since is None:
            return ChangesRead(position, None)
        incarnation, number = (int(part) for part in since.split(":"))
        if incarnation != self._incarnation or number < self._pruned:
            return ChangesRead(position, None)
        return ChangesRead(position, self._changes[number - self._pruned :])
