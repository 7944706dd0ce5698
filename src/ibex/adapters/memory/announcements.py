"""Announcements that are only remembered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.freshness import Kind


@dataclass(slots=True)
class RecordingAnnouncements:
    """``Announcements`` that nobody hears. All that was announced is in these lists, in order."""

    changes: list[tuple[UUID, Kind]] = field(default_factory=list)
    new_tokens: list[UUID] = field(default_factory=list)

    async def changed(self, org_id: UUID, kind: Kind) -> None:
        """Remember a change."""
        self.changes.append((org_id, kind))

    async def token_created(self, token_id: UUID) -> None:
        """Remember a token."""
        self.new_tokens.append(token_id)
