"""Values: what is compared by its content and never changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value_object(kind: type[T]) -> type[T]:
    """Make a class a dataclass whose instances nobody changes: the type checker holds that, nothing does at run time.

    ``dataclass(frozen=True)`` sets each field through ``object.__setattr__``, which makes an instance three times as
    dear, and a request makes some sixty (ADR 0033). For what is made for every request; all else is frozen in earnest.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)
