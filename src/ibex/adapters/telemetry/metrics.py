"""Prometheus metrics, ``ibex_proxy_<noun>_<unit>`` (spec 12).

Labels are route templates and enumerations, never an organization, agent, session, token or model: whoever can send a
request could make new time series of those.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from ibex.domain.errors import ErrorCode
from ibex.domain.exchange import Stage
from ibex.domain.journal import Sink

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.domain.clock import Clock
    from ibex.domain.exchange import Exchange
    from ibex.domain.rate_limits import RateLimitDecision

_QUICK: Final = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0)
_REQUEST: Final = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_PROVIDER: Final = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_NO_ROUTE: Final = "none"
_NS: Final = 1e9


class Metrics:
    """All metrics of a proxy process, in a registry of its own."""

    def __init__(self, clock: Clock, journal_depth: Callable[[Sink], int]) -> None:
        """Take what tells how many exchanges a sink has not acknowledged."""
        self._clock = clock
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        by_request = ("route", "method", "status")
        self._requests = self._histogram("request_duration_seconds", "Whole requests.", by_request, _REQUEST)
        self._overhead = self._histogram("overhead_seconds", "Chat requests, less the provider's time.", (), _REQUEST)
        stages = self._histogram("stage_duration_seconds", "Stages of admitting and directing.", ("stage",), _QUICK)
        self._stages: dict[Stage, Histogram] = {
            stage: stages.labels(stage) for stage in Stage if stage is not Stage.PROVIDER
        }
        self._decisions = self._counter("rate_limit_decisions_total", "Requests judged.", "decision")
        self._provider = self._histogram(
            "provider_duration_seconds", "From asking a provider to its last byte.", ("provider", "mode"), _PROVIDER
        )
        self._first_byte = self._histogram(
            "provider_first_byte_seconds", "From asking a provider to its first byte.", ("provider", "mode"), _PROVIDER
        )
        self._provider_errors = self._counter(
            "provider_errors_total", "Requests that failed there.", "provider", "code"
        )
        self._provider_retries = self._counter("provider_retries_total", "Tries after the first.", "provider")
        self._streams = self._counter("streams_total", "Streams that gave at least one byte.", "ending")
        self._disconnects = self._counter("client_disconnects_total", "Clients that left before the end.", "phase")
        self._failures = self._counter("internal_errors_total", "Exceptions that nobody foresaw.")
        self._journal_losses = self._counter("journal_losses_total", "Exchanges that could not be journaled.")
        self._batches = self._histogram("sink_batch_duration_seconds", "Batches taken.", ("sink",), _REQUEST)
        self._rows = self._counter("sink_rows_total", "Exchanges taken.", "sink")
        self._sink_failures = self._counter("sink_failures_total", "Batches that could not be taken.", "sink")
        self._delivered_at = self._gauge("sink_last_delivery_timestamp_seconds", "When a batch was last taken.")
        depth = self._gauge("journal_depth_exchanges", "Exchanges that wait for a sink.")
        for sink in Sink:
            depth.labels(sink).set_function(partial(journal_depth, sink))

    def render(self) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def request_ended(self, method: str, route: str, status: int, duration_ns: int) -> None:
        """Count a request of any route."""
        known = method if method in _METHODS else "OTHER"
        self._requests.labels(route or _NO_ROUTE, known, status).observe(duration_ns / _NS)

    def request_failed(self) -> None:
        """Count something unforeseen."""
        self._failures.inc()

    def stage_ended(self, stage: Stage, duration_ns: int | None) -> None:
        """Count a stage, unless the request did not come so far. The provider has metrics of its own."""
        if duration_ns is not None:
            self._stages[stage].observe(duration_ns / _NS)

    def rate_limit_decided(self, decision: RateLimitDecision) -> None:
        """Count a decision."""
        self._decisions.labels("allowed" if decision.allowed else "limited").inc()

    def exchange_settled(self, exchange: Exchange, *, journaled: bool) -> None:
        """Count what a chat request left behind."""
        timings = exchange.timings
        self.stage_ended(Stage.AUTHENTICATE, timings.auth_ns)
        self.stage_ended(Stage.RATE_LIMIT, timings.rate_limit_ns)
        self.stage_ended(Stage.DIRECTIVE, timings.directive_ns)
        self.stage_ended(Stage.INJECT, timings.inject_ns)
        if timings.rate_limit_ns is not None:
            limited = exchange.error_code is ErrorCode.RATE_LIMITED and not exchange.reached_provider
            self._decisions.labels("limited" if limited else "allowed").inc()
        if exchange.caller is not None and not journaled:
            self._journal_losses.inc()
        if exchange.error_code is ErrorCode.CLIENT_CLOSED_REQUEST:
            self._disconnects.labels(_phase(exchange)).inc()
        if exchange.reached_provider:
            self._overhead.observe(timings.overhead_ns / _NS)
            self._provider_ended(exchange)

    def _provider_ended(self, exchange: Exchange) -> None:
        provider, timings = exchange.provider or "", exchange.timings
        mode = "stream" if exchange.is_streaming else "buffered"
        self._provider.labels(provider, mode).observe((timings.total_ns - timings.overhead_ns) / _NS)
        if timings.provider_ttfb_ns is not None:
            self._first_byte.labels(provider, mode).observe(timings.provider_ttfb_ns / _NS)
            if exchange.is_streaming:
                self._streams.labels(_ending(exchange)).inc()
        if exchange.attempts > 1:
            self._provider_retries.labels(provider).inc(exchange.attempts - 1)
        if exchange.error_code not in (None, ErrorCode.CLIENT_CLOSED_REQUEST, ErrorCode.INTERNAL_ERROR):
            self._provider_errors.labels(provider, exchange.error_code).inc()

    def delivered(self, sink: Sink, rows: int, duration_ns: int) -> None:
        """Count a batch that a sink took."""
        self._batches.labels(sink).observe(duration_ns / _NS)
        self._rows.labels(sink).inc(rows)
        self._delivered_at.labels(sink).set(self._clock.now().timestamp())

    def sink_failed(self, sink: Sink) -> None:
        """Count a batch that a sink could not take."""
        self._sink_failures.labels(sink).inc()

    def _histogram(self, name: str, meaning: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"ibex_proxy_{name}", meaning, labels, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"ibex_proxy_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"ibex_proxy_{name}", meaning, ("sink",), registry=self.registry)


def _phase(exchange: Exchange) -> str:
    if not exchange.reached_provider:
        return "before_provider"
    return "stream" if exchange.is_streaming else "buffered"


def _ending(exchange: Exchange) -> str:
    match exchange.error_code:
        case None:
            return "complete"
        case ErrorCode.CLIENT_CLOSED_REQUEST:
            return "client_closed"
        case _:
            return "failed"
