"""Metrics of the watch: what it receives, and how old its last confirmation is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from ibex.adapters.telemetry.exposition import Merge

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.freshness.change_log import Change

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.freshness")
_OLD_NS = 3_000_000_000
"""With an older confirmation, cached entries are no longer served without a fetch."""


class WatchTelemetry:
    """A ``WatchListener``. It logs when the watch is unconfirmed for more than 3 s, and when it is confirmed again."""

    def __init__(self, registry: Registry, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """Set the registry, and the worker's monotonic clock in nanoseconds."""
        self._now_ns = now_ns
        self._confirmed_ns = now_ns()
        self._age = registry.gauges(
            "watch_confirmation_age_seconds",
            "Time since the last ping that was answered; the maximum of all workers.",
            merge=Merge.MAX,
            divisor=1_000_000_000,
        ).of()
        self._events = registry.counters("watch_events_total", "Changes that the watch delivered.", "kind")
        self._resets = registry.counter("watch_resets_total", "Streams that could not resume: every entry was evicted.")
        self._is_old = False
        registry.on_refresh(self._refresh)

    def reset(self) -> None:
        """Count a stream that could not resume."""
        self._resets.add()

    def changed(self, change: Change) -> None:
        """Count a change."""
        self._events.of(change.kind).add()

    def confirmed(self, ping_sent_ns: int) -> None:
        """Set the confirmed time, and log the end of an unconfirmed time."""
        self._confirmed_ns = ping_sent_ns
        if self._is_old:
            self._is_old = False
            _LOG.info("the watch of auth is confirmed again; cached entries are served")

    def _refresh(self) -> None:
        age_ns = self._now_ns() - self._confirmed_ns
        self._age.set(age_ns)
        if age_ns > _OLD_NS and not self._is_old:
            self._is_old = True
            _LOG.warning("the watch of auth is not confirmed; cached entries are refetched every 3 s")
