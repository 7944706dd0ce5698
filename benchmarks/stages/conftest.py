"""Fixtures of all stages: the garbage collector and the event loop, as in a worker."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import uvloop

from ibex.entrypoints.process_tuning import collect_rarely

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator


@pytest.fixture(autouse=True, scope="session")
def _collector_of_a_worker(request: pytest.FixtureRequest) -> Iterator[None]:
    """Configure the collector for the whole suite, if it measures."""
    if request.config.getoption("benchmark_disable") and not request.config.getoption("benchmark_enable"):
        yield
        return
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    collect_rarely()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Return an event loop of the kind that a worker uses."""
    made: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    yield made
    made.close()
