"""The journal: exchanges that are finished and not yet delivered, safe on local disk (spec 11)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibex.domain.exchange import Exchange


class Sink(StrEnum):
    """Who takes exchanges out of the journal, each at its own pace."""

    CHECKPOINTS = "checkpoints"
    TRACES = "traces"


class JournalUnavailableError(Exception):
    """The journal cannot be used now (its disk is full or gone). Requests go on; a lost exchange is counted."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive exchanges for one sink. ``token`` names this very membership, also after a restart."""

    token: str
    last_position: int
    exchanges: Sequence[Exchange]


class Journal(Protocol):
    """Port: keeps exchanges until every sink has them."""

    async def append(self, exchange: Exchange) -> None:
        """Return once the exchange survives the death of the process. Raises ``JournalUnavailableError``."""

    async def next_batch(self, sink: Sink, limit: int) -> Batch | None:
        """Return the oldest at most ``limit`` exchanges that the sink has not acknowledged; None if there are none.

        Until it is acknowledged the same batch comes again with the same members and token, also after a restart and
        whatever the limit is then. Raises ``JournalUnavailableError`` if that cannot be ensured now.
        """

    async def acknowledge(self, sink: Sink, batch: Batch) -> None:
        """Record that the sink has the batch; what every sink has is forgotten. Idempotent.

        Raises ``JournalUnavailableError`` if it cannot be recorded now; the batch then comes again.
        """

    async def wait_for_more(self, sink: Sink, timeout_s: float) -> None:
        """Return when something may have been appended that the sink has not been given, or after the timeout."""

    def depth(self, sink: Sink) -> int:
        """Return how many exchanges the sink has not acknowledged. Never blocks."""
