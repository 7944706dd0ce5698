"""Shared directives, in a dictionary; and none at all, for a process that is alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.directives.shared import SharedDirective


class InMemorySharedDirectives:
    """A ``SharedDirectives`` of this process; gone with it. Keeps all of them."""

    def __init__(self) -> None:
        self._shared: dict[tuple[UUID, UUID], tuple[str, SharedDirective]] = {}

    async def get(self, org_id: UUID, agent_id: UUID, epoch: str) -> SharedDirective | None:
        """Return what was put under this very epoch, else None."""
        kept = self._shared.get((org_id, agent_id))
        return kept[1] if kept is not None and kept[0] == epoch else None

    async def put(self, org_id: UUID, agent_id: UUID, epoch: str, shared: SharedDirective) -> None:
        """Keep it."""
        self._shared[org_id, agent_id] = (epoch, shared)


class NoSharedDirectives:
    """A ``SharedDirectives`` with nothing in it."""

    async def get(self, org_id: UUID, agent_id: UUID, epoch: str) -> SharedDirective | None:  # noqa: ARG002 - a SharedDirectives'
        """Return None."""
        return None

    async def put(self, org_id: UUID, agent_id: UUID, epoch: str, shared: SharedDirective) -> None:
        """Forget it."""
