"""The garbage collector as in a worker: existing objects are frozen, and the thresholds are raised."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.process_tuning import collect_rarely

if TYPE_CHECKING:
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
