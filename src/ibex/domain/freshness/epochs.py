"""The epoch: one value per organization in the shared store, which every change replaces."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ibex.domain.errors import OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from uuid import UUID

    from ibex.domain.freshness.kinds import Epoch

T = TypeVar("T")


class Epochs(Protocol):
    """Port: the epochs of organizations, in the store that counts requests. Neither method raises.

    The store may lose epochs at any time. The watch keeps the bound without them.
    """

    async def read_or_create(self, org_id: UUID) -> Epoch:
        """Return the organization's epoch, creating it if necessary. *Unknown* after 10 ms without an answer."""

    async def replace(self, org_id: UUID) -> bool:
        """Replace the organization's epoch with a value that it never had. Return False if the store is unavailable."""


class Changes:
    """Runs changes, and replaces the organization's epoch before a change reports success."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self._pending: set[asyncio.Task[Any]] = set()

    async def make(self, org_id: UUID, change: Coroutine[Any, Any, T]) -> T:
        """Make a change, and replace the epoch unless the change returns a false value, which means no change.

        Cancelling the caller does not cancel a change that has begun. Raises what the change raises. The epoch is also
        replaced if the outcome of the change is unknown.
        """
        making = asyncio.get_running_loop().create_task(self._make(org_id, change))
        self._pending.add(making)
        making.add_done_callback(self._completed)
        return await asyncio.shield(making)

    async def _make(self, org_id: UUID, change: Coroutine[Any, Any, T]) -> T:
        try:
            made = await change
        except OutcomeUnknownError:
            await self._epochs.replace(org_id)
            raise
        if made:
            await self._epochs.replace(org_id)
        return made

    def _completed(self, making: asyncio.Task[Any]) -> None:
        self._pending.discard(making)
        if not making.cancelled():
            making.exception()  # marks it as retrieved, because the caller may have been cancelled
