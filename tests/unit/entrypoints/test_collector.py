"""The cycle collector does not look through what is being imported again and again."""

from __future__ import annotations

import gc

from ibex.entrypoints.collector import THRESHOLDS, collect_rarely


def test_thresholds_are_raised() -> None:
    """Far above Python's own, which are 700 to 2,000 objects."""
    before = gc.get_threshold()
    try:
        collect_rarely()

        assert gc.get_threshold() == THRESHOLDS
        assert THRESHOLDS[0] > 2_000
    finally:
        gc.set_threshold(*before)
