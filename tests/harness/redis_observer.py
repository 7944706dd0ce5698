"""A Redis observer that records every notification."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class RecordingRedisObserver:
    """A ``RedisObserver``. ``trips`` holds the number of calls of each round trip."""

    trips: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    questions_failed: int = 0
    times_passed_over: int = 0

    def answered(self, questions: int, duration_ns: int) -> None:
        """Record a round trip."""
        assert duration_ns >= 0
        self.trips.append(questions)

    def failed(self, reason: str, questions: int = 1) -> None:
        """Record a failure."""
        self.failures.append(reason)
        self.questions_failed += questions

    def passed_over(self) -> None:
        """Count a skipped call."""
        self.times_passed_over += 1
