"""When a process notices that it was paused."""

from __future__ import annotations

import asyncio

import pytest

from harness.simulated_time import SimulatedLoop, in_simulated_time
from ibex.adapters.grpc.pauses import PAUSE_S, PauseDetector


def stand_still(seconds: float) -> float:
    """Pause the process, and return when the pause ended."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    loop.stand_still(seconds)
    return loop.time()


@in_simulated_time
async def test_a_loop_that_turns_was_not_paused() -> None:
    """Nor was one that took less than a second for a callback."""
    pauses, loop = PauseDetector(), asyncio.get_running_loop()
    pauses.start()
    for _ in range(20):
        await asyncio.sleep(0.3)
        stand_still(PAUSE_S / 2)
        assert not pauses.ended_after(0.0, loop.time())
    pauses.stop()


@in_simulated_time
async def test_a_pause_is_noticed_at_once_and_remembered() -> None:
    """Before the next turn of the loop as well as long afterwards."""
    pauses, loop = PauseDetector(), asyncio.get_running_loop()
    pauses.start()
    await asyncio.sleep(1.0)
    ended = stand_still(PAUSE_S + 0.3)
    assert pauses.ended_after(ended - 0.1, loop.time())
    await asyncio.sleep(10.0)
    assert pauses.ended_after(ended - 0.1, loop.time())
    assert not pauses.ended_after(ended + 0.1, loop.time())
    pauses.stop()


@pytest.mark.parametrize("starts", [True, False])
@in_simulated_time
async def test_a_detector_that_does_not_run_notices_nothing(starts: bool) -> None:  # noqa: FBT001 - a parameter's
    """Before its start and after its end."""
    pauses, loop = PauseDetector(), asyncio.get_running_loop()
    if starts:
        pauses.start()
        pauses.stop()
        pauses.stop()
    stand_still(10.0)
    assert not pauses.ended_after(0.0, loop.time())
    await asyncio.sleep(1.0)
    assert not pauses.ended_after(0.0, loop.time())
