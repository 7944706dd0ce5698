"""Metrics of Redis: round trips, and requests that were counted in process instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from ibex.adapters.telemetry.registry import Registry

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.redis")
_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


class RedisTelemetry:
    """A ``RedisObserver``. It logs two lines for each outage: the first failure and the recovery."""

    def __init__(self, registry: Registry) -> None:
        self._duration = registry.histogram("redis_round_trip_seconds", "Duration of successful round trips.", _BUCKETS)
        questions = registry.counters(
            "redis_questions_total",
            "Commands for Redis: answered, failed, or passed_over while the circuit breaker was open.",
            "outcome",
        )
        self._answered = questions.of("answered")
        self._failed = questions.of("failed")
        self._passed_over = questions.of("passed_over")
        self._failing = False

    def answered(self, questions: int, duration_ns: int) -> None:
        """Count a successful round trip, and log the end of an outage."""
        self._duration.observe(duration_ns)
        self._answered.add(questions)
        if self._failing:
            self._failing = False
            _LOG.info("Redis available again")

    def failed(self, reason: str, questions: int = 1) -> None:
        """Count a failed round trip, and log the first failure of an outage."""
        self._failed.add(questions)
        if not self._failing:
            self._failing = True
            _LOG.warning("Redis unavailable", reason=reason)

    def passed_over(self) -> None:
        """Count a command that was not sent, because Redis had just failed."""
        self._passed_over.add()


class RateLimitTelemetry:
    """Counts requests that a worker rate limited by itself, because Redis was unavailable."""

    def __init__(self, registry: Registry) -> None:
        self._fallbacks = registry.counter(
            "rate_limit_fallbacks_total", "Requests counted in process because Redis was unavailable."
        )

    def counted_in_process(self) -> None:
        """Count one request."""
        self._fallbacks.add()
