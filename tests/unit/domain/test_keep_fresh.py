"""Announce first, vouch afterwards: when the lease is renewed, and when it must not be."""

from __future__ import annotations

import asyncio

import pytest

from harness.replica_scene import ORG, OTHER_ORG, OTHER_TOKEN, TOKEN, Auth, fail_board, fail_outbox, hang
from harness.simulated_time import in_simulated_time
from ibex.domain.freshness import DRAIN_INTERVAL_S, LEASE_S, Kind
from ibex.domain.keep_fresh import BATCH, DRAIN_TIMEOUT_S


@in_simulated_time
async def test_a_turn_announces_what_is_there_and_renews() -> None:
    """Every organization's and kind's generation is another, the rest are what they were, the outbox is empty."""
    auth = await Auth.vouching()
    of = [(ORG, Kind.TOKENS), (ORG, Kind.AGENTS), (OTHER_ORG, Kind.TOKENS), (ORG, Kind.DIRECTIVES)]
    before = [auth.generation(*one) for one in of]
    auth.commit(Kind.TOKENS)
    auth.commit(Kind.AGENTS)
    auth.commit(Kind.TOKENS)
    auth.store.note(OTHER_ORG, Kind.TOKENS)

    assert await auth.turn() == "renewed"

    after = [auth.generation(*one) for one in of]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, False, False, True]
    assert await auth.pending() == 0
    assert auth.lease is not None


@in_simulated_time
async def test_the_ticket_comes_first_and_the_renewal_last() -> None:
    """So what is vouched for has been looked at within the lease's life."""
    auth = await Auth.vouching()
    auth.create()
    auth.board.asked.clear()

    await auth.turn()

    assert auth.board.asked == ["connection", "begin_turn", "announce", "add_tokens", "renew"]


@in_simulated_time
async def test_however_many_changes_are_announced_in_one_turn() -> None:
    """In batches, until there are none."""
    auth = await Auth.vouching()
    for _ in range(2 * BATCH + 1):
        auth.commit()

    assert await auth.turn() == "renewed"
    assert await auth.pending() == 0


@in_simulated_time
async def test_the_first_turn_makes_the_filter_and_asks_for_another() -> None:
    """It vouches for nothing yet: what was created while the tokens were listed is in the outbox."""
    auth = Auth()
    auth.create(TOKEN)
    auth.outbox.before("live_tokens", lambda: auth.create(OTHER_TOKEN))

    assert await auth.keep_fresh.turn()
    assert auth.heard.turns == ["filter"]
    assert auth.lease is None
    assert not await auth.keep_fresh.turn()

    assert auth.heard.turns == ["filter", "renewed"]
    assert [await auth.redis.excludes(token_id) for token_id in (TOKEN, OTHER_TOKEN, ORG)] == [False, False, True]


@in_simulated_time
async def test_new_tokens_stay_in_the_outbox_until_a_filter_has_them() -> None:
    """Who makes one now may have listed the tokens before."""
    auth = Auth()
    auth.create()
    await auth.keep_fresh.turn()

    assert await auth.pending() == 1
    assert await auth.turn() == "renewed"
    assert await auth.pending() == 0
    assert not await auth.redis.excludes(TOKEN)


@pytest.mark.parametrize("lost_before", ["finish_filter", "live_tokens"])
@in_simulated_time
async def test_a_filter_that_is_made_while_the_board_is_emptied_is_not_kept(lost_before: str) -> None:
    """What was added before, and is forgotten by the outbox, is not in it; the next turn makes it anew."""
    auth = Auth()
    (auth.board if lost_before == "finish_filter" else auth.outbox).before(lost_before, auth.redis.flush)

    assert not await auth.keep_fresh.turn()
    assert [await auth.turn() for _ in range(2)] == ["filter", "renewed"]


@in_simulated_time
async def test_an_emptied_board_gets_its_filter_back() -> None:
    """Nothing is vouched for until then."""
    auth = await Auth.vouching()
    auth.live.append(TOKEN)
    auth.redis.flush()
    assert auth.lease is None

    assert [await auth.turn() for _ in range(2)] == ["filter", "renewed"]
    assert not await auth.redis.excludes(TOKEN)


@in_simulated_time
async def test_a_filter_cannot_be_made_without_the_list_of_tokens() -> None:
    """An outbox that cannot be reached, or is not there any more, leaves the board without one."""
    auth = Auth()
    auth.outbox.before("live_tokens", fail_outbox)

    assert not await auth.keep_fresh.turn()
    assert auth.lease is None
    auth.store.reachable = False
    assert [await auth.turn() for _ in range(2)] == ["filter", "filter"]


