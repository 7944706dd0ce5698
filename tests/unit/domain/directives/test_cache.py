"""The directive cache of a worker: its own entries, the shared cache, and the source."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from harness.chat_scene import AGENT, DIRECTIVE, DIRECTIVE_TTL_S, ORG, OTHER_AGENT, Caches, ScriptedDirectives
from harness.memory.clock import ManualClock
from harness.simulated_time import in_simulated_time
from ibex.domain.errors import ServiceDegradedError
from ibex.domain.freshness.kinds import Epoch, Kind, unknown_epoch

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.directives.model import Directive


def read(value: str | None, at_ns: int) -> Epoch:
    """Return a reading of the epoch."""
    return Epoch(value, was_read=True, asked_ns=at_ns)


class Worker:
    """The directives of one worker; ``ask`` looks one up by a reading of the epoch and validates it."""

    def __init__(self, source: ScriptedDirectives, shared: Worker | None = None) -> None:
        self.clock = ManualClock()
        self.caches = Caches(self.clock)
        if shared is not None:
            self.caches.shared_directives = shared.caches.shared_directives
        self.directives = self.caches.directives(source)
        self.wait(DIRECTIVE_TTL_S + 1)  # so long after the first position the shared cache is read
        self.caches.confirm()

    def wait(self, seconds: float) -> None:
        """Advance the clock."""
        self.clock.advance(timedelta(seconds=seconds))

    async def ask(self, epoch: str | None = "e", *, agent_id: UUID = AGENT, is_known: bool = True) -> Directive | None:
        """Return the directive in force."""
        now_ns = self.clock.monotonic_ns()
        read_now = read(epoch, now_ns) if is_known else unknown_epoch(now_ns)
        return (await self.directives.look_up(ORG, agent_id, read_now)).value


async def test_directives_and_their_absence_are_cached() -> None:
    """Entries are stored by organization and agent, and are valid until the epoch differs."""
    source = ScriptedDirectives(None)
    worker = Worker(source)

    assert [await worker.ask() for _ in range(3)] == [None] * 3
    assert source.asked == [(ORG, AGENT)]
    source.answer = DIRECTIVE
    assert await worker.ask(agent_id=OTHER_AGENT) == DIRECTIVE
    assert await worker.ask() is None
    assert await worker.ask("f") == DIRECTIVE


async def test_workers_read_a_directive_that_another_worker_fetched_from_the_shared_cache() -> None:
    """They share it under the same epoch. After a change one worker fetches it again for all of them."""
    source = ScriptedDirectives(DIRECTIVE)
    first = Worker(source)
    second = Worker(source, first)
    for worker in (first, second):
        assert await worker.ask() == DIRECTIVE
    assert len(source.asked) == 1

    source.answer = None
    for worker in (first, second):
        assert await worker.ask("f") is None
    assert len(source.asked) == 2


@pytest.mark.parametrize("why", ["unknown", "absent"])
async def test_without_an_epoch_nothing_is_shared(why: str) -> None:
    """Without an epoch there is no key that a later change would replace."""
    source = ScriptedDirectives(DIRECTIVE)
    first = Worker(source)
    second = Worker(source, first)
    for worker in (first, second):
        await worker.ask(None, is_known=why == "absent")
    assert len(source.asked) == 2


@pytest.mark.parametrize("why", ["a stream that did not resume", "an event", "no pong for three seconds"])
async def test_the_shared_cache_is_not_read_while_an_epoch_may_have_been_lost(why: str) -> None:
    """The pause lasts for the lifetime of an entry, or until the watch is confirmed again.

    The worker still stores entries, which other workers may read.
    """
    source = ScriptedDirectives(DIRECTIVE)
    first = Worker(source)
    second = Worker(source, first)
    await first.ask()
    if why == "an event":
        second.caches.event(Kind.DIRECTIVES)
    elif why == "a stream that did not resume":
        second.caches.validity.invalidate_all(second.clock.monotonic_ns())
        second.wait(0.001)
    else:
        second.wait(3.001)
    source.answer = None
    assert await second.ask() is None

    source.answer = DIRECTIVE
    second.wait(DIRECTIVE_TTL_S + 1)
    second.caches.confirm()
    asked = len(source.asked)
    assert await second.ask() is None
    assert len(source.asked) == asked


@pytest.mark.parametrize("known", [DIRECTIVE, None])
async def test_the_last_known_directive_is_served_for_five_minutes_of_an_outage(known: Directive | None) -> None:
    """A known absence counts too. Without the shared cache and the source, later requests are refused."""
    source = ScriptedDirectives(known)
    worker = Worker(source)
    assert await worker.ask() == known
    source.answer = ServiceDegradedError()

    worker.wait(299)
    assert await worker.ask(is_known=False) == known
    assert worker.caches.heard[-1] == ("stale", Kind.DIRECTIVES)
    assert await worker.ask("f") == known
    worker.wait(2)
    with pytest.raises(ServiceDegradedError):
        await worker.ask(is_known=False)


async def test_a_request_is_refused_if_its_directive_is_unknown() -> None:
    """It is never sent without its directive."""
    with pytest.raises(ServiceDegradedError):
        await Worker(ScriptedDirectives(ServiceDegradedError())).ask()


@in_simulated_time
async def test_the_source_is_called_again_after_an_outage() -> None:
    """The fetch runs in the background, so the request that starts it does not wait."""
    source = ScriptedDirectives(DIRECTIVE)
    worker = Worker(source)
    await worker.ask()
    worker.wait(10)
    source.answer = ServiceDegradedError()
    assert await worker.ask(is_known=False) == DIRECTIVE
    source.answer = None
    assert await worker.ask(is_known=False) == DIRECTIVE
    await asyncio.sleep(0.01)
    assert await worker.ask(is_known=False) is None


async def test_a_directive_is_validated_by_a_later_reading_of_the_epoch() -> None:
    """It is fetched under that reading: the shared cache must not return an entry from before the change."""
    source = ScriptedDirectives(DIRECTIVE)
    worker = Worker(source)
    lookup = await worker.directives.look_up(ORG, AGENT, read("e", worker.clock.monotonic_ns()))
    source.answer = None
    later = read("f", worker.clock.monotonic_ns())

    assert not worker.directives.is_valid(lookup, later, worker.clock.monotonic_ns())
    assert await worker.directives.validate(lookup, later) is None
    assert worker.directives.is_valid(lookup, later, worker.clock.monotonic_ns())
