"""The observer that remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.exchanges import a_refusal, an_exchange
from ibex.adapters.memory.observers import Delivered, DeliveryFailed, RecordingObserver, Settled
from ibex.domain.record.journal import Sink

if TYPE_CHECKING:
    from ibex.domain.record.delivery import DeliveryObserver
    from ibex.domain.record.recorder import ExchangeObserver


def test_settled_exchanges_are_remembered_in_order() -> None:
    """With whether the journal has them."""
    observer = RecordingObserver()
    port: ExchangeObserver = observer

    port.recorded(an_exchange(), journaled=True)
    port.recorded(a_refusal(), journaled=False)

    assert observer.exchanges == [Settled(an_exchange(), journaled=True), Settled(a_refusal(), journaled=False)]


def test_deliveries_and_their_failures_are_remembered_in_order() -> None:
    """Both in one list, as they came."""
    observer = RecordingObserver()
    port: DeliveryObserver = observer

    port.failed(Sink.TRACES, 3, "down")
    port.delivered(Sink.TRACES, 3, 5)

    assert observer.deliveries == [DeliveryFailed(Sink.TRACES, 3, "down"), Delivered(Sink.TRACES, 3, 5)]
