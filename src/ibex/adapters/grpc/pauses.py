"""Detection of pauses of this process, caused by SIGSTOP or by a virtual machine that gets no CPU time."""

from __future__ import annotations

import asyncio
import math
from typing import Final

PAUSE_S: Final = 1.0
"""The shortest time without an event loop iteration that counts as a pause."""
_TICK_S: Final = 0.25


class PauseDetector:
    """Records when the last pause of the event loop ended."""

    def __init__(self) -> None:
        self._ended_s = -math.inf
        self._ticked_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start to detect pauses of the running event loop."""
        loop = asyncio.get_running_loop()
        self._ticked_s = loop.time()
        self._timer = loop.call_later(_TICK_S, self._tick, loop)

    def stop(self) -> None:
        """Stop detecting. Idempotent."""
        self._ticked_s = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def ended_after(self, moment_s: float, now_s: float) -> bool:
        """Return whether a pause ended after ``moment_s``. Both arguments are times of the event loop, in seconds."""
        if now_s - self._ticked_s > PAUSE_S:
            return True  # it has just ended
        return self._ended_s > moment_s

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        if now_s - self._ticked_s > PAUSE_S:
            self._ended_s = now_s
        self._ticked_s = now_s
        self._timer = loop.call_later(_TICK_S, self._tick, loop)
