"""Time limits for those who are waited for, which leave out the time for which the event loop itself stood still.

A loop that was blocked finds the timers that ran out meanwhile before it looks at what came meanwhile. asyncio's own
timeouts would then fire for all at once, for what is there already.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

LATE_S: Final = 0.05
"""A timer that fires later than this was delayed by the event loop, not by what it waits for."""
GRACE_S: Final = 0.25
"""How much longer it then waits for what may have arrived meanwhile."""


class PatientTimer:
    """Calls ``callback`` at the loop's time ``when``, or a little later if the loop was not there at that time."""

    __slots__ = ("_callback", "_handle", "_loop", "_when")

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._when = when
        self._callback = callback
        self._handle = self._loop.call_at(when, self._due)

    def cancel(self) -> None:
        """Call nothing. Idempotent."""
        self._handle.cancel()

    def _due(self) -> None:
        if self._loop.time() - self._when < LATE_S:
            self._callback()
        else:
            self._handle = self._loop.call_later(GRACE_S, self._callback)


class Deadline:
    """``asyncio.timeout_at`` with a ``PatientTimer``: a context manager that raises ``TimeoutError``."""

    __slots__ = ("_timeout", "_timer", "_when")

    def __init__(self, when: float) -> None:
        """Take the moment in the event loop's time, in seconds; a moment that is over is one now."""
        self._when = when
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        expire = partial(self._timeout.reschedule, self._when)
        self._timer = PatientTimer(max(self._when, asyncio.get_running_loop().time()), expire)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, traceback)
