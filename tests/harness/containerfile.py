"""The instructions of a Containerfile, read as a container engine reads them."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

INSTRUCTIONS: Final = frozenset(
    {"ARG", "FROM", "LABEL", "ENV", "WORKDIR", "COPY", "RUN", "EXPOSE", "USER", "ENTRYPOINT", "CMD"}
)
"""Those that the tests can carry out. Another one fails, so that no step is left out silently."""
_REFERENCE: Final = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, without the line breaks inside it."""

    name: str
    text: str

    def words(self) -> list[str]:
        """Return the arguments, from a JSON array or separated by spaces."""
        return list(json.loads(self.text)) if self.text.startswith("[") else shlex.split(self.text)

    def pairs(self, known: Mapping[str, str]) -> dict[str, str]:
        """Return the ``name=value`` arguments, with the values of ``known`` put in for references."""
        return {name: expanded(value, known) for name, _, value in (word.partition("=") for word in self.words())}


@dataclass(frozen=True, slots=True)
class Stage:
    """The instructions between one FROM and the next."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]

    def last(self, name: str) -> Instruction:
        """Return the last instruction of this name, which must exist."""
        return [instruction for instruction in self.instructions if instruction.name == name][-1]

    def all(self, name: str) -> list[Instruction]:
        """Return the instructions of this name."""
        return [instruction for instruction in self.instructions if instruction.name == name]


def expanded(text: str, known: Mapping[str, str]) -> str:
    """Put in the values of ``$NAME`` and ``${NAME}``. Raises ``KeyError`` for a name without a value."""
    return _REFERENCE.sub(lambda match: known[match[1] or match[2]], text)


def parse_containerfile(text: str) -> list[Stage]:
    """Return the stages. Raises ``ValueError`` for an instruction that the tests cannot carry out."""
    instructions = []
    for line in _logical_lines(text):
        name, _, rest = line.partition(" ")
        if name not in INSTRUCTIONS:
            raise ValueError(f"the tests cannot carry out the instruction {name}")
        instructions.append(Instruction(name, rest.strip()))
    arguments: dict[str, str] = {}
    found: list[tuple[str, str, list[Instruction]]] = []
    for instruction in instructions:
        if instruction.name == "FROM":
            image, *named = instruction.words()
            found.append((named[1] if named else "", expanded(image, arguments), []))
        elif found:
            found[-1][2].append(instruction)
        else:
            arguments |= instruction.pairs(arguments)
    return [Stage(name, base, tuple(steps)) for name, base, steps in found]


def _logical_lines(text: str) -> list[str]:
    """Return the lines without comments, and with continued lines joined."""
    whole = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).replace("\\\n", " ")
    return [line.strip() for line in whole.split("\n") if line.strip()]
