"""How the lease does that proves what is remembered (spec 5, 12)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from ibex.adapters.telemetry.exposition import Merge

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.adapters.telemetry.registry import Registry

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.freshness")


class LeaseAge:
    """How long ago the lease was last known to be valid, since the start at most.

    Of several workers the latest to have seen it counts: one without requests does not look.
    """

    def __init__(self, registry: Registry, meaning: str, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """Take a monotonic clock."""
        self._now_ns = now_ns
        self._renewed_ns = now_ns()
        self._age = registry.gauges("lease_age_seconds", meaning, merge=Merge.MIN, divisor=1_000_000_000).of()
        registry.refreshed_by(self._refresh)

    def renewed(self) -> None:
        """Note that it is valid now."""
        self._renewed_ns = self._now_ns()

    def _refresh(self) -> None:
        self._age.set(self._now_ns() - self._renewed_ns)


class LeaseTelemetry:
    """A ``LeaseObserver``. A lease that cannot be renewed is two lines: why, and that it can be again.

    The first turn of all may come before what it proves is there, and so is no warning yet.
    """

    def __init__(self, registry: Registry) -> None:
        self._turns = registry.counters(
            "lease_turns_total", "Turns of announcing changes and renewing the lease, by outcome.", "outcome"
        )
        self._age = LeaseAge(registry, "Since this process last renewed the lease.")
        self._failing = ""
        self._begun = False

    def renewed(self) -> None:
        """Count a renewal."""
        self._begun = True
        self._age.renewed()
        self._turns.of("renewed").add()
        if self._failing:
            self._failing = ""
            _LOG.info("lease is renewed again")

    def not_renewed(self, why: str) -> None:
        """Count a turn without one."""
        self._turns.of(why).add()
        if not self._begun:
            self._begun = True
            _LOG.info("lease is not renewed yet", reason=why)
        elif why != self._failing:
            self._failing = why
            _LOG.warning("lease is not renewed", reason=why)
