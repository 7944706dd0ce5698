"""Metrics of the caches: lookups by outcome, and evictions (ADR 0045).

The tiers are ``worker`` (the memory of one process) and ``shared`` (Redis).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from cachetools import LRUCache

from ibex.domain.errors import InvalidTokenError, RetryableError
from ibex.domain.freshness.kinds import Kind
from ibex.domain.identity.guessed_secrets import Share

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.directives.shared import SharedDirective, SharedDirectives
    from ibex.domain.freshness.cache import Fetched
    from ibex.domain.identity.model import PersonalAccessToken, Principal, TokenVerifier

_WORKER: Final = "worker"
_SHARED: Final = "shared"
_PASSED: Final[ContextVar[bool]] = ContextVar("ibex_filter_passed", default=False)
"""True if the Bloom filter passed the token that the current task verifies."""


class CacheTelemetry:
    """A ``CacheObserver`` that counts lookups, evictions and refused calls."""

    def __init__(self, registry: Registry) -> None:
        self._lookups = registry.counters(
            "cache_lookups_total",
            "Cache lookups: hit, miss, refetch (expired or not confirmed), stale (served while the source was down).",
            "kind",
            "tier",
            "outcome",
        )
        self._hits = {kind: self._lookups.of(kind, _WORKER, "hit") for kind in Kind}
        for kind in Kind:
            for outcome in ("miss", "refetch", "stale"):
                self._lookups.of(kind, _WORKER, outcome)
        self._evictions = registry.counters(
            "cache_evictions_total", "Entries evicted to make room for others.", "kind", "tier"
        )
        self._unverified = registry.counter(
            "cache_entries_unverified_total",
            "Directives in Redis that were ignored because their seal is invalid.",
        )
        self._filter = registry.counters(
            "filter_lookups_total",
            "Bloom filter lookups: absent, or passed to auth; false_positive if auth then refused the token.",
            "outcome",
        )
        self._calls_refused = registry.counters(
            "auth_calls_refused_total", "Calls to auth that were refused because their share was exhausted.", "share"
        )
        for share in Share:
            self._calls_refused.of(share)
        calls_failed = registry.counters(
            "auth_calls_failed_total", "Validations that auth did not answer with a decision.", "kind"
        )
        self._calls_failed = {kind: calls_failed.of(kind) for kind in (Kind.TOKENS, Kind.AGENTS)}

    def call_failed(self, kind: Kind) -> None:
        """Count a validation of a token or an agent that auth did not answer with a decision."""
        self._calls_failed[kind].add()

    def call_refused(self, share: Share) -> None:
        """Count a call to auth that was refused because its share of the calls was exhausted."""
        self._calls_refused.of(share).add()

    def hit(self, kind: Kind) -> None:
        """Count an entry that was served from the cache."""
        self._hits[kind].add()

    def missed(self, kind: Kind) -> None:
        """Count a lookup that found no entry."""
        self._lookups.of(kind, _WORKER, "miss").add()

    def refetched(self, kind: Kind) -> None:
        """Count an entry that was refetched because it had expired or was not confirmed."""
        self._lookups.of(kind, _WORKER, "refetch").add()

    def served_stale(self, kind: Kind) -> None:
        """Count an entry that was served while its source was unavailable (stale-if-error)."""
        self._lookups.of(kind, _WORKER, "stale").add()

    def shared(self, kind: Kind, *, found: bool) -> None:
        """Count a lookup in the cache that all workers share."""
        self._lookups.of(kind, _SHARED, "hit" if found else "miss").add()

    def evicted(self, kind: Kind) -> None:
        """Count an entry that was evicted to make room for another."""
        self._evictions.of(kind, _WORKER).add()

    def unverified(self) -> None:
        """Count a directive in Redis whose seal is invalid."""
        self._unverified.add()

    def filtered(self, is_absent: bool) -> None:  # noqa: FBT001 - the callback has this one argument
        """Count a lookup in a complete Bloom filter, and remember its result for ``refused``."""
        _PASSED.set(not is_absent)
        self._filter.of("absent" if is_absent else "passed").add()

    def refused(self) -> None:
        """Count a false positive: a token that the filter passed in this task and that auth refused."""
        if _PASSED.get():
            self._filter.of("false_positive").add()


class InstrumentedTokenVerifier:
    """A ``TokenVerifier`` that counts invalid tokens and failed calls."""

    def __init__(self, verifier: TokenVerifier, telemetry: CacheTelemetry) -> None:
        self._verifier = verifier
        self._telemetry = telemetry

    async def verify(self, token: PersonalAccessToken) -> Fetched[Principal]:
        """Verify a token; see ``TokenVerifier``."""
        try:
            return await self._verifier.verify(token)
        except InvalidTokenError:
            self._telemetry.refused()
            raise
        except RetryableError:
            self._telemetry.call_failed(Kind.TOKENS)
            raise


class InstrumentedSharedDirectives:
    """A ``SharedDirectives`` that counts hits and misses."""

    def __init__(self, shared: SharedDirectives, telemetry: CacheTelemetry) -> None:
        self._shared = shared
        self._telemetry = telemetry

    async def get(self, org_id: UUID, agent_id: UUID, epoch: str) -> SharedDirective | None:
        """Look up a directive; see ``SharedDirectives``."""
        found = await self._shared.get(org_id, agent_id, epoch)
        self._telemetry.shared(Kind.DIRECTIVES, found=found is not None)
        return found

    async def put(self, org_id: UUID, agent_id: UUID, epoch: str, shared: SharedDirective) -> None:
        """Store a directive; see ``SharedDirectives``."""
        await self._shared.put(org_id, agent_id, epoch, shared)


class InstrumentedCache(LRUCache[Any, Any]):
    """A worker's LRU cache of one kind, which counts evictions."""

    def __init__(self, size: int, kind: Kind, telemetry: CacheTelemetry) -> None:
        """Set the maximum number of entries, and their kind."""
        super().__init__(size)
        self._kind = kind
        self._telemetry = telemetry

    def popitem(self) -> tuple[Any, Any]:
        """Count and remove the least recently used entry."""
        self._telemetry.evicted(self._kind)
        return super().popitem()
