"""What a cache makes of refusals, and of sources that cannot be asked."""

from __future__ import annotations

import asyncio

import pytest

from harness.cache_bench import KEY, LIFE_S, STALE_S, Bench, begun
from ibex.domain.errors import (
    AgentSourceUnavailableError,
    AuthUnavailableError,
    IbexError,
    InvalidTokenError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
)
from ibex.domain.freshness import no_news


async def test_a_refusal_that_nobody_waits_for_is_no_error() -> None:
    """All have left; the loop's handler of lost exceptions hears nothing."""
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    bench = Bench()
    bench.source.waits, bench.source.value = True, InvalidTokenError()
    leaving = asyncio.create_task(bench.get())
    await begun(leaving)
    leaving.cancel()
    await asyncio.wait([leaving])
    bench.source.gates[0].set()
    await begun()

    bench.source.waits, bench.source.value = False, "one"
    assert await bench.get() == "one"
    assert lost == []


async def test_a_refusal_is_everybodys_and_removes_the_entry() -> None:
    """What the source denies is not there any more, for a request without a stamp either."""
    bench = Bench()
    await bench.warm()
    bench.source.value, bench.generation, bench.source.waits = InvalidTokenError(), "another", True
    waiting = [asyncio.create_task(bench.get()) for _ in range(3)]
    await begun(*waiting)
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
