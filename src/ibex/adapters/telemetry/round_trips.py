"""Metrics of Redis: its round trips, and the requests that it did not count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from ibex.adapters.telemetry.registry import Registry

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.redis")
_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


class RedisTelemetry:
    """A ``RedisObserver``. An outage is two log lines: its first failure and its end."""

    def __init__(self, registry: Registry) -> None:
        self._duration = registry.histogram("redis_round_trip_seconds", "Round trips that came back.", _BUCKETS)
        questions = registry.counters(
            "redis_questions_total",
            "What was asked of Redis: answered, failed, or passed over since Redis had just failed.",
            "outcome",
        )
        self._answered = questions.of("answered")
        self._failed = questions.of("failed")
        self._passed_over = questions.of("passed_over")
        self._failing = False

    def answered(self, questions: int, duration_ns: int) -> None:
        """A round trip came back."""
        self._duration.observe(duration_ns)
        self._answered.add(questions)
        if self._failing:
            self._failing = False
            _LOG.info("Redis answers again")

    def failed(self, reason: str, questions: int = 1) -> None:
        """A round trip did not."""
        self._failed.add(questions)
        if not self._failing:
            self._failing = True
            _LOG.warning("Redis does not answer", reason=reason)

    def passed_over(self) -> None:
        """Redis was not asked."""
        self._passed_over.add()


class RateLimitTelemetry:
    """Counts requests that Redis did not count."""

    def __init__(self, registry: Registry) -> None:
        self._fallbacks = registry.counter(
            "rate_limit_fallbacks_total", "Requests counted in process, since Redis did not count them."
        )

    def counted_in_process(self) -> None:
        """Count one."""
        self._fallbacks.add()
