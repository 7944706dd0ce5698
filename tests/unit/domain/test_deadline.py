"""Time limits count the time of the awaited work, not that of a blocked event loop."""

from __future__ import annotations

import asyncio

import pytest

from harness.simulated_time import SimulatedLoop, in_simulated_time
from ibex.domain.deadline import GRACE_S, Deadline, GraceTimer


def loop() -> SimulatedLoop:
    """Return the running loop."""
    running = asyncio.get_running_loop()
    assert isinstance(running, SimulatedLoop)
    return running


@in_simulated_time
async def test_a_deadline_times_out_at_its_time() -> None:
    """A deadline in the past times out immediately."""
    for when in (1.0, 1.0, 0.5):
        with pytest.raises(TimeoutError):
            async with Deadline(when):
                await asyncio.Event().wait()
        assert loop().time() == pytest.approx(1.0)


@in_simulated_time
async def test_work_that_ends_before_the_deadline_is_not_interrupted() -> None:
    """The timer has no effect after the block either."""
    async with Deadline(1.0):
        await asyncio.sleep(0.9)
    await asyncio.sleep(5)


@in_simulated_time
async def test_data_that_arrived_while_the_loop_was_blocked_is_in_time() -> None:
    """The timer fires first, and gives the loop time to read the data."""
    here = asyncio.Event()
    loop().call_at(2.0, here.set)
    loop().call_soon(loop().stand_still, 3.0)
    async with Deadline(1.0):
        await here.wait()
    assert loop().time() == pytest.approx(3.0)


@in_simulated_time
async def test_missing_data_times_out_even_if_the_loop_was_blocked() -> None:
    """The deadline times out after the grace period."""
    loop().call_soon(loop().stand_still, 3.0)
    with pytest.raises(TimeoutError):
        async with Deadline(1.0):
            await asyncio.Event().wait()
    assert loop().time() == pytest.approx(3.0 + GRACE_S)


@in_simulated_time
async def test_cancellations_and_exceptions_pass_through_a_deadline() -> None:
    """The deadline does not turn them into a timeout."""
    for error in (asyncio.CancelledError, ValueError):
        with pytest.raises(error):
            async with Deadline(1.0):
                raise error


@in_simulated_time
async def test_a_cancelled_timer_does_not_call_back() -> None:
    """This includes a timer that is cancelled during its grace period."""
    called: list[float] = []
    early, late = (GraceTimer(1.0, lambda: called.append(loop().time())) for _ in range(2))
    early.cancel()
    loop().call_soon(loop().stand_still, 2.0)
    await asyncio.sleep(0.1)
    late.cancel()
    await asyncio.sleep(5)
    assert called == []
