"""Port: the journal, which keeps finished exchanges on local disk until they are delivered (ADR 0026)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ibex.domain.record.exchange import Exchange


class Sink(StrEnum):
    """A consumer of the journal. Each sink acknowledges exchanges at its own pace."""

    CHECKPOINTS = "checkpoints"
    TRACES = "traces"


class JournalUnavailableError(Exception):
    """The journal cannot be used now: its disk is full or gone. Requests go on; lost exchanges are counted."""


class JournalFullError(JournalUnavailableError):
    """The journal's disk is full or fails. Unlike a wrong path, an operator or time can repair that."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive exchanges for one sink. ``token`` identifies exactly these members, also after a restart."""

    token: str
    last_position: int
    exchanges: Sequence[Exchange]

    def halves(self) -> tuple[Batch, Batch]:
        """Split the batch in two, whose tokens are derived from this one's. It must have at least two members."""
        middle = len(self.exchanges) // 2
        return (
            Batch(f"{self.token}.0", self.last_position, self.exchanges[:middle]),
            Batch(f"{self.token}.1", self.last_position, self.exchanges[middle:]),
        )


class Journal(Protocol):
    """Port: keeps exchanges until every sink has them.

    A full journal drops exchanges that only the traces wait for, oldest first, before it refuses any (ADR 0026).
    """

    def begin(self, exchange: Exchange) -> None:
        """Note an exchange that has just reached the provider, so that a crash of the process does not lose it.

        The note is removed once an exchange with the same id is appended, even if that fails. A note from
        ``unfinished`` is removed only if appending succeeds. Never waits, never raises: a note that cannot be kept is
        dropped.
        """

    def unfinished(self) -> Sequence[Exchange]:
        """Return the exchanges that were begun before the journal was opened and not appended, each of them once."""

    def append(self, exchange: Exchange, done: Callable[[JournalUnavailableError | None], None]) -> None:
        """Begin to store an exchange. Calls ``done`` once the exchange survives a crash of the process.

        Never blocks and never raises. ``done`` gets None, or the error if the exchange cannot be stored, also if the
        journal is not open. It is called exactly once, in the event loop, possibly before ``append`` returns. It must
        not raise. ``append_and_wait`` is the same for a task.
        """

    async def next_batch(self, sink: Sink, limit: int) -> Batch | None:
        """Return the oldest exchanges, up to ``limit``, that the sink has not acknowledged, or None.

        Returns the same batch, with the same members and token, until it is acknowledged, also after a restart and with
        another limit. Raises ``JournalUnavailableError`` if that cannot be guaranteed now.
        """

    async def acknowledge(self, sink: Sink, batch: Batch) -> None:
        """Record that the sink has the batch. Exchanges that every sink has are removed. Idempotent.

        Raises ``JournalUnavailableError`` if that fails; ``next_batch`` then returns the batch again.
        """

    async def dead_letter(self, sink: Sink, exchange: Exchange, reason: str) -> None:
        """Store an exchange that the sink will never accept as a dead letter, for an operator. Never raises."""

    async def wait_for_more(self, sink: Sink, timeout_s: float) -> None:
        """Return once the sink may have exchanges to acknowledge, or after the timeout in seconds."""

    def depth(self, sink: Sink) -> int:
        """Return the number of exchanges that the sink has not acknowledged. Never blocks."""


async def append_and_wait(journal: Journal, exchange: Exchange) -> None:
    """Append an exchange, and return once it survives a crash of the process. Raises ``JournalUnavailableError``.

    A cancellation only ends the wait: the exchange may still be stored.
    """
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: JournalUnavailableError | None) -> None:
        if over.done():  # the waiting task was cancelled
            return
        if error is None:
            over.set_result(None)
        else:
            over.set_exception(error)

    journal.append(exchange, done)
    await over
