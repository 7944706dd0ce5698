"""Value objects: objects that are compared by content and never change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value_object(kind: type[T]) -> type[T]:
    """Make a class a dataclass whose instances must not change. The type checker enforces that, but not the runtime.

    ``dataclass(frozen=True)`` sets each field through ``object.__setattr__``, which triples the cost of an instance,
    and a request creates about sixty (ADR 0033). Use this for the classes that every request instantiates, and
    ``dataclass(frozen=True)`` for all others.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)
