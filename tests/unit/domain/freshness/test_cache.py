"""The cache of one kind: served entries, fetches, and fetches in flight."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from harness.simulated_time import LoopClock, SimulatedLoop, in_simulated_time
from ibex.domain.errors import InvalidTokenError, ServiceDegradedError, TokenSourceUnavailableError
from ibex.domain.freshness.cache import Entry, Fetched, FreshCache, Policy
from ibex.domain.freshness.kinds import Epoch, Kind, unknown_epoch
from ibex.domain.freshness.validity import Validity

ORG = UUID(int=1)
DOWN = TokenSourceUnavailableError()


@dataclass(slots=True)
class Counts:
    """A ``CacheObserver`` that counts."""

    counts: dict[str, int] = field(default_factory=dict)

    def _add(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def hit(self, kind: Kind) -> None:  # noqa: ARG002 - an observer's
        """Count."""
        self._add("hit")

    def missed(self, kind: Kind) -> None:  # noqa: ARG002 - an observer's
        """Count."""
        self._add("missed")

    def refetched(self, kind: Kind) -> None:  # noqa: ARG002 - an observer's
        """Count."""
        self._add("refetched")

    def served_stale(self, kind: Kind) -> None:  # noqa: ARG002 - an observer's
        """Count."""
        self._add("served_stale")


class Scene:
    """A cache, the source that it fetches from, the watch and the epoch."""

    def __init__(self, *, lifetime_s: float = 30.0, stale_s: float = 300.0, own_life_s: float | None = None) -> None:
        self.clock = LoopClock()
        self.validity = Validity()
        self.entries: dict[str, Entry[str]] = {}
        self.observer = Counts()
        policy: Policy[str, str] = Policy(
            org_of=lambda _key, _value: ORG,
            lifetime_s=lambda _: lifetime_s,
            stale_if_error_s=stale_s,
            outlives_s=lambda _: own_life_s,
        )
        self.cache = FreshCache(Kind.TOKENS, self.entries, policy, self.validity, self.clock, self.observer)
        self.value = "old"
        self.source_epoch: str | None = "e1"
        """None where the source cannot read the epoch."""
        self.error: Exception | None = None
        self.fetch_s = 0.0
        self.fetches = 0

    def read(self, value: str | None = "e1") -> Epoch:
        """Return a reading of the epoch, now."""
        return Epoch(value, was_read=True, asked_ns=self.clock.monotonic_ns())

    def nothing_read(self) -> Epoch:
        """Return an epoch that could not be read."""
        return unknown_epoch(self.clock.monotonic_ns())

    async def fetch(self) -> Fetched[str]:
        """Return the value as it was when the fetch began."""
        self.fetches += 1
        value, error = self.value, self.error
        epoch = self.nothing_read() if self.source_epoch is None else self.read(self.source_epoch)
        await asyncio.sleep(self.fetch_s)
        if error is not None:
            raise error
        return Fetched(value, epoch)

    async def serve(self, epoch: Epoch | None = None) -> str:
        """Look up and validate."""
        lookup = await self.cache.look_up("k", self.fetch)
        return await self.cache.validate(lookup, self.read() if epoch is None else epoch)


@in_simulated_time
async def test_a_valid_entry_is_served_without_a_fetch() -> None:
    """An entry is valid while the watch confirms it and its epoch is the one just read."""
    scene = Scene()
    for _ in range(5):
        assert await scene.serve() == "old"
        await asyncio.sleep(0.4)
        scene.validity.confirm(scene.clock.monotonic_ns())
    assert scene.fetches == 1


@in_simulated_time
async def test_a_different_epoch_causes_a_fetch() -> None:
    """The very next request fetches."""
    scene = Scene()
    await scene.serve()
    scene.value, scene.source_epoch = "new", "e2"
    await asyncio.sleep(0.1)
    assert await scene.serve(scene.read("e2")) == "new"
    assert await scene.serve(scene.read("e2")) == "new"
    assert scene.fetches == 2


@in_simulated_time
async def test_an_entry_without_an_epoch_is_fetched_at_the_next_request() -> None:
    """The fetch uses the epoch that the request has read.

    The next request after a change then fetches, even if the source reads no epoch.
    """
    scene = Scene()
    scene.source_epoch = None
    assert await scene.serve() == "old"
    assert await scene.serve(scene.nothing_read()) == "old"
    assert scene.fetches == 1
    for _ in range(3):
        await asyncio.sleep(0.1)
        assert await scene.serve(scene.read("e1")) == "old"
    assert scene.fetches == 2
    assert scene.entries["k"].epoch.value == "e1"
    scene.value = "new"
    assert await scene.serve(scene.read("e2")) == "new"
    assert scene.fetches == 3


@in_simulated_time
async def test_an_entry_without_an_epoch_is_served_while_the_watch_confirms_it_and_the_source_is_down() -> None:
    """It is as current as any entry that is served without Redis, so no request is refused."""
    scene = Scene()
    scene.source_epoch = None
    await scene.serve()
    scene.error = DOWN
    for _ in range(5):
        await asyncio.sleep(0.5)
        lookup = await scene.cache.look_up("k", scene.fetch)
        assert await scene.cache.validate(lookup, scene.read()) == "old"
        assert scene.cache.is_valid(lookup, scene.read(), scene.clock.monotonic_ns())
        assert not lookup.is_stale
    await asyncio.sleep(0.6)
    with pytest.raises(TokenSourceUnavailableError):
        await scene.serve()


@in_simulated_time
async def test_an_unconfirmed_entry_causes_a_fetch() -> None:
    """Without a pong, an entry is served for three seconds after its own fetch."""
    scene = Scene()
    await scene.serve()
    await asyncio.sleep(3.001)
    await scene.serve()
    assert scene.fetches == 2


@in_simulated_time
async def test_an_event_causes_a_fetch() -> None:
    """It does so even if Redis cannot be read."""
    scene = Scene()
    await scene.serve()
    await asyncio.sleep(0.1)
    scene.value = "new"
    scene.validity.invalidate(Kind.TOKENS, ORG, scene.clock.monotonic_ns())
    await asyncio.sleep(0.1)
    assert await scene.serve(scene.nothing_read()) == "new"


@in_simulated_time
async def test_concurrent_misses_share_one_fetch() -> None:
    """The number of requests does not matter."""
    scene = Scene()
    scene.fetch_s = 0.02
    assert await asyncio.gather(*(scene.serve() for _ in range(20))) == ["old"] * 20
    assert scene.fetches == 1


@in_simulated_time
async def test_a_fetch_with_an_event_during_it_is_used_once_and_not_cached() -> None:
    """It may have read the state before the change."""
    scene = Scene()
    scene.fetch_s = 0.02
    request = asyncio.ensure_future(scene.serve(scene.nothing_read()))
    await asyncio.sleep(0.01)
    scene.value = "new"
    scene.validity.invalidate(Kind.TOKENS, ORG, scene.clock.monotonic_ns())
    await asyncio.sleep(0.001)
    later = asyncio.ensure_future(scene.serve(scene.nothing_read()))
    await asyncio.gather(request, later)
    assert later.result() == "new"
    assert scene.entries["k"].value == "new"


@in_simulated_time
async def test_a_joined_refusal_is_fetched_again() -> None:
    """A token that was created during the fetch is not refused."""
    scene = Scene()
    scene.fetch_s, scene.error = 0.02, InvalidTokenError()
    first = asyncio.ensure_future(scene.serve())
    await asyncio.sleep(0.01)
    scene.error = None
    second = asyncio.ensure_future(scene.serve())
    with pytest.raises(InvalidTokenError):
        await first
    assert await second == "old"
    assert scene.fetches == 2


@in_simulated_time
async def test_requests_that_join_a_refused_fetch_share_the_second_fetch() -> None:
    """A flood of one unknown token causes two calls, not thousands."""
    scene = Scene()
    scene.fetch_s, scene.error = 0.02, InvalidTokenError()
    first = asyncio.ensure_future(scene.serve())
    await asyncio.sleep(0.01)
    others = [asyncio.ensure_future(scene.serve()) for _ in range(100)]
    results = await asyncio.gather(first, *others, return_exceptions=True)
    assert all(isinstance(result, InvalidTokenError) for result in results)
    assert scene.fetches == 2


@in_simulated_time
async def test_a_fetch_that_took_a_second_is_not_used() -> None:
    """The process was paused, and the value may have changed during the pause."""
    scene = Scene()

    async def fetch() -> Fetched[str]:
        scene.fetches += 1
        if scene.fetches == 1:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, SimulatedLoop)
            loop.stand_still(2.0)
            return Fetched("old", scene.read())
        return Fetched("new", scene.read())

    lookup = await scene.cache.look_up("k", fetch)
    assert lookup.value == "new"


@in_simulated_time
async def test_a_lookup_that_is_validated_a_minute_later_causes_a_fetch() -> None:
    """A lookup from before a slow body is validated again."""
    scene = Scene()
    lookup = await scene.cache.look_up("k", scene.fetch)
    assert scene.cache.is_valid(lookup, scene.read(), scene.clock.monotonic_ns())
    scene.value = "new"
    await asyncio.sleep(60)
    assert not scene.cache.is_valid(lookup, scene.read(), scene.clock.monotonic_ns())
    assert await scene.cache.validate(lookup, scene.read()) == "new"


@in_simulated_time
async def test_a_value_that_may_not_be_cached_is_used_for_its_own_request() -> None:
    """It is not fetched twice for that request."""
    scene = Scene(lifetime_s=-1.0)
    assert await scene.serve() == "old"
    assert scene.fetches == 1
    assert scene.entries == {}


@in_simulated_time
async def test_a_refusal_removes_the_entry() -> None:
    """The entry cannot be served later."""
    scene = Scene()
    await scene.serve()
    scene.error = InvalidTokenError()
    await asyncio.sleep(4)
    with pytest.raises(InvalidTokenError):
        await scene.serve()
    assert scene.entries == {}


@in_simulated_time
async def test_stale_if_error_serves_an_entry_with_an_unchanged_epoch() -> None:
    """It does so for five minutes, while auth reports that its database is down."""
    scene = Scene()
    await scene.serve()
    scene.error = DOWN
    await asyncio.sleep(299)
    lookup = await scene.cache.look_up("k", scene.fetch)
    assert await scene.cache.validate(lookup, scene.read()) == "old"
    assert lookup.is_stale
    await asyncio.sleep(2)
    with pytest.raises(TokenSourceUnavailableError):
        await scene.serve()
    assert scene.observer.counts["served_stale"] == 1


@pytest.mark.parametrize("why", ["changed", "absent", "unknown", "read long ago", "event", "expired", "silence"])
@in_simulated_time
async def test_stale_if_error_serves_no_other_entry(why: str) -> None:
    """It serves no entry with another or an unknown epoch, and none that is invalid or has expired."""
    scene = Scene(own_life_s=20.0 if why == "expired" else None)
    await scene.serve()
    scene.error = ServiceDegradedError() if why == "silence" else DOWN
    read_early = scene.read()
    await asyncio.sleep(31)
    epoch = {
        "changed": scene.read("e2"),
        "absent": scene.read(None),
        "unknown": scene.nothing_read(),
        "read long ago": read_early,
    }.get(why, scene.read())
    if why == "event":
        scene.validity.invalidate(Kind.TOKENS, ORG, scene.clock.monotonic_ns())
    with pytest.raises(ServiceDegradedError):
        await scene.serve(epoch)
