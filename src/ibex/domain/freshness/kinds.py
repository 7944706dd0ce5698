"""The kinds of cached values, and readings of an organization's epoch."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ibex.domain.value_object import value_object

BOUND_S: Final = 5.0
"""The maximum time from the commit of a change until it takes effect, under any single fault."""
NS: Final = 1_000_000_000


class Kind(StrEnum):
    """A kind of cached value. A change of an organization (its status, its limit) is a change of its tokens."""

    TOKENS = "tokens"
    AGENTS = "agents"
    DIRECTIVES = "directives"


@value_object
class Epoch:
    """One reading of an organization's epoch.

    ``value`` is None if the store has no epoch for the organization (*absent*) or if it could not be read (*unknown*;
    then ``was_read`` is False). ``asked_ns`` is when the reading began, on the reader's monotonic clock.
    """

    value: str | None
    was_read: bool
    asked_ns: int

    def proves_change_since(self, fetched: Epoch, fetch_began_ns: int) -> bool:
        """Return whether this reading proves a change after a fetch whose own reading was ``fetched``.

        An absent epoch proves nothing, because a flush of the store removes epochs. An unknown one proves nothing
        either. An epoch that was absent at the fetch and is present now proves a change. A reading that began before
        the fetch is older than the fetched value, and proves nothing.
        """
        if self.value is None or not fetched.was_read or self.asked_ns < fetch_began_ns:
            return False
        return self.value != fetched.value


def unknown_epoch(asked_ns: int) -> Epoch:
    """Return the reading of an epoch that could not be read."""
    return Epoch(None, was_read=False, asked_ns=asked_ns)
