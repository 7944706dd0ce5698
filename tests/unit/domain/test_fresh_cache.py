"""A cache that serves what is proven or recent and fetches everything else, once."""

from __future__ import annotations

import asyncio

import pytest

from harness.cache_bench import KEY, LIFE_S, Bench, begun


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
    """RecentlyConfirmed or not."""
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
    await begun(*waiting)
    bench.source.gates[0].set()

    assert await asyncio.gather(*waiting) == ["one"] * 100
    assert bench.source.fetches == 1
    assert bench.heard == ["missed"] * 100


async def test_who_joins_a_first_fetch_asks_again_under_its_own_news() -> None:
    """It began before, and may have missed what was announced in between: one more fetch for all who joined."""
    bench = Bench()
    bench.source.waits = True
    first = asyncio.create_task(bench.request())
    await begun(first)
    bench.source.value, bench.generation = "two", "another"
    joined = [asyncio.create_task(bench.request()) for _ in range(99)]
    await begun(first, *joined)
    bench.source.gates[0].set()
    assert await first == "one"
    await begun(*joined)
    bench.source.gates[1].set()

    assert await asyncio.gather(*joined) == ["two"] * 99
    assert bench.source.fetches == 2


async def test_without_a_lease_who_joins_takes_what_comes() -> None:
    """It is a moment old, and so within the grace."""
    bench = Bench()
    bench.source.waits, bench.lease = True, None
    waiting = [asyncio.create_task(bench.request()) for _ in range(100)]
    await begun(*waiting)
    bench.source.gates[0].set()

    assert await asyncio.gather(*waiting) == ["one"] * 100
    assert bench.source.fetches == 1


async def test_who_waits_under_another_stamp_fetches_for_itself() -> None:
    """A fetch that began before the change was read may miss it; the older never takes the place of the younger."""
    bench = Bench()
    bench.source.waits = True
    before = asyncio.create_task(bench.get())
    await begun(before)
    bench.source.value, bench.generation = "two", "another"
    bench.wait(0.001)
    after = asyncio.create_task(bench.get())
    await begun(before, after)
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
    await begun(leaving, staying)
    leaving.cancel()
    await asyncio.wait([leaving])
    bench.source.gates[0].set()

    assert leaving.cancelled()
    assert await staying == "one"
    assert bench.source.fetches == 1
    assert bench.entries[KEY].value == "one"
