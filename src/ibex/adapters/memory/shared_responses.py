"""An adapter for installations without a shared cache of received responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.record.received_responses import ReceivedResponse


class NoSharedResponses:
    """A ``SharedResponses`` that is always empty."""

    async def get(self, org_id: UUID, response_id: str) -> ReceivedResponse | None:  # noqa: ARG002 - a SharedResponses'
        """Return None."""
        return None

    async def put(self, response: ReceivedResponse) -> None:
        """Do nothing."""
