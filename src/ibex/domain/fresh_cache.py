"""A cache that serves what is proven or recent and fetches everything else, once for all who ask (spec 5).

What may be served is ``freshness``'s to say; this is where its entries are kept, fetched and handed out.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeAlias, TypeVar

from ibex.domain.errors import AuthUnavailableError, ServiceDegradedError, SourceUnavailableError
from ibex.domain.freshness import Entry, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from ibex.domain.clock import Clock
    from ibex.domain.freshness import Kind, News, Stamp

K = TypeVar("K")
V = TypeVar("V")
Fetch: TypeAlias = "Callable[[], Awaitable[V]]"

_NS: Final = 1_000_000_000
_OUTAGES: Final = (ServiceDegradedError, AuthUnavailableError)


class CacheObserver(Protocol):
    """Port: hears what a cache does. Never raises, never blocks."""

    def hit(self, kind: Kind) -> None:
        """An entry was served."""

    def missed(self, kind: Kind) -> None:
        """There was no entry."""

    def refetched(self, kind: Kind) -> None:
        """There was an entry, but it had run out or was not proven any more."""

    def served_stale(self, kind: Kind) -> None:
        """An entry that had run out, or is only the last that was known, was served: the source could not be asked."""


@dataclass(slots=True)
class Recalled(Generic[K, V]):
    """What the cache has, or has just fetched for this very request; to be confirmed before it is acted on.

    ``fetch`` fetches it anew. ``from_cache`` is unset where it was fetched for this very request; who joined a fetch
    that had begun before has what may have been changed since. ``is_stale`` is set where it was served because the
    source was down.
    """

    key: K
    entry: Entry[V]
    fetch: Fetch[V] = field(repr=False)  # it may lead to a secret
    from_cache: bool
    is_stale: bool = False

    @property
    def value(self) -> V:
        """The value, for what of it never changes."""
        return self.entry.value


@dataclass(frozen=True, slots=True)
class Lifetimes(Generic[V]):
    """How long entries of one kind live: ``of`` in seconds, 0 or less for not to be kept.

    ``while_source_is_down_s`` is how long after its fetch a proven entry is served if the source cannot be asked, and
    ``may_outlive`` whether that goes for a value now. ``last_known_s`` is how long after it was last confirmed an entry
    of any age is served if nobody can be asked, proven or not.
    """

    of: Callable[[V], float]
    while_source_is_down_s: float = 0.0
    may_outlive: Callable[[V], bool] = bool
    last_known_s: float = 0.0


class FreshCache(Generic[K, V]):
    """Entries of one kind, in a mapping that may forget any of them at any time.

    Entries whose value is None are kept in ``absent``, if it is given, so that they never evict others.
    """

    def __init__(
        self,
        kind: Kind,
        entries: MutableMapping[K, Entry[V]],
        lifetimes: Lifetimes[V],
        clock: Clock,
        observer: CacheObserver,
        absent: MutableMapping[K, Entry[V]] | None = None,
    ) -> None:
        self._kind = kind
        self._entries = entries
        self._absent = absent
        self._lifetimes = lifetimes
        self._clock = clock
        self._observer = observer
        self._flights: dict[tuple[K, Stamp | None], asyncio.Task[Entry[V]]] = {}

    async def recall(self, key: K, fetch: Fetch[V]) -> Recalled[K, V]:
        """Return the entry, fetched if there is none; raises what ``fetch`` raises."""
        kept = self.kept(key, fetch)
        if kept is not None:
            return kept
        self._observer.missed(self._kind)
        joins = (key, None) in self._flights
        return Recalled(key, await self._fetched(key, None, fetch), fetch, from_cache=joins)

    def kept(self, key: K, fetch: Fetch[V]) -> Recalled[K, V] | None:
        """Return the entry, None if there is none; nothing is fetched."""
        try:
            return Recalled(key, self._entries[key], fetch, from_cache=True)
        except KeyError:
            entry = None if self._absent is None else self._absent.get(key)
            return None if entry is None else Recalled(key, entry, fetch, from_cache=True)

    def is_recent(self, recalled: Recalled[K, V]) -> bool:
        """Return whether the entry is unexpired and was confirmed within the grace period."""
        return judge(recalled.entry, None, self._clock.monotonic_ns()) is Verdict.SERVE

    async def confirm(self, recalled: Recalled[K, V], news: News) -> V:
        """Return the value that holds now, fetched anew where the news do not prove what was recalled.

        ``recalled`` is brought up to date. Raises what its ``fetch`` raises.
        """
        if not recalled.from_cache:
            return recalled.entry.value
        current = news.stamp(self._kind)
        now_ns = self._clock.monotonic_ns()
        match judge(recalled.entry, current, now_ns):
            case Verdict.SERVE:
                entry = recalled.entry
                if current is not None:
                    entry.stamp = current  # an equal one: who brings the very same next is believed sooner
                    entry.confirmed_ns = max(entry.confirmed_ns, news.asked_ns)
                self._observer.hit(self._kind)
                return entry.value
            case Verdict.FETCH:
                try:
                    await self._renew(recalled, current)
                except _OUTAGES:
                    if not self._is_last_word(recalled.entry, now_ns):
                        raise
                    self._observer.served_stale(self._kind)
                    recalled.is_stale = True
            case Verdict.FETCH_IF_POSSIBLE:
                try:
                    await self._renew(recalled, current)
                except _OUTAGES as outage:
                    proven = isinstance(outage, SourceUnavailableError) and self._outlives(recalled.entry, now_ns)
                    if not proven and not self._is_last_word(recalled.entry, now_ns):
                        raise
                    self._observer.served_stale(self._kind)
                    recalled.is_stale = True
        return recalled.entry.value

    async def get(self, key: K, news: News, fetch: Fetch[V]) -> V:
        """Return the value that holds now, where the news are known beforehand; raises what ``fetch`` raises."""
        try:
            entry = self._entries[key]
        except KeyError:
            self._observer.missed(self._kind)
            return (await self._fetched(key, news.stamp(self._kind), fetch)).value
        return await self.confirm(Recalled(key, entry, fetch, from_cache=True), news)

    async def _renew(self, recalled: Recalled[K, V], current: Stamp | None) -> None:
        self._observer.refetched(self._kind)
        recalled.entry = await self._fetched(recalled.key, current, recalled.fetch)
        recalled.from_cache = False

    def _outlives(self, entry: Entry[V], now_ns: int) -> bool:
        in_time = now_ns - entry.fetched_ns < self._lifetimes.while_source_is_down_s * _NS
        return in_time and self._lifetimes.may_outlive(entry.value)

    def _is_last_word(self, entry: Entry[V], now_ns: int) -> bool:
        return now_ns - entry.confirmed_ns < self._lifetimes.last_known_s * _NS

    async def _fetched(self, key: K, stamp: Stamp | None, fetch: Fetch[V]) -> Entry[V]:
        """Fetch, or wait for who is fetching already under the same stamp: under another, it may miss the change."""
        flight = self._flights.get((key, stamp))
        if flight is None:
            flight = asyncio.get_running_loop().create_task(self._fetch(key, stamp, fetch))
            self._flights[key, stamp] = flight
            flight.add_done_callback(lambda done: self._landed(key, stamp, done))
        try:
            return await asyncio.shield(flight)
        finally:
            del flight  # which may have the error, whose traceback has this frame (ADR 0033)

    def _landed(self, key: K, stamp: Stamp | None, flight: asyncio.Task[Entry[V]]) -> None:
        del self._flights[key, stamp]
        if not flight.cancelled():
            flight.exception()  # everybody who waited for it may have gone

    async def _fetch(self, key: K, stamp: Stamp | None, fetch: Fetch[V]) -> Entry[V]:
        fetched_ns = self._clock.monotonic_ns()
        try:
            value = await fetch()
        except _OUTAGES:
            raise
        except Exception:
            self._forget(key)
            raise
        lifetime_ns = int(self._lifetimes.of(value) * _NS)
        entry = Entry(value, stamp, fetched_ns, fetched_ns, fetched_ns + lifetime_ns)
        kept = self._entries.get(key)
        if kept is None and self._absent is not None:
            kept = self._absent.get(key)
        if lifetime_ns > 0 and (kept is None or kept.fetched_ns <= fetched_ns):
            self._keep(key, entry)
        return entry

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
