"""Value objects: objects that are compared by content and never change."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from operator import attrgetter
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

    Both are dataclasses with at least two such fields. A field that both declare needs no other line to be copied.
    """
    own: Any = source
    common = {f.name for f in fields(own)} - set(without)
    names = [f.name for f in fields(target) if f.name in common]
    values_of = attrgetter(*names)
    return lambda instance: dict(zip(names, values_of(instance), strict=True))
