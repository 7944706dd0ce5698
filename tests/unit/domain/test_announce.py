"""Changes are announced by who makes them, whoever waits and whatever becomes known."""

from __future__ import annotations

import asyncio

import pytest

from harness.replica_scene import ORG, OTHER_ORG, TOKEN, Auth, fail_board, hang
from harness.simulated_time import in_simulated_time
from ibex.adapters.memory.announcements import RecordingAnnouncements
from ibex.domain.announce import AnnouncedChanges
from ibex.domain.errors import NotFoundError, OutcomeUnknownError, ServiceDegradedError
from ibex.domain.freshness import LEASE_S, Kind
from ibex.domain.keep_fresh import SETTLED_S, LeaveItToTheOutbox

CHANGE = (ORG, Kind.TOKENS)


class Maker:
    """Changes that take a while, and what was announced of them."""

    def __init__(self) -> None:
        self.announced = RecordingAnnouncements()
        self.changes = AnnouncedChanges(self.announced)
        self.made = 0

    async def change(self, result: object) -> object:
        """Take a while, and then be made with this result, or fail with it."""
        await asyncio.sleep(1)
        if isinstance(result, Exception):
            raise result
        self.made += 1
        return result


@in_simulated_time
async def test_a_change_that_was_made_is_announced() -> None:
    """Once, afterwards, and what came of it is returned."""
    maker = Maker()
    making = asyncio.create_task(maker.changes.make(*CHANGE, maker.change("a state")))
    await asyncio.sleep(0.9)
    assert maker.announced.changes == []

    assert await making == "a state"
    assert maker.announced.changes == [CHANGE]


@pytest.mark.parametrize("nothing", [False, None])
@in_simulated_time
async def test_a_change_that_found_nothing_is_not_announced(nothing: object) -> None:
    """There is nothing to look up anew."""
    maker = Maker()

    assert await maker.changes.make(*CHANGE, maker.change(nothing)) is nothing
    assert maker.announced.changes == []


@pytest.mark.parametrize("error", [NotFoundError(), ServiceDegradedError(), ValueError()])
@in_simulated_time
async def test_a_change_that_failed_is_not_announced(error: Exception) -> None:
    """An outage in which somebody tries to change something costs nobody what is remembered."""
    maker = Maker()

    with pytest.raises(type(error)):
        await maker.changes.make(*CHANGE, maker.change(error))
    assert maker.announced.changes == []


@in_simulated_time
async def test_a_change_that_may_have_been_made_is_announced() -> None:
    """Nobody else might do so as long as the outbox cannot be reached; whoever asked for it is told the truth."""
    maker = Maker()

    with pytest.raises(OutcomeUnknownError):
        await maker.changes.make(*CHANGE, maker.change(OutcomeUnknownError()))
    assert maker.announced.changes == [CHANGE]


@pytest.mark.parametrize("after_s", [0.0, 0.5, 0.999])
@in_simulated_time
async def test_who_leaves_does_not_take_the_change_along(after_s: float) -> None:
    """It is made, and announced."""
    maker = Maker()
    making = asyncio.create_task(maker.changes.make(*CHANGE, maker.change("a state")))
    await asyncio.sleep(after_s)
    making.cancel()
    await asyncio.wait([making])
    assert making.cancelled()
    await asyncio.sleep(2)

    assert (maker.made, maker.announced.changes) == (1, [CHANGE])


@in_simulated_time
async def test_who_leaves_a_change_that_fails_leaves_nothing_behind() -> None:
    """Nobody is there to hear of it, and the loop's handler of lost exceptions does not either."""
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    maker = Maker()
    making = asyncio.create_task(maker.changes.make(*CHANGE, maker.change(OutcomeUnknownError())))
    await asyncio.sleep(0.5)
    making.cancel()
    await asyncio.wait([making])
    await asyncio.sleep(2)

    assert maker.announced.changes == [CHANGE]
    assert lost == []


@in_simulated_time
async def test_at_once_the_generation_is_another() -> None:
    """Before the call returns; another organization's and another kind's are not."""
    auth = await Auth.vouching()
    of = [CHANGE, (ORG, Kind.AGENTS), (OTHER_ORG, Kind.TOKENS)]
    before = [auth.generation(*one) for one in of]

    await auth.announce.changed(*CHANGE)

    assert [auth.generation(*one) == old for one, old in zip(of, before, strict=True)] == [False, True, True]


@in_simulated_time
async def test_at_once_a_new_token_is_in_the_filter() -> None:
    """Before the call returns."""
    auth = await Auth.vouching()
    assert await auth.redis.excludes(TOKEN)

    await auth.announce.token_created(TOKEN)

    assert not await auth.redis.excludes(TOKEN)


@in_simulated_time
async def test_without_a_filter_there_is_nothing_to_wait_for() -> None:
    """Who makes one finds the token in the outbox before anybody vouches for it."""
    auth = Auth()
    began = asyncio.get_running_loop().time()

    await auth.announce.token_created(TOKEN)

    assert asyncio.get_running_loop().time() == began


@in_simulated_time
async def test_a_board_that_cannot_be_reached_is_no_error() -> None:
    """The outbox has the change; this replica vouches for nothing until it was emptied."""
    auth = await Auth.vouching()
    auth.store.reachable = False
    for call in ("connection", "announce"):
        auth.board.before(call, fail_board)
        await auth.announce.changed(*CHANGE)
        assert await auth.turn() == "outbox"


@in_simulated_time
async def test_a_new_token_waits_until_no_filter_without_it_is_vouched_for() -> None:
    """If it cannot be put in: every lease that may vouch has ended by then, or been renewed by who knows of it."""
    auth = await Auth.vouching()
    auth.board.before("add_tokens", fail_board)
    began = asyncio.get_running_loop().time()

    await auth.announce.token_created(TOKEN)

    assert asyncio.get_running_loop().time() - began == SETTLED_S > LEASE_S
    assert auth.lease is None
    assert not await auth.redis.excludes(TOKEN)


@in_simulated_time
async def test_without_a_board_the_outbox_is_left_to_auth() -> None:
    """Nothing is done and nothing waited for."""
    began = asyncio.get_running_loop().time()
    await LeaveItToTheOutbox().changed(*CHANGE)
    await LeaveItToTheOutbox().token_created(TOKEN)

    assert asyncio.get_running_loop().time() == began


@in_simulated_time
async def test_what_hangs_is_somebody_elses_to_bound() -> None:
    """A board answers or raises in time; until it does, the change is being made."""
    auth = await Auth.vouching()
    auth.board.before("announce", hang)
    announcing = asyncio.create_task(auth.announce.changed(*CHANGE))
    await asyncio.sleep(10)

    assert not announcing.done()
    announcing.cancel()
    await asyncio.wait([announcing])
