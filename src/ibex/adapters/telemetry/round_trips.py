"""How Redis does (spec 6, 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import Counter, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.redis")
_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


class RedisTelemetry:
    """Hears of round trips. An outage is two lines, its first failure and its end."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "ibex_proxy_redis_round_trip_seconds", "Round trips that came back.", buckets=_BUCKETS, registry=registry
        )
        self._questions = Counter(
            "ibex_proxy_redis_questions_total",
            "What was asked of Redis: answered; or failed or passed over, and so counted in process.",
            ("outcome",),
            registry=registry,
        )
        self._failing = False

    def answered(self, questions: int, duration_ns: int) -> None:
        """A round trip came back."""
        self._duration.observe(duration_ns / 1e9)
        self._questions.labels("answered").inc(questions)
        if self._failing:
            self._failing = False
            _LOG.info("Redis answers again")

    def failed(self, reason: str, questions: int = 1) -> None:
        """A round trip did not."""
        self._questions.labels("failed").inc(questions)
        if not self._failing:
            self._failing = True
            _LOG.warning("Redis does not answer", reason=reason)

    def passed_over(self) -> None:
        """Redis was not asked."""
        self._questions.labels("passed_over").inc()
