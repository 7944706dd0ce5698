"""No filter at all: for a process that keeps its identity itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID


class NoFilter:
    """A ``KnownTokens`` that excludes no token: every unknown one is looked up."""

    async def excludes(self, token_id: UUID) -> bool:  # noqa: ARG002 - a KnownTokens'
        """Return False; see ``KnownTokens``."""
        return False
