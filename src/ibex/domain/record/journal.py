"""The journal: exchanges that are finished and not yet delivered, safe on local disk (ADR 0026)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from ibex.domain.record.exchange import Exchange


class Sink(StrEnum):
    """Who takes exchanges out of the journal, each at its own pace."""

    CHECKPOINTS = "checkpoints"
    TRACES = "traces"


class JournalUnavailableError(Exception):
    """The journal cannot be used now (its disk is full or gone). Requests go on; a lost exchange is counted."""


class JournalFullError(JournalUnavailableError):
    """Its disk has no room, or fails: what a person or time may mend, other than a path that is wrong."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive exchanges for one sink. ``token`` names this very membership, also after a restart."""

    token: str
    last_position: int
    exchanges: Sequence[Exchange]

    def halves(self) -> tuple[Batch, Batch]:
        """Return this batch as two, each with a token that is always the same; it must have two members at least."""
        middle = len(self.exchanges) // 2
        return (
            Batch(f"{self.token}.0", self.last_position, self.exchanges[:middle]),
            Batch(f"{self.token}.1", self.last_position, self.exchanges[middle:]),
        )


class Journal(Protocol):
    """Port: keeps exchanges until every sink has them.

    When it is full, it drops what only the traces wait for, oldest first, before it refuses anything (ADR 0026).
    """

    def begin(self, exchange: Exchange) -> None:
        """Note what is known of an exchange that has just reached the provider, so that it outlives the process.

        The note goes when an exchange of the same id is appended, or is lost then; one that was left open goes only
        when it is appended. Does not wait and raises nothing: a note that cannot be kept is none.
        """

    def left_open(self) -> Sequence[Exchange]:
        """Return what was begun before the journal was opened, and has not been appended; None of it twice."""

    def append(self, exchange: Exchange) -> asyncio.Future[None]:
        """Begin to keep an exchange; the future is done once it survives the death of the process.

        The call does not block and raises nothing. The future may be done already; it fails with
        ``JournalUnavailableError``, also where the journal is not open. To cancel it ends the waiting: the exchange may
        be kept all the same.
        """

    async def next_batch(self, sink: Sink, limit: int) -> Batch | None:
        """Return the oldest at most ``limit`` exchanges that the sink has not acknowledged; None if there are none.

        Until it is acknowledged the same batch comes again with the same members and token, also after a restart and
        whatever the limit is then. Raises ``JournalUnavailableError`` if that cannot be ensured now.
        """

    async def acknowledge(self, sink: Sink, batch: Batch) -> None:
        """Record that the sink has the batch; what every sink has is forgotten. Idempotent.

        Raises ``JournalUnavailableError`` if it cannot be recorded now; the batch then comes again.
        """

    async def dead_letter(self, sink: Sink, exchange: Exchange, reason: str) -> None:
        """Lay an exchange that the sink will never take aside, for a person to look at. Never raises."""

    async def wait_for_more(self, sink: Sink, timeout_s: float) -> None:
        """Return when something may have been appended that the sink has not been given, or after the timeout."""

    def depth(self, sink: Sink) -> int:
        """Return how many exchanges the sink has not acknowledged. Never blocks."""
