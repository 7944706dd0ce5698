"""Admission control: what one worker has room for, shared so that no organization can starve another (ADR 0042).

Three quarters of a capacity are there for everybody. The last quarter is reserved for organizations that hold less than
a tenth of the capacity. One organization alone can therefore use three quarters, and a second one still finds room.
Nothing here waits: a request is granted its share at once, or refused.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ibex.domain.errors import OverloadedError

if TYPE_CHECKING:
    from uuid import UUID

RESERVED: Final = 4
"""One part in so many of a capacity is reserved."""
SMALL: Final = 10
"""An organization that holds less than one part in so many of a capacity may use the reserved part."""
RETRY_AFTER_S: Final = 1


class Limit(StrEnum):
    """A limit of a worker that can refuse a request."""

    AUTHENTICATION = "authentication"
    SLOTS = "slots"
    BODY_BYTES = "body_bytes"


class FairShare:
    """A capacity that organizations share. Takes and gives back in constant time.

    It remembers only the organizations that hold something.
    """

    __slots__ = ("_held", "_open", "capacity", "in_use")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.in_use = 0
        self._open = capacity - capacity // RESERVED
        self._held: dict[int, int] = {}  # by the UUID as a number: its own hash is computed in Python each time

    def take(self, org_id: UUID, amount: int = 1) -> bool:
        """Take an amount for an organization; return False, and take nothing, if that is more than its share."""
        key = org_id.int
        held = self._held.get(key, 0)
        in_use = self.in_use + amount
        if in_use > self._open and (in_use > self.capacity or held * SMALL >= self.capacity):
            return False
        self._held[key] = held + amount
        self.in_use = in_use
        return True

    def give_back(self, org_id: UUID, amount: int = 1) -> None:
        """Give back what ``take`` granted, or a part of it."""
        key = org_id.int
        left = self._held[key] - amount
        if left:
            self._held[key] = left
        else:
            del self._held[key]
        self.in_use -= amount

    def held_by(self, org_id: UUID) -> int:
        """Return how much an organization holds."""
        return self._held.get(org_id.int, 0)

    def __len__(self) -> int:
        """Return how many organizations hold something."""
        return len(self._held)


class Capacity:
    """What one worker has room for: request slots, body bytes, and requests that are being authenticated.

    The organization of a request is unknown until it is authenticated. Such requests have a bound of their own, and
    take no slot.
    """

    __slots__ = ("_most_authenticating", "authenticating", "body_bytes", "refusals", "slots")

    def __init__(self, *, slots: int, body_bytes: int, most_authenticating: int) -> None:
        self.slots = FairShare(slots)
        self.body_bytes = FairShare(body_bytes)
        self.authenticating = 0
        self.refusals = dict.fromkeys(Limit, 0)
        self._most_authenticating = most_authenticating

    def begin_authentication(self) -> None:
        """Admit a request to authentication, which must be followed by its end. Raises ``OverloadedError``."""
        if self.authenticating >= self._most_authenticating:
            raise self.refused(Limit.AUTHENTICATION)
        self.authenticating += 1

    def end_authentication(self) -> None:
        """End what ``begin_authentication`` began, whatever came of it."""
        self.authenticating -= 1

    def refused(self, limit: Limit) -> OverloadedError:
        """Count a refusal; return the error that tells the client."""
        self.refusals[limit] += 1
        return OverloadedError(_MESSAGES[limit], retry_after_s=RETRY_AFTER_S)


class Reservation:
    """What one request holds of a worker's capacity, from its authentication to the end of its response."""

    __slots__ = ("_body_bytes", "_org_id", "capacity")

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._org_id: UUID | None = None
        self._body_bytes = 0

    def take_slot(self, org_id: UUID) -> None:
        """Take the request's slot, once. Raises ``OverloadedError``."""
        if not self.capacity.slots.take(org_id):
            raise self.capacity.refused(Limit.SLOTS)
        self._org_id = org_id

    def reserve_body(self, size: int) -> None:
        """Reserve bytes for the request's body, besides those that it has. Raises ``OverloadedError``.

        Only called with a slot.
        """
        if size and self._org_id is not None:
            if not self.capacity.body_bytes.take(self._org_id, size):
                raise self.capacity.refused(Limit.BODY_BYTES)
            self._body_bytes += size

    def release_body(self) -> None:
        """Give the body's bytes back: nothing needs the body any more. Idempotent."""
        size = self._body_bytes
        if size and self._org_id is not None:
            self._body_bytes = 0
            self.capacity.body_bytes.give_back(self._org_id, size)

    def release(self) -> None:
        """Give everything back: the request has ended. Idempotent."""
        if self._body_bytes:
            self.release_body()
        org_id, self._org_id = self._org_id, None
        if org_id is not None:
            self.capacity.slots.give_back(org_id)


_MESSAGES: Final = {
    Limit.AUTHENTICATION: "Too many requests are being authenticated. Retry later.",
    Limit.SLOTS: "Your organization has too many requests in flight. Retry when some of them have ended.",
    Limit.BODY_BYTES: "The request bodies that your organization has in flight are too large. Retry later.",
}
