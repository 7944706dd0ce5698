"""The detection of a stuck sink: one that has pending exchanges and acknowledges none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.domain.record.journal import Sink

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.adapters.journal.writer import Snapshot

STUCK_AFTER_S: Final = 30.0


class SinkProgress:
    """The time of the last progress of each sink: an acknowledgement, or the moment when nothing was pending."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        """Set a monotonic clock, in seconds."""
        self._now_s = now_s
        self._acknowledged = dict.fromkeys(Sink, 0)
        self._progress_at = dict.fromkeys(Sink, now_s())
        self._has_pending = dict.fromkeys(Sink, False)

    def update(self, snapshot: Snapshot) -> None:
        """Take the state of the journal after a commit."""
        for sink in Sink:
            acknowledged = snapshot.acknowledged[sink]
            if acknowledged != self._acknowledged[sink] or not self._has_pending[sink]:
                self._progress_at[sink] = self._now_s()
            self._acknowledged[sink] = acknowledged
            self._has_pending[sink] = snapshot.last_position > acknowledged

    def stuck(self) -> Sink | None:
        """Return a sink that has made no progress for ``STUCK_AFTER_S`` although exchanges are pending, or None."""
        latest = self._now_s() - STUCK_AFTER_S
        return next((sink for sink in Sink if self._has_pending[sink] and self._progress_at[sink] < latest), None)
