"""What is remembered where, and what came of looking there (ADR 0045).

Tiers are ``worker``, a process's own memory, and ``shared``, Redis.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from cachetools import LRUCache

from ibex.domain.errors import InvalidTokenError
from ibex.domain.freshness.kinds import Kind

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.directives.shared import SharedDirective, SharedDirectives
    from ibex.domain.freshness.cache import Fetched
    from ibex.domain.identity.guessed_secrets import Share
    from ibex.domain.identity.model import PersonalAccessToken, Principal, TokenVerifier

_WORKER: Final = "worker"
_SHARED: Final = "shared"
_PASSED: Final[ContextVar[bool]] = ContextVar("ibex_filter_passed", default=False)
"""Whether the filter has passed on the token that the running task looks up."""


class CacheTelemetry:
    """A ``CacheObserver``."""

    def __init__(self, registry: Registry) -> None:
        self._lookups = registry.counters(
            "cache_lookups_total",
            "What came of looking where things are remembered: served, missing, fetched anew, served in an outage.",
            "kind",
            "tier",
            "outcome",
        )
        self._hits = {kind: self._lookups.of(kind, _WORKER, "hit") for kind in Kind}
        self._evictions = registry.counters("cache_evictions_total", "Entries that had to make room.", "kind", "tier")
        self._unverified = registry.counter(
            "cache_entries_unverified_total",
            "Directives in Redis that were not used: somebody without the key wrote them.",
        )
        self._filter = registry.counters(
            "filter_lookups_total",
            "Tokens asked of a complete Bloom filter: absent, or passed to auth; false_positive if auth refuses them.",
            "outcome",
        )
        self._calls_refused = registry.counters(
            "auth_calls_refused_total", "Calls to auth that were refused because their share was in use.", "share"
        )

    def call_refused(self, share: Share) -> None:
        """Count a call to auth that was refused because its share of the calls was in use."""
        self._calls_refused.of(share).add()

    def hit(self, kind: Kind) -> None:
        """Count an entry that was served."""
        self._hits[kind].add()

    def missed(self, kind: Kind) -> None:
        """Count an entry that was not there."""
        self._lookups.of(kind, _WORKER, "miss").add()

    def refetched(self, kind: Kind) -> None:
        """Count an entry that was fetched anew."""
        self._lookups.of(kind, _WORKER, "refetch").add()

    def served_stale(self, kind: Kind) -> None:
        """Count an entry that was served since the source could not be asked."""
        self._lookups.of(kind, _WORKER, "stale").add()

    def shared(self, kind: Kind, *, found: bool) -> None:
        """Count a look at what all workers remember together."""
        self._lookups.of(kind, _SHARED, "hit" if found else "miss").add()

    def evicted(self, kind: Kind) -> None:
        """Count an entry that had to make room for another."""
        self._evictions.of(kind, _WORKER).add()

    def unverified(self) -> None:
        """Count a directive in Redis that does not verify."""
        self._unverified.add()

    def filtered(self, excluded: bool) -> None:  # noqa: FBT001 - one answer, told by who knows only that
        """Count what a complete filter answered, and remember it for what comes of the token."""
        _PASSED.set(not excluded)
        self._filter.of("absent" if excluded else "passed").add()

    def refused(self) -> None:
        """Count a token that the filter passed on, in this task, and that is nobody's."""
        if _PASSED.get():
            self._filter.of("false_positive").add()


class WatchedTokens:
    """A ``TokenVerifier`` that tells of tokens that nobody has."""

    def __init__(self, verifier: TokenVerifier, telemetry: CacheTelemetry) -> None:
        self._verifier = verifier
        self._telemetry = telemetry

    async def verify(self, token: PersonalAccessToken) -> Fetched[Principal]:
        """Verify; see ``TokenVerifier``."""
        try:
            return await self._verifier.verify(token)
        except InvalidTokenError:
            self._telemetry.refused()
            raise


class WatchedSharedDirectives:
    """A ``SharedDirectives`` that tells what is found there."""

    def __init__(self, shared: SharedDirectives, telemetry: CacheTelemetry) -> None:
        self._shared = shared
        self._telemetry = telemetry

    async def get(self, org_id: UUID, agent_id: UUID, epoch: str) -> SharedDirective | None:
        """Look; see ``SharedDirectives``."""
        found = await self._shared.get(org_id, agent_id, epoch)
        self._telemetry.shared(Kind.DIRECTIVES, found=found is not None)
        return found

    async def put(self, org_id: UUID, agent_id: UUID, epoch: str, shared: SharedDirective) -> None:
        """Keep; see ``SharedDirectives``."""
        await self._shared.put(org_id, agent_id, epoch, shared)


class WatchedCache(LRUCache[Any, Any]):
    """A worker's memory of one kind. It forgets what was not looked at for longest, and tells of it."""

    def __init__(self, size: int, kind: Kind, telemetry: CacheTelemetry) -> None:
        """Take how many entries it has room for."""
        super().__init__(size)
        self._kind = kind
        self._telemetry = telemetry

    def popitem(self) -> tuple[Any, Any]:
        """Make room."""
        self._telemetry.evicted(self._kind)
        return super().popitem()
