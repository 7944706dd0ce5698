"""Time limits that do not count the time for which the event loop itself was blocked.

After a block, asyncio runs the expired timers before it reads the data that arrived during the block. Its own timeouts
would then expire all at once, although the data they wait for is there.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

LATE_S: Final = 0.05
"""A timer that fires with more delay than this was delayed by a blocked event loop."""
GRACE_S: Final = 0.25
"""How much longer such a timer waits, so that the loop can read the data that has arrived."""


class GraceTimer:
    """A timer that calls ``callback`` at the loop's time ``when``, or ``GRACE_S`` later if the loop was blocked."""

    __slots__ = ("_callback", "_handle", "_loop", "_when")

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._when = when
        self._callback = callback
        self._handle = self._loop.call_at(when, self._expire)

    def cancel(self) -> None:
        """Cancel the timer. Idempotent."""
        self._handle.cancel()

    def _expire(self) -> None:
        if self._loop.time() - self._when < LATE_S:
            self._callback()
        else:
            self._handle = self._loop.call_later(GRACE_S, self._callback)


class Deadline:
    """A context manager like ``asyncio.timeout_at`` with a ``GraceTimer``. Raises ``TimeoutError``."""

    __slots__ = ("_timeout", "_timer", "_when")

    def __init__(self, when: float) -> None:
        """Set the deadline in the event loop's time, in seconds. A time in the past means now."""
        self._when = when
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        expire = partial(self._timeout.reschedule, self._when)
        self._timer = GraceTimer(max(self._when, asyncio.get_running_loop().time()), expire)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, traceback)
