"""Cases that mostly wait, each of which needs a stack to itself: a few stacks take one case after the other."""

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
    """Start so many stacks, which ``stack_of`` makes by number, and all cases; give what comes of each, by its name.

    A case that raises fails alone. With a stack that does not start the cases fail that are not begun. What ends badly
    is raised at the end.
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
