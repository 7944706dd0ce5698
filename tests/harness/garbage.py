"""Find reference cycles, whose collection by Python's cycle collector blocks an event loop (ADR 0033)."""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = ("ibex.", "uvicorn.", "uvloop", "httptools")


@contextmanager
def finding(least: int) -> Iterator[dict[str, int]]:
    """Yield a dict that counts by type, after the block, the objects of IBEX left to the collector (from ``least``)."""
    found: dict[str, int] = {}
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
        found.update({name: count for name, count in left.items() if name.startswith(OURS) and count >= least})
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
