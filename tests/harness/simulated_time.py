"""An event loop whose time is simulated: it jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import selectors
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")

_START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class _Jump(selectors.SelectSelector):
    """A selector that reports no events, and advances the time to the loop's next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits and nothing will ever happen")
        self.now += max(0.0, timeout)
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop in which minutes take milliseconds and every run is the same. Calls in executors run at once."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return the simulated time in seconds, from 0."""
        return self._jump.now

    def stand_still(self, seconds: float) -> None:
        """Advance the time, as if a callback blocked the loop."""
        self._jump.now += seconds

    def run_in_executor(  # type: ignore[override]  # its stub is of two minds about what it returns
        self,
        executor: object,  # noqa: ARG002 - a loop's
        func: Callable[..., T],
        *args: Any,
    ) -> asyncio.Future[T]:
        """Call the function now."""
        done: asyncio.Future[T] = self.create_future()
        done.set_result(func(*args))
        return done


def run_simulated(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in simulated time, from second 0."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main)


def in_simulated_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in a simulated loop."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_simulated(test(*args, **kwargs))

    return run


class LoopClock:
    """A ``Clock`` that shows the running loop's time."""

    def now(self) -> datetime:
        """Return the wall-clock time in UTC."""
        return _START + timedelta(seconds=asyncio.get_running_loop().time())

    def monotonic_ns(self) -> int:
        """Return nanoseconds since the loop began."""
        return round(asyncio.get_running_loop().time() * 1_000_000_000)
