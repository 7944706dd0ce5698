"""A worker's cache of directives (ADR 0045)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from ibex.domain.directives.shared import SharedDirective
from ibex.domain.freshness.cache import Fetched, Policy
from ibex.domain.freshness.kinds import NS, Kind

if TYPE_CHECKING:
    from ibex.domain.clock import Clock
    from ibex.domain.directives.model import Directive, DirectiveLookup
    from ibex.domain.directives.shared import SharedDirectives
    from ibex.domain.freshness.cache import FreshCache, Lookup
    from ibex.domain.freshness.kinds import Epoch
    from ibex.domain.freshness.validity import Validity
    from ibex.domain.identity.cache import AgentKey

DirectiveEntry: TypeAlias = "Lookup[AgentKey, Directive | None]"


def directive_policy(lifetime_s: float, *, last_known_s: float = 0.0) -> Policy[AgentKey, Directive | None]:
    """Return the caching policy of directives, and of the absence of one.

    If neither the shared cache nor the source answers, the last known directive stays in force for ``last_known_s``
    seconds after its last confirmation: an old directive is better than none.
    """
    return Policy(org_of=lambda key, _: UUID(int=key[0]), lifetime_s=lambda _: lifetime_s, last_known_s=last_known_s)


class CachedDirectives:
    """A cache of directives by organization and agent, filled from the shared cache or the source."""

    def __init__(
        self,
        source: DirectiveLookup,
        shared: SharedDirectives,
        cache: FreshCache[AgentKey, Directive | None],
        validity: Validity,
        clock: Clock,
        *,
        shared_ttl_s: float,
    ) -> None:
        self._source = source
        self._shared = shared
        self._cache = cache
        self._validity = validity
        self._clock = clock
        self._shared_ttl_ns = int(shared_ttl_s * NS)

    async def look_up(self, org_id: UUID, agent_id: UUID, epoch: Epoch) -> DirectiveEntry:
        """Return the directive in force, validated. Raises what ``DirectiveLookup`` raises."""
        return await self._cache.get((org_id.int, agent_id.int), epoch, partial(self._fetch, org_id, agent_id, epoch))

    def valid(self, org_id: UUID, agent_id: UUID, epoch: Epoch, now_ns: int) -> DirectiveEntry | None:
        """Return the cached directive if a request may act on it now, else None. Does no I/O."""
        fetch = partial(self._fetch, org_id, agent_id, epoch)
        return self._cache.valid((org_id.int, agent_id.int), epoch, now_ns, fetch)

    def is_valid(self, lookup: DirectiveEntry, epoch: Epoch, now_ns: int) -> bool:
        """Return whether a request may act on the lookup now."""
        return self._cache.is_valid(lookup, epoch, now_ns)

    async def validate(self, lookup: DirectiveEntry, epoch: Epoch) -> Directive | None:
        """Return the directive in force now. Raises what ``DirectiveLookup`` raises."""
        org_id, agent_id = (UUID(int=number) for number in lookup.key)
        lookup.fetch = partial(self._fetch, org_id, agent_id, epoch)
        return await self._cache.validate(lookup, epoch)

    async def _fetch(self, org_id: UUID, agent_id: UUID, epoch: Epoch) -> Fetched[Directive | None]:
        if epoch.value is None:
            return Fetched(await self._source.active(org_id, agent_id), epoch)
        if self._validity.may_read_shared(org_id, self._clock.monotonic_ns(), self._shared_ttl_ns):
            # Another worker fetched the shared entry earlier, so it is only as current as this worker's watch.
            confirmed_ns = self._validity.confirmed_ns
            known = await self._shared.get(org_id, agent_id, epoch.value)
            if known is not None:
                return Fetched(known.directive, epoch, as_of_ns=confirmed_ns)
        began_ns = self._clock.monotonic_ns()
        directive = await self._source.active(org_id, agent_id)
        took_ns = self._clock.monotonic_ns() - began_ns
        if took_ns < NS and began_ns > self._validity.invalidated_ns(Kind.DIRECTIVES, org_id):
            await self._shared.put(org_id, agent_id, epoch.value, SharedDirective(directive))
        return Fetched(directive, epoch)
