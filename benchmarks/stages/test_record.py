"""The stages that record a request: exchange, journal, rows, access line and metrics."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.stages.scene import exchange_of_a_request

from harness.exchanges import an_exchange
from harness.journal_entries import FullJournal
from harness.logs import logging_to
from harness.memory.journal import InMemoryJournal
from ibex.adapters.http_server.errors import status_of
from ibex.adapters.journal.encoding import decode, encode
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.system.ids import SystemIds
from ibex.adapters.telemetry.access_log import write_access_line
from ibex.adapters.telemetry.caches import CacheTelemetry
from ibex.adapters.telemetry.metrics import Metrics
from ibex.adapters.telemetry.round_trips import RedisTelemetry
from ibex.domain.freshness.kinds import Kind
from ibex.domain.record.recorder import Recorder
from ibex.domain.record.sessions import checkpoint_of
from ibex.domain.record.traces import trace_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.in_flight import InFlightExchange
    from ibex.domain.record.journal import JournalUnavailableError

pytestmark = pytest.mark.benchmark(group="4 record")


class _Unkept(InMemoryJournal):
    """A journal that discards everything immediately."""

    def begin(self, exchange: Exchange) -> None:
        """Do nothing."""

    def append(self, exchange: Exchange, done: Callable[[JournalUnavailableError | None], None]) -> None:
        """Report success immediately."""
        del exchange
        done(None)


@pytest.fixture
def logging_to_nowhere() -> Iterator[None]:
    """The worker's own logging to the null device: one write per line, and no disk."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, logging_to(nowhere):
        yield


def _recorder() -> Recorder:
    return Recorder(_Unkept(), [], SystemIds(), status_of)


def _in_turns(
    loop: asyncio.AbstractEventLoop, settle: Callable[[InFlightExchange], Coroutine[Any, Any, None]]
) -> Callable[[], None]:
    in_flight = exchange_of_a_request(SystemClock())

    def turn() -> None:
        in_flight.recording = None
        loop.run_until_complete(settle(in_flight))

    return turn


def test_settle_building_the_exchange(benchmark: BenchmarkFixture) -> None:
    """Build the exchange from the in-flight exchange, with its own id."""
    settle, in_flight = _recorder(), exchange_of_a_request(SystemClock())

    def begin() -> None:
        in_flight.journal_id = None
        settle.begin(in_flight)

    benchmark(begin)


def test_nothing_in_a_turn_of_the_loop(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop) -> None:
    """Run an empty turn of the event loop, to subtract from the next figure."""

    async def nothing(_: InFlightExchange) -> None:
        pass

    benchmark(_in_turns(loop, nothing))


def test_settle_in_a_turn_of_the_loop(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop) -> None:
    """Build the exchange, hand it to a journal, and wait until the observers are notified."""
    benchmark.extra_info["less"] = "test_nothing_in_a_turn_of_the_loop"
    benchmark(_in_turns(loop, _recorder().record))


def test_encode_for_the_journal(benchmark: BenchmarkFixture) -> None:
    """Encode the exchange as it is written to the local disk."""
    exchange = an_exchange()

    assert decode(benchmark(encode, exchange)) == exchange


def test_checkpoint_of(benchmark: BenchmarkFixture) -> None:
    """Build the row for PostgreSQL."""
    assert benchmark(checkpoint_of, an_exchange())


def test_trace_of(benchmark: BenchmarkFixture) -> None:
    """Build the row for ClickHouse."""
    assert benchmark(trace_of, an_exchange())


@pytest.mark.usefixtures("logging_to_nowhere")
def test_access_line(benchmark: BenchmarkFixture) -> None:
    """Write one line of JSON."""
    exchange = an_exchange()

    def write() -> None:
        write_access_line("POST", "/v1/chat/completions", 200, 1_234_567, exchange=exchange, caller=exchange.caller)

    benchmark(write)


def test_metrics_of_a_request(benchmark: BenchmarkFixture) -> None:
    """Count everything about one request, including cache hits and the round trip to Redis."""
    metrics, exchange = Metrics(SystemClock(), FullJournal()), an_exchange()
    caches, redis = CacheTelemetry(metrics.registry), RedisTelemetry(metrics.registry)
    kinds = tuple(Kind)

    def count() -> None:
        metrics.request_began()
        for kind in kinds:
            caches.hit(kind)
        redis.answered(1, 345_678)
        metrics.exchange_settled(exchange, journaled=True)
        metrics.request_ended("POST", "/v1/chat/completions", 200, 1_234_567)

    benchmark(count)
