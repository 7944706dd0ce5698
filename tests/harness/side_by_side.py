"""Run slow cases that each need a stack to themselves: a few stacks take one case after the other."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

Stack = TypeVar("Stack")


@contextmanager
def side_by_side(
    stack_of: Callable[[int], AbstractContextManager[Stack]], stacks: int, cases: Mapping[str, Callable[[Stack], Any]]
) -> Iterator[Mapping[str, Future[Any]]]:
    """Start stacks, which ``stack_of`` creates by number, and run all cases; yield the outcome of each, by its name.

    A case that raises fails alone. If a stack does not start, the cases that have not begun fail. An exception while a
    stack stops is raised at the end.
    """
    outcomes: dict[str, Future[Any]] = {name: Future() for name in cases}
    waiting: SimpleQueue[str] = SimpleQueue()
    for name in cases:
        waiting.put(name)

    def work(number: int) -> None:
        try:
            with stack_of(number) as stack:
                for name in _taken_from(waiting):
                    _recorder(outcomes[name], partial(cases[name], stack))
        except Exception as error:
            for name in _taken_from(waiting):
                outcomes[name].set_exception(error)
            raise

    with ThreadPoolExecutor(stacks) as threads:
        working = [threads.submit(work, number) for number in range(min(stacks, len(cases)))]
        yield outcomes
    for one in working:
        one.result()


def _taken_from(waiting: SimpleQueue[str]) -> Iterator[str]:
    while True:
        try:
            yield waiting.get_nowait()
        except Empty:
            return


def _recorder(outcome: Future[Any], case: Callable[[], Any]) -> None:
    try:
        outcome.set_result(case())
    except Exception as error:  # noqa: BLE001 - whoever asks for the outcome gets it
        outcome.set_exception(error)
