"""Value objects: objects that are compared by content and never change."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value_object(kind: type[T]) -> type[T]:
    """Make a class a dataclass whose instances must not change. The type checker enforces that, but not the runtime.

    ``dataclass(frozen=True)`` sets each field through ``object.__setattr__``, which triples the cost of an instance,
    and a request creates about sixty (ADR 0033). Use this for the classes that every request instantiates, and
    ``dataclass(frozen=True)`` for all others.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)


def field_copier(source: type[T], target: type[Any], *, without: Collection[str] = ()) -> Callable[[T], dict[str, Any]]:
    """Return a function that returns the fields of a ``source`` that ``target`` has too, by their names.

    Both are dataclasses. A field that both declare needs no other line to be copied. The function is compiled, as
    ``dataclass`` compiles ``__init__``: 0.5 instead of 1.9 µs for 14 fields, and a request copies four times.
    """
    own: Any = source
    common = {f.name for f in fields(own)} - set(without)
    items = ", ".join(f"{f.name!r}: instance.{f.name}" for f in fields(target) if f.name in common)
    copier: Callable[[T], dict[str, Any]] = eval(f"lambda instance: {{{items}}}")  # noqa: S307 - only names of fields
    return copier
