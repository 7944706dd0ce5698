"""How often Python's cycle collector looks through what a process holds."""

from __future__ import annotations

import gc
from typing import Final

THRESHOLDS: Final = (50_000, 20, 20)


def collect_rarely() -> None:
    """Raise the thresholds, for a process that imports much that stays and then serves requests that leave nothing.

    By default what is being imported would be looked through again and again, a sixth of the time to start; and so
    would, while others wait, what the requests hold that are under way.
    """
    gc.set_threshold(*THRESHOLDS)