@in_simulated_time
async def test_while_the_outbox_is_out_of_reach_who_has_emptied_it_goes_on() -> None:
    """What is committed then is announced by who commits it."""
    auth = await Auth.vouching()
    auth.store.reachable = False

    for _ in range(20):
        assert await auth.turn() == "renewed"
        await asyncio.sleep(DRAIN_INTERVAL_S)
    assert auth.lease is not None


@in_simulated_time
async def test_who_has_not_emptied_the_outbox_since_it_started_does_not() -> None:
    """It may hold a change that nobody has announced."""
    first = await Auth.vouching()
    first.store.reachable = False
    started = Auth(first)

    assert [await started.turn() for _ in range(3)] == ["outbox"] * 3


@in_simulated_time
async def test_a_new_connection_vouches_only_after_a_drain() -> None:
    """What was announced through the old one may be lost."""
    auth = await Auth.vouching()
    auth.store.reachable = False
    auth.board.cut()
    assert [await auth.turn() for _ in range(2)] == ["outbox"] * 2

    auth.store.reachable = True
    assert await auth.turn() == "renewed"
    auth.store.reachable = False
    assert await auth.turn() == "renewed"


@in_simulated_time
async def test_an_announcement_that_failed_vouches_only_after_a_drain() -> None:
    """This replica committed it, and nobody else may know."""
    auth = await Auth.vouching()
    auth.store.reachable = False
    auth.board.before("announce", fail_board)
    await auth.announce.changed(ORG, Kind.TOKENS)
    assert [await auth.turn() for _ in range(2)] == ["outbox"] * 2

    auth.store.reachable = True
    assert await auth.turn() == "renewed"


@in_simulated_time
async def test_an_announcement_that_fails_during_a_drain_is_not_covered_by_it() -> None:
    """The drain may have looked before: only the next one counts."""
    auth = await Auth.vouching()
    auth.outbox.before("pending", auth.keep_fresh.announcement_failed)
    assert await auth.turn() == "outbox"

    assert await auth.turn() == "renewed"


@in_simulated_time
async def test_an_outbox_that_hangs_is_not_waited_for() -> None:
    """It counts as out of reach, and is not asked again while it hangs."""
    auth = await Auth.vouching()
    auth.outbox.before("pending", hang)
    began = asyncio.get_running_loop().time()

    assert await auth.turn() == "renewed"
    assert asyncio.get_running_loop().time() - began == pytest.approx(DRAIN_TIMEOUT_S)
    auth.outbox.asked.clear()
    assert [await auth.turn() for _ in range(3)] == ["renewed"] * 3
    assert auth.outbox.asked == []
    assert auth.lease is not None


@in_simulated_time
async def test_what_comes_of_a_drain_after_its_time_is_not_used() -> None:
    """It may have looked before what is to be vouched for: the turn that finds it ended asks anew."""
    auth = await Auth.vouching()
    auth.board.cut()
    auth.outbox.before("pending", lambda: asyncio.sleep(DRAIN_TIMEOUT_S + 0.1))
    assert await auth.turn() == "outbox"
    await asyncio.sleep(0.2)

    auth.outbox.asked.clear()
    auth.store.reachable = False
    assert await auth.turn() == "outbox"
    assert auth.outbox.asked == ["pending"]


@in_simulated_time
async def test_a_late_drain_that_fails_harms_nobody() -> None:
    """Its connection is gone when it wants to announce; what it would have forgotten is still there."""
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    auth = await Auth.vouching()
    auth.commit()
    auth.outbox.before("pending", lambda: asyncio.sleep(DRAIN_TIMEOUT_S + 0.1))
    await auth.turn()
    auth.board.cut()
    await asyncio.sleep(0.2)

    assert await auth.pending() == 1
    assert await auth.turn() == "renewed"
    assert await auth.pending() == 0
    assert lost == []


@in_simulated_time
async def test_a_turn_that_takes_too_long_vouches_for_nothing() -> None:
    """Its ticket has run out; another turn comes at once."""
    auth = await Auth.vouching()
    auth.board.before("renew", lambda: asyncio.sleep(LEASE_S))

    assert await auth.keep_fresh.turn()
    assert auth.heard.turns[-1] == "late"
    assert auth.lease is None
    assert await auth.turn() == "renewed"


