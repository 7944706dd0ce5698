"""How two versions of a directive differ, line by line."""

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
    """Why a text is compared with another one."""

    ASKED = "asked"
    IN_FORCE_BEFORE = "in_force_before"
    NUMBER_BEFORE = "number_before"


@dataclass(frozen=True, slots=True)
class DirectiveDiff(Generic[Version]):
    """What has changed from ``before``, None for nothing at all, to ``after``. Its repr shows no text.

    ``lines`` are those of a unified diff without its two lines of header, and without newlines: the first character is
    an at sign, a plus, a minus, a space or a backslash. Empty if the texts are equal.
    """

    before: Version | None
    after: Version
    lines: Sequence[str] = field(repr=False)
    basis: Basis = Basis.ASKED

    @property
    def added(self) -> int:
        """The number of lines that are new."""
        return sum(line.startswith("+") for line in self.lines)

    @property
    def removed(self) -> int:
        """The number of lines that are gone."""
        return sum(line.startswith("-") for line in self.lines)


def unified_lines(before: str, after: str) -> Sequence[str]:
    """Return the lines of a unified diff, as ``DirectiveDiff`` has them. Only a newline ends a line."""
    found: list[str] = []
    for line in list(unified_diff(_lines(before), _lines(after)))[_HEADER_LINES:]:
        found.append(line.removesuffix("\n"))
        if not line.endswith("\n"):
            found.append(NO_NEWLINE)
    return found


def _lines(text: str) -> list[str]:
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])
