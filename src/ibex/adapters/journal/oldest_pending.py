"""The age of pending exchanges, to a tenth of a second, without storing a time for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

MAX_SAMPLES: Final = 1_000
_SAMPLE_INTERVAL_S: Final = 0.1


class OldestPending:
    """Samples of position and time. A position between two samples counts as old as the first of them.

    The interval between samples grows with the queue, so that their number is bounded.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[int, datetime]] = []
        self._interval_s = _SAMPLE_INTERVAL_S

    def add(self, position: int, since: datetime) -> None:
        """Set the time from which the exchange at a position is pending. Positions must ascend."""
        if self._samples and (since - self._samples[-1][1]).total_seconds() < self._interval_s:
            return
        self._samples.append((position, since))
        if len(self._samples) > MAX_SAMPLES:
            del self._samples[1::2]
            covered = self._samples[-1][1] - self._samples[0][1]
            self._interval_s = covered.total_seconds() / len(self._samples)

    def discard_through(self, position: int) -> None:
        """Discard the samples that no position after this one needs."""
        while len(self._samples) > 1 and self._samples[1][0] <= position + 1:
            del self._samples[0]
        if len(self._samples) == 1:
            self._interval_s = _SAMPLE_INTERVAL_S

    def at(self, position: int) -> datetime | None:
        """Return the earliest time from which the exchange at a position can be pending, None without a sample."""
        since = None
        for start, time in self._samples:
            if start > position:
                break
            since = time
        return since
