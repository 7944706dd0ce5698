"""The state of a worker's watch: the time up to which it has received every change, and the invalidations."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from ibex.domain.freshness.kinds import NS, Kind

if TYPE_CHECKING:
    from uuid import UUID

UNCONFIRMED_S: Final = 3.0
"""How long an entry is served after the last confirmation, or after the start of its fetch if that is later."""
MAX_INVALIDATIONS: Final = 100_000
"""Organizations and kinds whose last change is kept. Beyond that, entries older than the dropped change are invalid."""
_UNCONFIRMED_NS: Final = int(UNCONFIRMED_S * NS)
_LONG_AGO: Final = -(1 << 62)


class Validity:
    """Decides from the watch alone which entries may be served. Pure: each method takes the time in nanoseconds.

    An event does not search the cache. It sets the time of the change, and an entry whose fetch began before that time
    is invalid from then on.
    """

    def __init__(self) -> None:
        self._invalidated: OrderedDict[tuple[Kind, int], int] = OrderedDict()  # by UUID.int: a UUID's hash is slow
        self._all_invalidated_ns = _LONG_AGO
        self.confirmed_ns = _LONG_AGO

    def invalidate(self, kind: Kind, org_id: UUID, now_ns: int) -> None:
        """Invalidate the entries of an organization and kind whose fetches began before now."""
        key = kind, org_id.int
        self._invalidated[key] = now_ns
        self._invalidated.move_to_end(key)
        if len(self._invalidated) > MAX_INVALIDATIONS:
            _, self._all_invalidated_ns = self._invalidated.popitem(last=False)

    def invalidate_all(self, now_ns: int) -> None:
        """Invalidate every entry whose fetch began before now."""
        self._all_invalidated_ns = now_ns
        self._invalidated.clear()

    def confirm(self, ping_sent_ns: int) -> None:
        """Record a pong: every change that was committed before its ping was sent has been received."""
        self.confirmed_ns = max(self.confirmed_ns, ping_sent_ns)

    def invalidated_ns(self, kind: Kind, org_id: UUID) -> int:
        """Return the time of the last invalidation of an organization and kind; a time long ago if there was none."""
        return max(self._invalidated.get((kind, org_id.int), _LONG_AGO), self._all_invalidated_ns)

    def confirmed_since(self, began_ns: int) -> int:
        """Return the time up to which an entry fetched at ``began_ns`` is known to be current, unless invalidated."""
        return max(self.confirmed_ns, began_ns)

    def may_serve(self, kind: Kind, org_id: UUID, began_ns: int, now_ns: int) -> bool:
        """Return whether an entry whose fetch began at ``began_ns`` may be served now.

        A request calls this five times, so ``confirmed_since`` and ``invalidated_ns`` are inlined: 1 call instead of 7.
        """
        if now_ns - began_ns > _UNCONFIRMED_NS and now_ns - self.confirmed_ns > _UNCONFIRMED_NS:
            return False
        if began_ns <= self._all_invalidated_ns:
            return False
        key, invalidated = (kind, org_id.int), self._invalidated
        return key not in invalidated or began_ns > invalidated[key]

    def may_read_shared(self, org_id: UUID, now_ns: int, ttl_ns: int) -> bool:
        """Return whether a directive may be read from the shared cache: see ADR 0045, "Directives in Redis"."""
        if now_ns - self.confirmed_ns > _UNCONFIRMED_NS:
            return False
        return now_ns - self.invalidated_ns(Kind.DIRECTIVES, org_id) > ttl_ns
