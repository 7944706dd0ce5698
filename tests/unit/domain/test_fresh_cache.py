"""A cache that serves what is proven or recent and fetches everything else, once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from harness.chat_scene import Caches
from ibex.adapters.memory.clock import ManualClock
from ibex.domain.errors import (
    AgentSourceUnavailableError,
    AuthUnavailableError,
    IbexError,
    InvalidTokenError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
)
from ibex.domain.fresh_cache import FreshCache, Lifetimes, Recalled
from ibex.domain.freshness import Entry, Kind, News, no_news

KEY = "key"
LIFE_S = 30.0
STALE_S = 300.0


@dataclass(slots=True)
class Source:
    """What is fetched from: each answer waits until it is let go, if it is told to wait at all."""

    value: str | Exception | None = "one"
    fetches: int = 0
    gates: list[asyncio.Event] = field(default_factory=list)
    waits: bool = False

    async def __call__(self) -> str | None:
        """Answer with what was true when the fetch began."""
        self.fetches += 1
        answer = self.value
        if self.waits:
            gate = asyncio.Event()
            self.gates.append(gate)
            await gate.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


class Bench:
    """A cache with its entries in sight, a source, and the news."""

    def __init__(self, life_s: float = LIFE_S, *, may_outlive: bool = True) -> None:
        self.clock = ManualClock()
        self.caches = Caches(self.clock)
        self.entries: dict[str, Entry[str | None]] = {}
        self.source = Source()
        self.lease: str | None = "lease"
        self.generation = "generation"
        self.may_outlive = may_outlive
        lifetimes: Lifetimes[str | None] = Lifetimes(lambda _: life_s, STALE_S, lambda _: self.may_outlive)
        self.cache = FreshCache(Kind.TOKENS, self.entries, lifetimes, self.clock, self.caches)

    @property
    def heard(self) -> list[str]:
        """What the observer heard, without the kind."""
        assert all(kind is Kind.TOKENS for _, kind in self.caches.heard)
        return [what for what, _ in self.caches.heard]

    def news(self) -> News:
        """Return the news as they are now."""
        return News(self.clock.monotonic_ns(), self.lease, {Kind.TOKENS: self.generation})

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.advance(timedelta(seconds=seconds))

    async def recall(self) -> Recalled[str, str | None]:
        """Recall the one key."""
        return await self.cache.recall(KEY, self.source)

    async def request(self) -> str | None:
        """Recall and confirm under the news of now, as a request does."""
        recalled = await self.recall()
        return await self.cache.confirm(recalled, self.news())

    async def get(self) -> str | None:
        """Get under the news of now."""
        return await self.cache.get(KEY, self.news(), self.source)

    async def warm(self) -> None:
        """Have an entry that was fetched under the stamp of now."""
        await self.get()
        self.caches.heard.clear()
        self.source.fetches = 0


async def _begun(*waiting: asyncio.Task[str | None]) -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)


async def test_what_is_not_there_is_fetched_and_served_without_being_confirmed() -> None:
    """It was fetched for this very request."""
    bench = Bench()

    recalled = await bench.recall()
    assert (recalled.value, recalled.from_cache) == ("one", False)
    bench.source.value = "two"

    assert await bench.cache.confirm(recalled, bench.news()) == "one"
    assert bench.source.fetches == 1
    assert bench.heard == ["missed"]


async def test_what_was_fetched_before_any_news_is_fetched_once_more() -> None:
    """Nobody read a stamp before the first fetch, so the next request proves nothing by it; the one after that does."""
    bench = Bench()

    for _ in range(3):
        assert await bench.request() == "one"

    assert bench.source.fetches == 2
    assert bench.heard == ["missed", "refetched", "hit"]


async def test_a_proven_entry_costs_no_fetch() -> None:
    """For as long as the stamp stays, up to the entry's life; each time is a confirmation."""
    bench = Bench()
    await bench.warm()

    for _ in range(14):
        bench.wait(2)
        assert await bench.request() == "one"
        assert bench.entries[KEY].confirmed_ns == bench.clock.monotonic_ns()

    assert bench.source.fetches == 0
    assert bench.heard == ["hit"] * 14


async def test_a_confirmation_counts_from_when_the_news_were_asked_for() -> None:
    """Not from when they came; and an older one does not take back a younger."""
    bench = Bench()
    await bench.warm()
    early = bench.news()
    bench.wait(1)
    recalled, late = await bench.recall(), bench.news()
    bench.wait(1)

    await bench.cache.confirm(recalled, late)
    assert bench.entries[KEY].confirmed_ns == late.asked_ns
    await bench.cache.confirm(recalled, early)
    assert bench.entries[KEY].confirmed_ns == late.asked_ns


