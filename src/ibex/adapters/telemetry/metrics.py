"""Prometheus metrics of the proxy, named ``ibex_proxy_<noun>_<unit>`` (ADR 0028). ``docs/metrics.md`` documents them.

Labels are route templates and enumerations, never an organization, agent, session, token or model. Any client could
create an unlimited number of time series with those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.telemetry.exposition import Merge
from ibex.adapters.telemetry.journal import JournalTelemetry
from ibex.adapters.telemetry.log_lines import count_dropped_lines
from ibex.adapters.telemetry.registry import Registry
from ibex.domain.errors import ErrorCode
from ibex.domain.record.exchange import Stage
from ibex.domain.record.journal import Sink

if TYPE_CHECKING:
    from collections.abc import Collection

    from ibex.adapters.telemetry.instruments import Histogram
    from ibex.adapters.telemetry.journal import MeasuredJournal
    from ibex.domain.clock import Clock
    from ibex.domain.identity.rate_limits import RateLimitDecision
    from ibex.domain.record.exchange import Exchange

# Upper bounds of histogram buckets, in seconds.
_STAGE_S: Final = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0)
_TOTAL_S: Final = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_PROVIDER_S: Final = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_NO_ROUTE: Final = "none"
_PROVIDER_FAULTS: Final = (
    ErrorCode.PROVIDER_UNAVAILABLE,
    ErrorCode.PROVIDER_TIMEOUT,
    ErrorCode.RATE_LIMITED,
    ErrorCode.INVALID_REQUEST,
    ErrorCode.OVERLOADED,
)
_MODES: Final = ("buffered", "stream")


class Metrics:
    """The metrics of a proxy process for requests, the provider, the journal and the sinks.

    Every series that an alert uses is exported from the start, with 0. Prometheus treats the first value of a series
    as its beginning, so a counter that first appears with 1 would not count as increased.
    """

    def __init__(
        self,
        clock: Clock,
        journal: MeasuredJournal,
        registry: Registry | None = None,
        *,
        providers: Collection[str] = (),
        routes: Collection[str] = (),
    ) -> None:
        """Declare the metrics in ``registry``, by default a new one for this process alone.

        ``providers`` are the names of the providers, ``routes`` the route templates of the operations. Their series
        are exported from the start.
        """
        self._clock = clock
        self.registry = registry = registry or Registry("ibex_proxy_")
        self._journal = JournalTelemetry(registry, journal, clock)
        self._requests = registry.histograms(
            "request_duration_seconds", "Duration of requests.", _TOTAL_S, "route", "method", "status"
        )
        self._requests_bound: dict[tuple[str, str, int], Histogram] = {}
        self._in_flight = registry.gauges("requests_under_way", "Requests that have not ended.").of()
        self._overhead = registry.histogram(
            "overhead_seconds", "Duration of proxied requests without the provider's time.", _TOTAL_S
        )
        stages = registry.histograms(
            "stage_duration_seconds", "Duration of the stages before the provider.", _STAGE_S, "stage"
        )
        self._auth, self._rate_limit = stages.of(Stage.AUTHENTICATE), stages.of(Stage.RATE_LIMIT)
        self._directive, self._inject = stages.of(Stage.DIRECTIVE), stages.of(Stage.INJECT)
        decisions = registry.counters("rate_limit_decisions_total", "Rate limit decisions.", "decision")
        self._allowed, self._limited = decisions.of("allowed"), decisions.of("limited")
        self._declare_provider(registry, providers)
        for route in routes:
            self._requests.of(route, "POST", "503")
        self._failures = registry.counter("internal_errors_total", "Unhandled exceptions (bugs).")
        self._declare_sinks(registry)
        count_dropped_lines(registry)

    def _declare_provider(self, registry: Registry, names: Collection[str]) -> None:
        by_provider = ("provider", "mode")
        self._provider = registry.histograms(
            "provider_duration_seconds", "Time to the provider's last byte.", _PROVIDER_S, *by_provider
        )
        self._first_byte = registry.histograms(
            "provider_first_byte_seconds", "Time to the provider's first byte.", _PROVIDER_S, *by_provider
        )
        self._provider_errors = registry.counters(
            "provider_errors_total", "Requests that failed at the provider.", "provider", "code"
        )
        self._provider_retries = registry.counters("provider_retries_total", "Attempts after the first.", "provider")
        self._streams = registry.histograms(
            "stream_duration_seconds", "Time from a stream's first byte to its last.", _PROVIDER_S, "ending"
        )
        self._disconnects = registry.counters(
            "client_disconnects_total", "Clients that disconnected before the end of the response.", "phase"
        )
        for name in names:
            for code in _PROVIDER_FAULTS:
                self._provider_errors.of(name, code)
            for mode in _MODES:
                self._provider.of(name, mode)

    def _declare_sinks(self, registry: Registry) -> None:
        self._journal_losses = registry.counters(
            "journal_losses_total", "Exchanges that could not be journaled.", "sink"
        )
        self._dead_letters = registry.counters(
            "sink_dead_letters_total", "Exchanges that the sink rejected for good.", "sink"
        )
        self._batches = registry.histograms(
            "sink_batch_duration_seconds", "Duration of storing a batch.", _TOTAL_S, "sink"
        )
        self._rows = registry.counters("sink_rows_total", "Exchanges stored.", "sink")
        self._sink_failures = registry.counters("sink_failures_total", "Batches that could not be stored.", "sink")
        self._delivered_at = registry.gauges(
            "sink_last_delivery_timestamp_seconds",
            "Time at which the last batch was stored.",
            "sink",
            merge=Merge.MAX,
            divisor=1_000_000,
        )
        for sink in Sink:
            for counters in (self._journal_losses, self._dead_letters, self._sink_failures, self._rows):
                counters.of(sink)

    def render(self) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' text format, and its content type."""
        return self.registry.render()

    def request_began(self) -> None:
        """Count a request as in flight until ``request_ended``."""
        self._in_flight.add(1)

    def request_ended(self, method: str, route: str, status: int, duration_ns: int) -> None:
        """Count a request, and its duration. ``route`` is a template, "" if none matches."""
        key = (route, method, status)
        bound = self._requests_bound.get(key)
        if bound is None:
            known = method if method in _METHODS else "OTHER"
            bound = self._requests.of(route or _NO_ROUTE, known, str(status))
            if known is method:  # unknown methods are not kept, because a client could send any number of them
                self._requests_bound[key] = bound
        bound.observe(duration_ns)
        self._in_flight.add(-1)

    def request_failed(self) -> None:
        """Count an unhandled exception."""
        self._failures.add()

    def admitted(self, auth_ns: int | None, rate_limit_ns: int | None, decision: RateLimitDecision | None) -> None:
        """Count the stages and the decision of a request without an exchange. A stage that it did not reach is None."""
        if auth_ns is not None:
            self._auth.observe(auth_ns)
        if rate_limit_ns is not None:
            self._rate_limit.observe(rate_limit_ns)
        if decision is not None:
            (self._allowed if decision.allowed else self._limited).add()

    def exchange_settled(self, exchange: Exchange, *, journaled: bool) -> None:
        """Count a recorded exchange: its stages, its provider call, and whether the journal lost it."""
        timings = exchange.timings
        if timings.auth_ns is not None:
            self._auth.observe(timings.auth_ns)
        if timings.rate_limit_ns is not None:
            self._rate_limit.observe(timings.rate_limit_ns)
            limited = exchange.error_code is ErrorCode.RATE_LIMITED and not exchange.reached_provider
            (self._limited if limited else self._allowed).add()
        if timings.directive_ns is not None:
            self._directive.observe(timings.directive_ns)
        if timings.inject_ns is not None:
            self._inject.observe(timings.inject_ns)
        if exchange.caller is not None and not journaled:
            self._journal_losses.of(Sink.TRACES).add()
            if exchange.reached_provider:
                self._journal_losses.of(Sink.CHECKPOINTS).add()
        if exchange.error_code is ErrorCode.CLIENT_CLOSED_REQUEST:
            self._disconnects.of(_phase(exchange)).add()
        if exchange.reached_provider:
            self._overhead.observe(timings.overhead_ns)
            self._provider_ended(exchange)

    def refusals_lost(self, number: int) -> None:
        """Count aggregated refusals that could not be journaled."""
        self._journal_losses.of(Sink.TRACES).add(number)

    def _provider_ended(self, exchange: Exchange) -> None:
        provider, timings = exchange.provider or "", exchange.timings
        mode = "stream" if exchange.is_streaming else "buffered"
        provider_ns = timings.total_ns - timings.overhead_ns
        self._provider.of(provider, mode).observe(provider_ns)
        if timings.provider_ttfb_ns is not None:
            self._first_byte.of(provider, mode).observe(timings.provider_ttfb_ns)
            if exchange.is_streaming:
                self._streams.of(_ending(exchange)).observe(provider_ns - timings.provider_ttfb_ns)
        if exchange.attempts > 1:
            self._provider_retries.of(provider).add(exchange.attempts - 1)
        if exchange.error_code not in (None, ErrorCode.CLIENT_CLOSED_REQUEST, ErrorCode.INTERNAL_ERROR):
            self._provider_errors.of(provider, exchange.error_code).add()

    def delivered(self, sink: Sink, rows: int, duration_ns: int) -> None:
        """Count a batch that a sink stored, and its exchanges."""
        self._batches.of(sink).observe(duration_ns)
        self._rows.of(sink).add(rows)
        self._delivered_at.of(sink).set(int(self._clock.now().timestamp() * 1_000_000))

    def dead_lettered(self, sink: Sink) -> None:
        """Count an exchange that a sink rejected for good."""
        self._dead_letters.of(sink).add()

    def sink_failed(self, sink: Sink) -> None:
        """Count a batch that a sink could not store."""
        self._sink_failures.of(sink).add()


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
