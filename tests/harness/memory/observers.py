"""An observer that records every notification."""

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
    """A sink accepted a number of exchanges; the duration is in nanoseconds."""

    sink: Sink
    rows: int
    duration_ns: int


@dataclass(frozen=True, slots=True)
class DeliveryFailed:
    """A sink failed to accept a number of exchanges."""

    sink: Sink
    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A sink refused an exchange permanently."""

    sink: Sink
    reason: str


@dataclass(slots=True)
class RecordingObserver:
    """An ``ExchangeObserver`` and ``DeliveryObserver`` that records every notification in these lists, in order."""

    exchanges: list[Settled] = field(default_factory=list)
    aggregates: list[Settled] = field(default_factory=list)
    deliveries: list[Delivered | DeliveryFailed | DeadLettered] = field(default_factory=list)

    def recorded(self, exchange: Exchange, *, journaled: bool) -> None:
        """Record a settled exchange."""
        self.exchanges.append(Settled(exchange, journaled))

    def aggregated(self, exchange: Exchange, *, journaled: bool) -> None:
        """Record an aggregate of refusals."""
        self.aggregates.append(Settled(exchange, journaled))

    def delivered(self, sink: Sink, rows: int, duration_ns: int) -> None:
        """Record a delivery."""
        self.deliveries.append(Delivered(sink, rows, duration_ns))

    def failed(self, sink: Sink, rows: int, reason: str) -> None:
        """Record a failed delivery."""
        self.deliveries.append(DeliveryFailed(sink, rows, reason))

    def dead_lettered(self, sink: Sink, reason: str) -> None:
        """Record a dead letter."""
        self.deliveries.append(DeadLettered(sink, reason))