@pytest.mark.parametrize("changed", ["generation", "lease"])
async def test_another_stamp_is_a_fetch_before_the_request_goes_on(changed: str) -> None:
    """The new value is served, to this request already, and is proven by the new stamp."""
    bench = Bench()
    await bench.warm()
    bench.source.value = "two"
    setattr(bench, changed, "another")

    recalled = await bench.recall()
    assert recalled.value == "one"
    assert await bench.cache.confirm(recalled, bench.news()) == "two"
    assert (recalled.value, recalled.from_cache, recalled.is_stale) == ("two", False, False)

    assert await bench.request() == "two"
    assert bench.source.fetches == 1
    assert bench.heard == ["refetched", "hit"]


@pytest.mark.parametrize(("seconds", "fetches"), [(0.0, 0), (2.0, 0), (2.000001, 1)])
async def test_without_a_lease_a_recent_entry_is_served(seconds: float, fetches: int) -> None:
    """Two seconds from its last confirmation, which serving it without a stamp does not renew."""
    bench = Bench()
    await bench.warm()
    bench.wait(10)
    await bench.request()
    bench.lease = None
    bench.wait(seconds / 2)
    await bench.request()
    bench.wait(seconds / 2)

    assert await bench.request() == "one"
    assert bench.source.fetches == fetches


async def test_without_news_grace_counts_from_the_fetch() -> None:
    """Each fetch is good for two seconds."""
    bench = Bench()
    bench.lease = None
    for _ in range(3):
        await bench.request()
        bench.wait(2)
        await bench.request()
        bench.wait(0.1)

    assert bench.source.fetches == 3


async def test_an_entry_that_has_run_out_is_fetched_anew() -> None:
    """Proven or not."""
    bench = Bench()
    await bench.warm()
    bench.source.value = "two"
    bench.wait(LIFE_S)

    assert await bench.request() == "two"
    assert bench.heard == ["refetched"]


@pytest.mark.parametrize("life_s", [0.0, -1.0])
async def test_what_has_no_life_is_served_and_not_kept(life_s: float) -> None:
    """Each request fetches."""
    bench = Bench(life_s)

    assert await bench.request() == "one"
    assert await bench.request() == "one"
    assert bench.source.fetches == 2
    assert bench.entries == {}


async def test_that_there_is_nothing_is_remembered_too() -> None:
    """None is a value like any other."""
    bench = Bench()
    bench.source.value = None
    await bench.warm()

    assert await bench.get() is None
    assert await bench.request() is None
    assert bench.source.fetches == 0
    assert bench.heard == ["hit", "hit"]


async def test_an_entry_that_its_mapping_forgot_is_fetched() -> None:
    """Between two requests, and also while one is under way."""
    bench = Bench()
    await bench.warm()
    recalled = await bench.recall()
    bench.entries.clear()

    assert await bench.cache.confirm(recalled, bench.news()) == "one"
    assert await bench.get() == "one"
    assert bench.source.fetches == 1


async def test_a_hundred_misses_at_once_are_one_fetch() -> None:
    """Everybody who knows the news waits for whoever began."""
    bench = Bench()
    bench.source.waits = True
    waiting = [asyncio.create_task(bench.get()) for _ in range(100)]
    await _begun(*waiting)
    bench.source.gates[0].set()

    assert await asyncio.gather(*waiting) == ["one"] * 100
    assert bench.source.fetches == 1
    assert bench.heard == ["missed"] * 100


async def test_who_joins_a_first_fetch_asks_again_under_its_own_news() -> None:
    """It began before this request did, and may have missed what was announced in between: one more for all who joined."""
    bench = Bench()
    bench.source.waits = True
    first = asyncio.create_task(bench.request())
    await _begun(first)
    bench.source.value, bench.generation = "two", "another"
    joined = [asyncio.create_task(bench.request()) for _ in range(99)]
    await _begun(first, *joined)
    bench.source.gates[0].set()
    assert await first == "one"
    await _begun(*joined)
    bench.source.gates[1].set()

    assert await asyncio.gather(*joined) == ["two"] * 99
    assert bench.source.fetches == 2


async def test_without_a_lease_who_joins_takes_what_comes() -> None:
    """It is a moment old, and so within the grace."""
    bench = Bench()
    bench.source.waits, bench.lease = True, None
    waiting = [asyncio.create_task(bench.request()) for _ in range(100)]
    await _begun(*waiting)
    bench.source.gates[0].set()

    assert await asyncio.gather(*waiting) == ["one"] * 100
    assert bench.source.fetches == 1


async def test_who_waits_under_another_stamp_fetches_for_itself() -> None:
    """A fetch that began before the change was read may miss it; the older never takes the place of the younger."""
    bench = Bench()
    bench.source.waits = True
    before = asyncio.create_task(bench.get())
    await _begun(before)
    bench.source.value, bench.generation = "two", "another"
    bench.wait(0.001)
    after = asyncio.create_task(bench.get())
    await _begun(before, after)
    first, second = bench.source.gates

    second.set()
    assert await after == "two"
    first.set()
    assert await before == "one"

    assert bench.entries[KEY].value == "two"
    bench.source.waits = False
    assert await bench.request() == "two"
    assert bench.source.fetches == 2


