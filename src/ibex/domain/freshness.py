"""Cached identity that is never stale for long: generations, the lease, the bound (spec 5, ADR 0021).

INVARIANT: no request is served more than ``BOUND_S`` after a change that forbids it was committed, and no live token is
refused as unknown, whichever single link or process is lost.

Every organization has a *generation* for each kind of cached thing: a value that is replaced by every change and never
comes back. The *lease* is a value of ``LEASE_S`` life that is renewed only by who has announced all changes before. It
names the instance that keeps the generations, so that one that lost some cannot pass for another, and the filter that
was made there, so that it cannot pass for itself once others have stood in for it; read from any other instance it is
none. Both together are a ``Stamp``.

What was fetched after a stamp was read is as good as the source for as long as that very stamp is read again: each such
reading is a confirmation. Where no stamp can be had, what was confirmed less than ``GRACE_S`` ago is still served;
everything else is fetched anew before the request goes on. From commit to refusal that is at worst the lease's life and
the grace.

Nothing here waits or asks: time comes as an argument, in nanoseconds of the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ibex.domain.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping

V = TypeVar("V")

DRAIN_INTERVAL_S: Final = 0.5
LEASE_S: Final = 2.0
GRACE_S: Final = 2.0
BOUND_S: Final = 5.0
_NS: Final = 1_000_000_000
_GRACE_NS: Final = int(GRACE_S * _NS)


class Kind(StrEnum):
    """What an organization's generations are kept for. A token's entry holds its organization's status and limit."""

    TOKENS = "tokens"
    AGENTS = "agents"
    DIRECTIVES = "directives"


@value
class Stamp:
    """The lease and a generation, as they were read at one time, the lease first."""

    lease: str
    generation: str


@value
class News:
    """What one reading brought of an organization; ``asked_ns`` is when it was asked for, so no later than it was read.

    ``lease`` is None where none is valid, and where nobody could be asked.
    """

    asked_ns: int
    lease: str | None
    generations: Mapping[Kind, str]
    _stamps: dict[Kind, Stamp] = field(default_factory=dict, init=False, repr=False, compare=False)

    def stamp(self, kind: Kind) -> Stamp | None:
        """Return the stamp for a kind, the same one each time; None confirms nothing."""
        stamp = self._stamps.get(kind)
        if stamp is None and self.lease is not None and kind in self.generations:
            stamp = self._stamps[kind] = Stamp(self.lease, self.generations[kind])
        return stamp


def no_news(asked_ns: int) -> News:
    """Return what is known where nobody could be asked: nothing."""
    return News(asked_ns, None, {})


@dataclass(slots=True)
class Entry(Generic[V]):
    """A fetched value; ``stamp`` was read, and ``fetched_ns`` was, before the fetch began.

    ``confirmed_ns`` is when it was last known to be true; after ``expires_ns`` it is fetched anew, confirmed or not.
    """

    value: V
    stamp: Stamp | None
    fetched_ns: int
    confirmed_ns: int
    expires_ns: int


class Verdict(Enum):
    """What may be done with an entry: serve it, fetch it anew, or fetch it and serve it if the source is down."""

    SERVE = "serve"
    FETCH = "fetch"
    FETCH_IF_POSSIBLE = "fetch if possible"


def judge(entry: Entry[V], current: Stamp | None, now_ns: int) -> Verdict:
    """Judge an entry under the stamp that was just read, or under none."""
    expired = now_ns >= entry.expires_ns
    if current is None:
        in_grace = now_ns - entry.confirmed_ns <= _GRACE_NS
        return Verdict.SERVE if in_grace and not expired else Verdict.FETCH
    if entry.stamp is not current and entry.stamp != current:
        return Verdict.FETCH
    return Verdict.FETCH_IF_POSSIBLE if expired else Verdict.SERVE