@in_simulated_time
async def test_the_lease_counts_from_the_turns_beginning() -> None:
    """However slow the outbox and the board are."""
    auth = await Auth.vouching()
    await asyncio.sleep(LEASE_S)
    auth.outbox.before("pending", lambda: asyncio.sleep(0.4))
    auth.board.before("renew", lambda: asyncio.sleep(0.8))
    assert await auth.turn() == "renewed"

    await asyncio.sleep(LEASE_S - 1.2 - 0.001)
    assert auth.lease is not None
    await asyncio.sleep(0.001)
    assert auth.lease is None


@in_simulated_time
async def test_a_filter_that_was_made_since_is_not_vouched_for() -> None:
    """One replica has emptied the outbox, a token is created, another makes a filter without it: the first must wait.

    Nobody had a filter to put the token into, so its creation has returned.
    """
    first = await Auth.vouching()
    second = Auth(first)

    async def create() -> None:
        first.create()
        await first.announce.token_created(TOKEN)

    async def meanwhile() -> None:
        first.redis.flush()
        second.outbox.before("live_tokens", create)
        await second.keep_fresh.turn()

    first.board.before("renew", meanwhile)
    assert await first.turn() == "late"
    assert first.lease is None
    assert await first.turn() == "renewed"
    assert not await first.redis.excludes(TOKEN)


@in_simulated_time
async def test_two_replicas_at_once_do_no_harm() -> None:
    """They announce the same changes, make one filter, and renew the same lease."""
    first = Auth()
    second = Auth(first)
    first.create()
    for _ in range(3):
        first.commit(Kind.AGENTS)
        await asyncio.gather(first.keep_fresh.turn(), second.keep_fresh.turn())

    assert (first.heard.turns[-1], second.heard.turns[-1]) == ("renewed", "renewed")
    assert await first.pending() == 0
    assert not await first.redis.excludes(TOKEN)


@pytest.mark.parametrize(
    "call", ["connection", "begin_turn", "announce", "add_tokens", "renew", "begin_filter", "finish_filter"]
)
@in_simulated_time
async def test_a_board_that_fails_is_tried_again_and_then_needs_a_drain(call: str) -> None:
    """Whatever it was asked; nothing is raised."""
    auth = await Auth.vouching()
    auth.create()
    if call in {"begin_filter", "finish_filter"}:
        auth.redis.flush()
    auth.board.before(call, fail_board)

    assert await auth.turn() == "board"
    auth.store.reachable = False
    assert await auth.turn() in {"outbox", "filter"}
    auth.store.reachable = True
    while await auth.turn() != "renewed":
        pass
    assert await auth.pending() == 0


@in_simulated_time
async def test_an_outbox_that_cannot_forget_is_announced_again() -> None:
    """It counts as out of reach; the changes are still there."""
    auth = await Auth.vouching()
    auth.commit()
    auth.outbox.before("forget", fail_outbox)
    assert await auth.turn() == "renewed"
    announced = auth.generation()
    assert await auth.pending() == 1

    assert await auth.turn() == "renewed"
    assert auth.generation() != announced
    assert await auth.pending() == 0


@in_simulated_time
async def test_a_bug_is_not_taken_for_an_outage() -> None:
    """It is raised, and whoever runs this hears of it."""

    def bug() -> None:
        raise KeyError("bug")

    auth = await Auth.vouching()
    for part, call in ((auth.outbox, "pending"), (auth.board, "renew")):
        part.before(call, bug)
        with pytest.raises(KeyError):
            await auth.keep_fresh.turn()
    auth.board.before("connection", bug)
    with pytest.raises(KeyError):
        await auth.keep_fresh.run()


@in_simulated_time
async def test_it_takes_two_turns_a_second_until_cancelled() -> None:
    """The lease never ends meanwhile; a turn that asks for another gets it at once."""
    auth = Auth()
    running = asyncio.create_task(auth.keep_fresh.run())
    await asyncio.sleep(0.001)
    assert auth.heard.turns == ["filter", "renewed"]
    for _ in range(100):
        await asyncio.sleep(0.1)
        assert auth.lease is not None
    assert len(auth.heard.turns) == 2 + 10 / DRAIN_INTERVAL_S

    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


@pytest.mark.parametrize("after_s", [0.1, 5.0])
@in_simulated_time
async def test_a_drain_that_hangs_ends_with_it(after_s: float) -> None:
    """Whether it is still waited for or not."""
    auth = await Auth.vouching()
    hanging = hang()
    auth.outbox.before("pending", lambda: hanging)
    running = asyncio.create_task(auth.keep_fresh.run())
    await asyncio.sleep(after_s)

    running.cancel()
    await asyncio.wait([running])
    await asyncio.sleep(0)

    assert hanging.cancelled()
