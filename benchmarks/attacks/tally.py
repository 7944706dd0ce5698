"""The attacker's results: responses, closed connections, and how long connections were held."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.attacks.wire import Answer

UNANSWERED = "unanswered"


@dataclass(slots=True)
class Tally:
    """Counts of one attack. Times are seconds."""

    answers: Counter[str] = field(default_factory=Counter)
    opened: int = 0
    not_opened: Counter[str] = field(default_factory=Counter)
    held: int = 0
    peak_held: int = 0
    sent: int = 0
    largest_answer: int = 0
    largest_request: int = 0
    holds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """How long connections were held until the server closed them, by the status of the last answer."""

    def answered(self, answer: Answer) -> None:
        """Count a response."""
        self.answers[str(answer.status)] += 1
        self.largest_answer = max(self.largest_answer, answer.size)

    def open(self) -> None:
        """Count a connection that is held from now on."""
        self.opened += 1
        self.held += 1
        self.peak_held = max(self.peak_held, self.held)

    def closed_by_server(self, last_status: int | str, held_s: float) -> None:
        """Count a connection that the server has closed."""
        self.holds[str(last_status or UNANSWERED)].append(held_s)

    def told(self) -> dict[str, Any]:
        """Return the counts for JSON; of the holds the number, the shortest, the median, the longest."""
        holds = {
            status: {
                "closed": len(held),
                "first_s": round(min(held), 3),
                "median_s": round(statistics.median(held), 3),
                "last_s": round(max(held), 3),
            }
            for status, held in self.holds.items()
        }
        return {
            "answers": dict(self.answers),
            "opened": self.opened,
            "not_opened": dict(self.not_opened),
            "held": self.held,
            "peak_held": self.peak_held,
            "sent": self.sent,
            "largest_answer": self.largest_answer,
            "largest_request": self.largest_request,
            "closed": holds,
        }


def first_close_s(told: dict[str, Any], least_s: float = 0.0) -> float | None:
    """Return how long the first connection was held that the server closed; None if it closed none.

    ``least_s`` leaves out the connections that were closed sooner: those that were refused at once.
    """
    closes = [each["first_s"] for each in told["closed"].values() if each["last_s"] >= least_s]
    return min(closes, default=None)
