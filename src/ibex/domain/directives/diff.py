"""The differences between two versions of a directive, line by line."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import unified_diff
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

Version = TypeVar("Version")

NO_NEWLINE: Final = "\\ No newline at end of file"
_HEADER_LINES: Final = 2


class Basis(StrEnum):
    """The reason for the choice of the earlier version in a comparison."""

    ASKED = "asked"
    """The caller named it, or named the later version."""
    IN_FORCE_BEFORE = "in_force_before"
    """It was in force before the current version."""
    NUMBER_BEFORE = "number_before"
    """It has the number before; the version that was in force before was not recorded."""


@dataclass(frozen=True, slots=True)
class DirectiveDiff(Generic[Version]):
    """The differences between two versions; ``before`` is None for an empty text. The repr shows no text.

    ``lines`` are the lines of a unified diff without the two header lines and without newlines: the first character is
    an at sign, a plus, a minus, a space or a backslash. Empty if the texts are equal.
    """

    before: Version | None
    after: Version
    lines: Sequence[str] = field(repr=False)
    basis: Basis = Basis.ASKED

    @property
    def added(self) -> int:
        """The number of added lines."""
        return sum(line.startswith("+") for line in self.lines)

    @property
    def removed(self) -> int:
        """The number of removed lines."""
        return sum(line.startswith("-") for line in self.lines)


def unified_lines(before: str, after: str) -> Sequence[str]:
    """Return the lines of a unified diff in the format of ``DirectiveDiff``. Only a newline ends a line."""
    found: list[str] = []
    for line in list(unified_diff(_lines(before), _lines(after)))[_HEADER_LINES:]:
        found.append(line.removesuffix("\n"))
        if not line.endswith("\n"):
            found.append(NO_NEWLINE)
    return found


def _lines(text: str) -> list[str]:
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])
