"""Since when what waits in a journal has waited, to a tenth of a second, without keeping a time for each exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

MOST: Final = 1_000
_APART_S: Final = 0.1


class OldestPending:
    """Times at some positions; what lies between two counts as as old as the first. The longer the queue, the fewer."""

    def __init__(self) -> None:
        self._marks: list[tuple[int, datetime]] = []
        self._apart_s = _APART_S

    def add(self, position: int, since: datetime) -> None:
        """Note since when the exchange at a position has waited; positions grow."""
        if self._marks and (since - self._marks[-1][1]).total_seconds() < self._apart_s:
            return
        self._marks.append((position, since))
        if len(self._marks) > MOST:
            del self._marks[1::2]
            whole = self._marks[-1][1] - self._marks[0][1]
            self._apart_s = whole.total_seconds() / len(self._marks)

    def forget(self, position: int) -> None:
        """Drop what is not needed to tell of positions after this one."""
        while len(self._marks) > 1 and self._marks[1][0] <= position + 1:
            del self._marks[0]
        if len(self._marks) == 1:
            self._apart_s = _APART_S

    def at(self, position: int) -> datetime | None:
        """Return since when the exchange at a position has waited, at the longest; None if nothing is known of it."""
        since = None
        for start, time in self._marks:
            if start > position:
                break
            since = time
        return since