async def test_who_leaves_does_not_take_the_fetch_along() -> None:
    """Whoever began it may be cancelled; the others get what comes, and it is kept."""
    bench = Bench()
    bench.source.waits = True
    leaving, staying = asyncio.create_task(bench.get()), asyncio.create_task(bench.get())
    await _begun(leaving, staying)
    leaving.cancel()
    await asyncio.wait([leaving])
    bench.source.gates[0].set()

    assert leaving.cancelled()
    assert await staying == "one"
    assert bench.source.fetches == 1
    assert bench.entries[KEY].value == "one"


async def test_a_refusal_that_nobody_waits_for_is_no_error() -> None:
    """All have left; the loop's handler of lost exceptions hears nothing."""
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    bench = Bench()
    bench.source.waits, bench.source.value = True, InvalidTokenError()
    leaving = asyncio.create_task(bench.get())
    await _begun(leaving)
    leaving.cancel()
    await asyncio.wait([leaving])
    bench.source.gates[0].set()
    await _begun()

    bench.source.waits, bench.source.value = False, "one"
    assert await bench.get() == "one"
    assert lost == []


async def test_a_refusal_is_everybodys_and_removes_the_entry() -> None:
    """What the source denies is not there any more, for a request without a stamp either."""
    bench = Bench()
    await bench.warm()
    bench.source.value, bench.generation, bench.source.waits = InvalidTokenError(), "another", True
    waiting = [asyncio.create_task(bench.get()) for _ in range(3)]
    await _begun(*waiting)
    bench.source.gates[0].set()

    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [InvalidTokenError] * 3
    assert bench.source.fetches == 1
    assert bench.entries == {}

    bench.lease, bench.source.waits = None, False
    with pytest.raises(InvalidTokenError):
        await bench.request()


@pytest.mark.parametrize(
    "outage",
    [ServiceDegradedError(), AuthUnavailableError(), TokenSourceUnavailableError(), AgentSourceUnavailableError()],
)
async def test_an_outage_is_said_and_keeps_the_entry(outage: IbexError) -> None:
    """When the stamp that it was fetched under is back, it is served again; nobody was told of a refusal."""
    bench = Bench()
    await bench.warm()
    bench.source.value, bench.lease = outage, "another"

    with pytest.raises(type(outage)) as raised:
        await bench.request()
    assert raised.value is outage

    bench.lease = "lease"
    assert await bench.request() == "one"


@pytest.mark.parametrize("down", [TokenSourceUnavailableError(), AgentSourceUnavailableError()])
@pytest.mark.parametrize("seconds", [LIFE_S, STALE_S - 0.000001])
async def test_a_proven_entry_that_has_run_out_is_served_while_the_source_is_down(
    down: IbexError, seconds: float
) -> None:
    """The request knows that it was; and it is fetched as soon as it can be."""
    bench = Bench()
    await bench.warm()
    bench.source.value = down
    bench.wait(seconds)

    recalled = await bench.recall()
    assert await bench.cache.confirm(recalled, bench.news()) == "one"
    assert (recalled.from_cache, recalled.is_stale) == (True, True)
    assert bench.heard == ["refetched", "stale"]

    bench.source.value = "two"
    assert await bench.request() == "two"


async def test_a_stale_entry_is_served_only_up_to_a_bound() -> None:
    """Five minutes from its fetch."""
    bench = Bench()
    await bench.warm()
    bench.source.value = TokenSourceUnavailableError()
    bench.wait(STALE_S)

    with pytest.raises(TokenSourceUnavailableError):
        await bench.request()
    assert bench.heard == ["refetched"]


@pytest.mark.parametrize("lease", [None, "another"])
async def test_what_is_not_proven_is_not_served_stale(lease: str | None) -> None:
    """Without its own stamp an entry that has run out is nothing."""
    bench = Bench()
    await bench.warm()
    bench.source.value, bench.lease = TokenSourceUnavailableError(), lease
    bench.wait(LIFE_S)

    with pytest.raises(TokenSourceUnavailableError):
        await bench.request()


async def test_what_must_not_outlive_is_not_served_stale() -> None:
    """A token's own expiry comes before everything."""
    bench = Bench(may_outlive=False)
    await bench.warm()
    bench.source.value = TokenSourceUnavailableError()
    bench.wait(LIFE_S)

    with pytest.raises(TokenSourceUnavailableError):
        await bench.request()


@pytest.mark.parametrize("failure", [ServiceDegradedError(), AuthUnavailableError(), InvalidTokenError()])
async def test_only_the_source_itself_can_say_that_it_is_down(failure: IbexError) -> None:
    """Who is not reached may have renewed nothing, and who refuses has answered."""
    bench = Bench()
    await bench.warm()
    bench.source.value = failure
    bench.wait(LIFE_S)

    with pytest.raises(type(failure)):
        await bench.request()


async def test_no_news_serve_what_is_recent() -> None:
    """What was never under a lease has the grace too."""
    bench = Bench()
    await bench.recall()

    assert await bench.cache.get(KEY, no_news(bench.clock.monotonic_ns()), bench.source) == "one"
    assert bench.source.fetches == 1
