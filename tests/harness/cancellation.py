"""Run a coroutine repeatedly and cancel each run at a different suspension."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType


class Moment(Enum):
    """The point within a suspension at which the cancellation arrives."""

    WHILE_WAITING = "while waiting"
    WHEN_IT_WAS_OVER = "when what was waited for had come, but not yet been heard of"


@dataclass(frozen=True, slots=True)
class Cut:
    """A cancellation at this suspension, counted from 1."""

    suspension: int
    moment: Moment = Moment.WHILE_WAITING


@dataclass(slots=True)
class Run:
    """The result of a run: the number of suspensions, the number of cuts reached, and what asyncio reported."""

    suspensions: int = 0
    cuts_reached: int = 0
    was_cancelled: bool = False
    complaints: list[str] = field(default_factory=list)
    tasks_left: list[str] = field(default_factory=list)


class _Steps(Generator[Any, Any, None]):
    """The steps of a coroutine, passed on to the task that runs it. Cancels that task at the given cuts."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], cuts: tuple[Cut, ...], run: Run) -> None:
        self._coroutine = coroutine
        self._cuts = {cut.suspension: cut.moment for cut in cuts}
        self._run = run

    def send(self, value: Any) -> Any:
        return self._suspended(self._coroutine.send(value))

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        del val, tb  # the three-argument form is deprecated; asyncio's tasks throw instances
        if isinstance(typ, type):
            typ = typ()
        return self._suspended(self._coroutine.throw(typ))

    def _suspended(self, waited_for: Any) -> Any:
        self._run.suspensions += 1
        moment = self._cuts.get(self._run.suspensions)
        task = asyncio.current_task()
        if moment is None or task is None:
            return waited_for
        self._run.cuts_reached += 1
        if moment is Moment.WHILE_WAITING or waited_for is None:
            task.cancel()
        else:
            waited_for.add_done_callback(lambda _: task.cancel())
        return waited_for


class _Watched:
    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, None]:
        return self._steps


async def run_cut(make: Callable[[], Coroutine[Any, Any, None]], *cuts: Cut) -> Run:
    """Run the coroutine from ``make`` in its own task and cancel it at ``cuts``.

    Return when no task is left, or after one second. Exceptions of the coroutine are raised, except its cancellation.
    """
    run = Run()
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    previous = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: run.complaints.append(str(context["message"])))
    gc.freeze()  # objects from before the run do not belong to it and need not be searched
    try:
        await _in_a_task(make, cuts, run)
        gc.collect()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - before
        if left:
            await asyncio.wait(left, timeout=1)
        run.tasks_left = [repr(task) for task in left if not task.done()]
        del left
        gc.collect()
    finally:
        gc.unfreeze()
        loop.set_exception_handler(previous)
    return run


async def _in_a_task(make: Callable[[], Coroutine[Any, Any, None]], cuts: tuple[Cut, ...], run: Run) -> None:
    async def watched() -> None:
        await _Watched(_Steps(make(), cuts, run))

    task = asyncio.create_task(watched())
    await asyncio.wait([task])
    run.was_cancelled = task.cancelled()
    if not task.cancelled():
        task.result()
