"""The cache of one kind. Serves an entry while it is valid, and otherwise fetches it, once for concurrent requests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeAlias, TypeVar

from ibex.domain.errors import AuthUnavailableError, ServiceDegradedError, SourceUnavailableError
from ibex.domain.freshness.kinds import NS, Epoch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.freshness.kinds import Kind
    from ibex.domain.freshness.validity import Validity

K = TypeVar("K")
V = TypeVar("V")

FETCH_TOO_OLD_S: Final = 1.0
"""The result of a longer fetch is not used, because the process may have been paused during the fetch."""
MAX_FETCHES: Final = 4
"""How often one request fetches before it gives up. Only a process that is paused repeatedly needs more than two."""
OUTAGE_NS: Final = 3 * NS
"""How long after a failed fetch stale entries are served without waiting for another fetch."""
_FETCH_TOO_OLD_NS: Final = int(FETCH_TOO_OLD_S * NS)
_OUTAGES: Final = (ServiceDegradedError, AuthUnavailableError)


class CacheObserver(Protocol):
    """Port: counts the hits and misses of a cache. Never raises, never blocks."""

    def hit(self, kind: Kind) -> None:
        """Count a lookup that was served from the cache."""

    def missed(self, kind: Kind) -> None:
        """Count a lookup without an entry."""

    def refetched(self, kind: Kind) -> None:
        """Count an entry that had expired, was invalidated or was not confirmed."""

    def served_stale(self, kind: Kind) -> None:
        """Count an entry that was served although the source was unavailable (stale-if-error)."""


@dataclass(slots=True)
class Fetched(Generic[V]):
    """The result of a fetch: the value, and the organization's epoch as it was read before the value.

    ``as_of_ns`` is the time at which the value was known to be current, if it does not come from the source itself;
    None if it was read from the source after the fetch began.
    """

    value: V
    epoch: Epoch
    as_of_ns: int | None = None


Fetch: TypeAlias = "Callable[[], Awaitable[Fetched[V]]]"


@dataclass(slots=True)
class Entry(Generic[V]):
    """A fetched value of an organization.

    It was current at ``began_ns``, when its fetch began or before; it expires at ``expires_ns``.
    """

    value: V
    epoch: Epoch
    began_ns: int
    expires_ns: int
    org_id: UUID


@dataclass(slots=True)
class Lookup(Generic[K, V]):
    """An entry as one request found it. It must be validated before the request acts on it.

    ``from_cache`` is False if the value was fetched for this request. ``fetch_failed`` is True if a fetch for this
    request met an outage. ``is_stale`` is True if the entry was served in spite of the outage, at ``stale_ns``.
    """

    key: K
    entry: Entry[V]
    fetch: Fetch[V] = field(repr=False)  # it may hold a secret
    from_cache: bool
    is_stale: bool = False
    stale_ns: int = 0
    fetch_failed: bool = False

    @property
    def value(self) -> V:
        """The value. Before validation, use only those parts of it that never change."""
        return self.entry.value


@dataclass(frozen=True, slots=True)
class Policy(Generic[K, V]):
    """The caching policy of one kind.

    ``org_of`` returns the organization of an entry. ``lifetime_s`` returns for how many seconds an entry is served; 0
    or less means that it is not cached. ``stale_if_error_s`` is for how many seconds after its last confirmation an
    entry is served while the source reports that it is unavailable, but no longer than ``outlives_s``, the seconds that
    the value had left to live when it was fetched (None if it does not expire). ``last_known_s`` is for how many
    seconds the last entry is served in any outage, whatever the epoch.
    """

    org_of: Callable[[K, V], UUID]
    lifetime_s: Callable[[V], float]
    stale_if_error_s: float = 0.0
    outlives_s: Callable[[V], float | None] = lambda _: None
    last_known_s: float = 0.0


@dataclass(slots=True)
class _InFlightFetch(Generic[V]):
    began_ns: int
    task: asyncio.Task[Entry[V]]


class FreshCache(Generic[K, V]):
    """A cache of one kind, on a mapping that may drop any entry at any time.

    Entries whose value is None are kept in ``absent``, if given, so that they never evict others.
    """

    def __init__(
        self,
        kind: Kind,
        entries: MutableMapping[K, Entry[V]],
        policy: Policy[K, V],
        validity: Validity,
        clock: Clock,
        observer: CacheObserver,
        absent: MutableMapping[K, Entry[V]] | None = None,
    ) -> None:
        self._kind = kind
        self._entries = entries
        self._absent = absent
        self._policy = policy
        self._validity = validity
        self._clock = clock
        self._observer = observer
        self._in_flight: dict[K, _InFlightFetch[V]] = {}
        self._outage: Exception | None = None
        """The outage that the last fetch met; None if the source answered. Only its type matters."""
        self._outage_ns = 0

    def cached(self, key: K, fetch: Fetch[V]) -> Lookup[K, V] | None:
        """Return the cached entry, valid or not, or None if the key is not cached. Never fetches."""
        entry: Entry[V] | None
        try:
            entry = self._entries[key]  # ``get`` of cachetools would look the key up twice
        except KeyError:
            entry = None if self._absent is None else self._absent.get(key)
        return None if entry is None else Lookup(key, entry, fetch, from_cache=True)

    def valid(self, key: K, epoch: Epoch, now_ns: int, fetch: Fetch[V]) -> Lookup[K, V] | None:
        """Return the cached entry if a request may act on it now, else None. Never fetches."""
        lookup = self.cached(key, fetch)
        if lookup is None or not self.is_valid(lookup, epoch, now_ns):
            return None
        self._observer.hit(self._kind)
        return lookup

    async def look_up(self, key: K, fetch: Fetch[V]) -> Lookup[K, V]:
        """Return the cached entry, or fetch it if the key is not cached. Raises what ``fetch`` raises."""
        lookup = self.cached(key, fetch)
        if lookup is not None:
            return lookup
        self._observer.missed(self._kind)
        entry = await self._fetched(key, fetch, self._clock.monotonic_ns(), None)
        return Lookup(key, entry, fetch, from_cache=False)

    async def validate(self, lookup: Lookup[K, V], epoch: Epoch) -> V:
        """Return the value that is in force now; fetch it if the watch or the epoch do not allow the entry.

        Updates ``lookup``. A request validates the same lookup again later, to make sure that it is still valid. Raises
        what the lookup's ``fetch`` raises.
        """
        now_ns = self._clock.monotonic_ns()
        if self.is_valid(lookup, epoch, now_ns):
            self._observer.hit(self._kind)
            return lookup.entry.value
        self._observer.refetched(self._kind)
        outage = self._outage if now_ns - self._outage_ns <= OUTAGE_NS else None
        if outage is not None and self._is_served_in(outage, lookup, epoch):
            # The source has just failed. A fetch in the background checks whether it is available again.
            if lookup.key not in self._in_flight:
                self._start(lookup.key, lookup.fetch, epoch)
            return lookup.entry.value
        try:
            lookup.entry = await self._fetched(lookup.key, lookup.fetch, now_ns, epoch)
            lookup.from_cache = lookup.is_stale = lookup.fetch_failed = False
        except _OUTAGES as outage:
            if not self._is_served_in(outage, lookup, epoch):
                raise
        return lookup.entry.value

    def _is_served_in(self, outage: Exception, lookup: Lookup[K, V], epoch: Epoch) -> bool:
        """Return whether the entry is served although a fetch met an outage. Updates ``lookup``."""
        lookup.fetch_failed = True
        now_ns = self._clock.monotonic_ns()
        if self.is_valid(lookup, epoch, now_ns):
            return True  # only a reading of its epoch was missing
        if not self._may_serve_stale(lookup, epoch, outage, now_ns):
            return False
        self._observer.served_stale(self._kind)
        lookup.is_stale, lookup.stale_ns = True, now_ns
        return True

    async def get(self, key: K, epoch: Epoch, fetch: Fetch[V]) -> Lookup[K, V]:
        """Look up and validate an entry in one step, if the epoch is already known. Raises what ``fetch`` raises."""
        lookup = self.cached(key, fetch)
        if lookup is not None:
            await self.validate(lookup, epoch)
            return lookup
        self._observer.missed(self._kind)
        entry = await self._fetched(key, fetch, self._clock.monotonic_ns(), epoch)
        return Lookup(key, entry, fetch, from_cache=False)

    def is_valid(self, lookup: Lookup[K, V], epoch: Epoch, now_ns: int) -> bool:
        """Return whether a request may act on the lookup now, by the watch and by a reading of the epoch."""
        entry = lookup.entry
        if lookup.is_stale:
            # The source failed a moment ago. Another fetch would only take time, so the epoch and events decide.
            is_recent = now_ns - lookup.stale_ns <= _FETCH_TOO_OLD_NS
            return is_recent and self._is_unchanged(entry, epoch, now_ns) and not self._is_invalidated(lookup)
        if now_ns >= entry.expires_ns and (lookup.from_cache or now_ns - entry.began_ns > _FETCH_TOO_OLD_NS):
            return False
        if epoch.value is not None and epoch.value != entry.epoch.value:  # otherwise the epoch proves no change
            if epoch.proves_change_since(entry.epoch, entry.began_ns):
                return False
            if not entry.epoch.was_read and lookup.from_cache and not lookup.fetch_failed:
                return False
        return self._validity.may_serve(self._kind, entry.org_id, entry.began_ns, now_ns)

    def _is_invalidated(self, lookup: Lookup[K, V]) -> bool:
        entry = lookup.entry
        return entry.began_ns <= self._validity.invalidated_ns(self._kind, entry.org_id)

    def _may_serve_stale(self, lookup: Lookup[K, V], epoch: Epoch, outage: Exception, now_ns: int) -> bool:
        entry = lookup.entry
        invalidated_ns = self._validity.invalidated_ns(self._kind, entry.org_id)
        is_invalid = entry.began_ns <= invalidated_ns
        age_ns = now_ns - (invalidated_ns if is_invalid else self._validity.confirmed_since(entry.began_ns))
        if age_ns < self._policy.last_known_s * NS:
            return True
        if not isinstance(outage, SourceUnavailableError) or age_ns >= self._policy.stale_if_error_s * NS:
            return False
        own_life_s = self._policy.outlives_s(entry.value)
        if own_life_s is not None and now_ns - entry.began_ns >= own_life_s * NS:
            return False
        if is_invalid:
            return False
        return self._is_unchanged(entry, epoch, now_ns)

    @staticmethod
    def _is_unchanged(entry: Entry[V], epoch: Epoch, now_ns: int) -> bool:
        """Return whether the epoch was read a moment ago, is known, and equals that of the entry."""
        was_read_just_now = now_ns - epoch.asked_ns <= _FETCH_TOO_OLD_NS
        return epoch.value is not None and was_read_just_now and epoch.value == entry.epoch.value

    async def _fetched(self, key: K, fetch: Fetch[V], arrived_ns: int, epoch: Epoch | None) -> Entry[V]:
        """Return an entry for a request that arrived at ``arrived_ns``. Joins a fetch in flight if that is enough.

        A fetch that began before the request arrived may predate a change that the request must see. If such a fetch
        was refused, or its value has been invalidated since, fetch again.
        """
        since_ns = self._clock.monotonic_ns() - _FETCH_TOO_OLD_NS
        for _ in range(MAX_FETCHES):
            fetching = self._in_flight.get(key)
            if fetching is None or fetching.began_ns < since_ns or fetching.task.done():
                fetching = self._start(key, fetch, epoch)
            since_ns = arrived_ns
            try:
                entry = await asyncio.shield(fetching.task)
            except _OUTAGES:
                raise
            except Exception:
                if fetching.began_ns < arrived_ns:
                    continue
                raise
            finally:
                began_ns = fetching.began_ns
                del fetching  # its task may hold an error, whose traceback holds this frame: a cycle (ADR 0033)
            invalidated_ns = self._validity.invalidated_ns(self._kind, entry.org_id)
            is_outdated = began_ns <= invalidated_ns < arrived_ns
            if epoch is not None and began_ns < arrived_ns and epoch.value != entry.epoch.value:
                is_outdated = is_outdated or (epoch.value is not None and entry.epoch.was_read)
            if not is_outdated and self._clock.monotonic_ns() - began_ns <= _FETCH_TOO_OLD_NS:
                return entry
        raise ServiceDegradedError

    def _start(self, key: K, fetch: Fetch[V], epoch: Epoch | None) -> _InFlightFetch[V]:
        began_ns = self._clock.monotonic_ns()
        task = asyncio.get_running_loop().create_task(self._fetch(key, fetch, epoch, began_ns))
        fetching = self._in_flight[key] = _InFlightFetch(began_ns, task)
        task.add_done_callback(lambda done: self._completed(key, done))
        return fetching

    def _completed(self, key: K, task: asyncio.Task[Entry[V]]) -> None:
        fetching = self._in_flight.get(key)
        if fetching is not None and fetching.task is task:
            del self._in_flight[key]
        if not task.cancelled():
            task.exception()  # marks it as retrieved, because every request that waited may have been cancelled

    async def _fetch(self, key: K, fetch: Fetch[V], epoch: Epoch | None, began_ns: int) -> Entry[V]:
        """Fetch an entry and store it, with ``epoch``, which was read before, if the fetch could not read one."""
        try:
            fetched = await fetch()
        except _OUTAGES as outage:
            self._outage = type(outage)()  # a copy without the traceback, which holds this frame: a cycle (ADR 0033)
            self._outage_ns = self._clock.monotonic_ns()
            raise
        except Exception:
            self._outage = None
            if not self._has_newer(key, began_ns):
                self._forget(key)
            raise
        self._outage = None
        lifetime_ns = int(self._policy.lifetime_s(fetched.value) * NS)
        as_of_ns = began_ns if fetched.as_of_ns is None else min(began_ns, fetched.as_of_ns)
        read = fetched.epoch if fetched.epoch.was_read or epoch is None else epoch
        org_id = self._policy.org_of(key, fetched.value)
        entry = Entry(fetched.value, read, as_of_ns, began_ns + lifetime_ns, org_id)
        is_valid = began_ns > self._validity.invalidated_ns(self._kind, org_id)
        if lifetime_ns > 0 and is_valid and not self._has_newer(key, began_ns):
            self._keep(key, entry)
        return entry

    def _has_newer(self, key: K, began_ns: int) -> bool:
        cached = self._entries.get(key)
        if cached is None and self._absent is not None:
            cached = self._absent.get(key)
        return cached is not None and cached.began_ns > began_ns

    def _keep(self, key: K, entry: Entry[V]) -> None:
        if self._absent is None:
            self._entries[key] = entry
            return
        self._forget(key)
        (self._absent if entry.value is None else self._entries)[key] = entry

    def _forget(self, key: K) -> None:
        self._entries.pop(key, None)
        if self._absent is not None:
            self._absent.pop(key, None)
