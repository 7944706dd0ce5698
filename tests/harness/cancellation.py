"""Running a coroutine again and again, cancelled each time at another of its suspensions."""

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
    """When, in a suspension, the cancellation comes."""

    WHILE_WAITING = "while waiting"
    WHEN_IT_WAS_OVER = "when what was waited for had come, but not yet been heard of"


@dataclass(frozen=True, slots=True)
class Cut:
    """Cancel at this suspension, counted from 1."""

    suspension: int
    moment: Moment = Moment.WHILE_WAITING


@dataclass(slots=True)
class Run:
    """How a run went: how often it was suspended, how many of its cuts were reached, and what asyncio complained of."""

    suspensions: int = 0
    cuts_reached: int = 0
    was_cancelled: bool = False
    complaints: list[str] = field(default_factory=list)
    tasks_left: list[str] = field(default_factory=list)


class _Steps(Generator[Any, Any, None]):
    """A coroutine's steps, passed on to the task that runs it; cancels that task where it is told to."""

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
    """Run what ``make`` makes in a task of its own, cancelled at ``cuts``; return when no task is left, or a second on.

    What the coroutine raises, other than its cancellation, is raised here.
    """
    run = Run()
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    previous = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: run.complaints.append(str(context["message"])))
    gc.freeze()  # what was there before is not this run's, and need not be searched
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
