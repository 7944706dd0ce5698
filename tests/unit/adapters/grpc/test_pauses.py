"""Tests of the detection of pauses of the process."""

from __future__ import annotations

import asyncio

import pytest

from harness.simulated_time import SimulatedLoop, in_simulated_time
from ibex.adapters.grpc.pauses import PAUSE_S, PauseDetector


def stand_still(seconds: float) -> float:
    """Block the process, and return the time at which the pause ended."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    loop.stand_still(seconds)
    return loop.time()


@in_simulated_time
async def test_a_running_loop_reports_no_pause() -> None:
    """A callback that takes less than a second is not a pause."""
    pauses, loop = PauseDetector(), asyncio.get_running_loop()
    pauses.start()
    for _ in range(20):
        await asyncio.sleep(0.3)
        stand_still(PAUSE_S / 2)
        assert not pauses.ended_after(0.0, loop.time())
    pauses.stop()


@in_simulated_time
async def test_a_pause_is_reported_at_once_and_later() -> None:
    """It is reported before the next event loop iteration, and long afterwards."""
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
async def test_a_stopped_detector_reports_no_pause(starts: bool) -> None:  # noqa: FBT001 - a parameter's
    """This applies before its start and after its end."""
    pauses, loop = PauseDetector(), asyncio.get_running_loop()
    if starts:
        pauses.start()
        pauses.stop()
        pauses.stop()
    stand_still(10.0)
    assert not pauses.ended_after(0.0, loop.time())
    await asyncio.sleep(1.0)
    assert not pauses.ended_after(0.0, loop.time())
