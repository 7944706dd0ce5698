"""An observer that remembers what it heard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.journal import Sink


@dataclass(frozen=True, slots=True)
class Settled:
    """An exchange was settled."""

    exchange: Exchange
    journaled: bool


@dataclass(frozen=True, slots=True)
class Delivered:
    """A sink took so many exchanges; the duration is in nanoseconds."""

    sink: Sink
    rows: int
    duration_ns: int


@dataclass(frozen=True, slots=True)
class DeliveryFailed:
    """A sink could not take so many exchanges."""

    sink: Sink
    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A sink will never take an exchange."""

    sink: Sink
    reason: str


@dataclass(slots=True)
class RecordingObserver:
    """An ``ExchangeObserver`` and ``DeliveryObserver``. Everything it heard is in these lists, in order."""

    exchanges: list[Settled] = field(default_factory=list)
    aggregates: list[Settled] = field(default_factory=list)
    deliveries: list[Delivered | DeliveryFailed | DeadLettered] = field(default_factory=list)

    def recorded(self, exchange: Exchange, *, journaled: bool) -> None:
        """Remember a settled exchange."""
        self.exchanges.append(Settled(exchange, journaled))

    def aggregated(self, exchange: Exchange, *, journaled: bool) -> None:
        """Record an aggregate of refusals."""
        self.aggregates.append(Settled(exchange, journaled))

    def delivered(self, sink: Sink, rows: int, duration_ns: int) -> None:
        """Remember a delivery."""
        self.deliveries.append(Delivered(sink, rows, duration_ns))

    def failed(self, sink: Sink, rows: int, reason: str) -> None:
        """Remember a failed delivery."""
        self.deliveries.append(DeliveryFailed(sink, rows, reason))

    def dead_lettered(self, sink: Sink, reason: str) -> None:
        """Remember what was laid aside."""
        self.deliveries.append(DeadLettered(sink, reason))
