"""Shared directives in memory, and an adapter that shares none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.directives.shared import SharedDirective


class InMemorySharedDirectives:
    """A ``SharedDirectives`` in a dictionary. It is unbounded, and lost with the process."""

    def __init__(self) -> None:
        self._shared: dict[tuple[UUID, UUID], tuple[str, SharedDirective]] = {}

    async def get(self, org_id: UUID, agent_id: UUID, epoch: str) -> SharedDirective | None:
        """Return the directive that was stored under this epoch, otherwise None."""
        stored = self._shared.get((org_id, agent_id))
        return stored[1] if stored is not None and stored[0] == epoch else None

    async def put(self, org_id: UUID, agent_id: UUID, epoch: str, shared: SharedDirective) -> None:
        """Store a directive under an epoch, and replace the former one."""
        self._shared[org_id, agent_id] = (epoch, shared)


class NoSharedDirectives:
    """A ``SharedDirectives`` that is always empty."""

    async def get(self, org_id: UUID, agent_id: UUID, epoch: str) -> SharedDirective | None:  # noqa: ARG002 - a SharedDirectives'
        """Return None."""
        return None

    async def put(self, org_id: UUID, agent_id: UUID, epoch: str, shared: SharedDirective) -> None:
        """Do nothing."""
