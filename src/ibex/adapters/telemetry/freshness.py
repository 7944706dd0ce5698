"""How fresh what is remembered is: caches and the lease (spec 5, 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from prometheus_client import Counter

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from ibex.domain.freshness import Kind

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.freshness")


class CacheTelemetry:
    """A ``CacheObserver``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lookups = Counter(
            "ibex_proxy_cache_lookups_total",
            "What was made of remembered identity: served, missing, fetched anew, served while auth cannot ask.",
            ("kind", "outcome"),
            registry=registry,
        )

    def hit(self, kind: Kind) -> None:
        """Count an entry that was served."""
        self._lookups.labels(kind, "hit").inc()

    def missed(self, kind: Kind) -> None:
        """Count an entry that was not there."""
        self._lookups.labels(kind, "miss").inc()

    def refetched(self, kind: Kind) -> None:
        """Count an entry that was fetched anew."""
        self._lookups.labels(kind, "refetch").inc()

    def served_stale(self, kind: Kind) -> None:
        """Count an entry that was served since the source could not be asked."""
        self._lookups.labels(kind, "stale").inc()


class LeaseTelemetry:
    """A ``LeaseObserver``. A lease that cannot be renewed is two lines: why, and that it can be again."""

    def __init__(self, registry: CollectorRegistry, service: str) -> None:
        """Take the service's name, which stands in the metric's."""
        self._turns = Counter(
            f"ibex_{service}_lease_turns_total",
            "Turns of announcing changes and renewing the lease, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self._failing = ""

    def renewed(self) -> None:
        """Count a renewal."""
        self._turns.labels("renewed").inc()
        if self._failing:
            self._failing = ""
            _LOG.info("lease is renewed again")

    def not_renewed(self, why: str) -> None:
        """Count a turn without one."""
        self._turns.labels(why).inc()
        if why != self._failing:
            self._failing = why
            _LOG.warning("lease is not renewed", reason=why)
