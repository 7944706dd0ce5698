"""Admission control: a worker's capacity, divided so that no organization can starve another (ADR 0042).

Any organization can use the first three quarters of a capacity. The last quarter is reserved for organizations that
hold less than a tenth of the capacity. One organization alone can therefore use three quarters, and a second one still
gets capacity. Nothing queues here: a request is admitted or refused at once.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ibex.domain.errors import OverloadedError

if TYPE_CHECKING:
    from uuid import UUID

RESERVED_DIVISOR: Final = 4
"""The divisor of the reserved part: a quarter."""
SMALL_DIVISOR: Final = 10
"""The divisor of the threshold: an organization that holds less than a tenth may use the reserved part."""
RETRY_AFTER_S: Final = 1
BODY_BYTES_PER_S: Final = 64 << 20
"""The rate at which a worker reads the bodies of one organization beyond a burst of ``BODY_BURST_BYTES``."""
BODY_BURST_BYTES: Final = 32 << 20
_MAX_LIMITED: Final = 1_024


class Limit(StrEnum):
    """A limit of a worker that can refuse a request."""

    AUTHENTICATION = "authentication"
    SLOTS = "slots"
    BODY_BYTES = "body_bytes"


class FairShare:
    """A capacity that organizations share. ``take`` and ``release`` run in constant time.

    Memory is used only for organizations that hold an amount.
    """

    __slots__ = ("_held", "_open", "capacity", "in_use")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.in_use = 0
        self._open = capacity - capacity // RESERVED_DIVISOR
        self._held: dict[int, int] = {}  # keyed by UUID.int, because UUID computes its hash in Python each time

    def take(self, org_id: UUID, amount: int = 1) -> bool:
        """Take an amount for an organization. Return False and take nothing if that exceeds its share."""
        key = org_id.int
        held = self._held[key] if key in self._held else 0  # noqa: SIM401 - saves a call
        in_use = self.in_use + amount
        if in_use > self._open and (in_use > self.capacity or held * SMALL_DIVISOR >= self.capacity):
            return False
        self._held[key] = held + amount
        self.in_use = in_use
        return True

    def release(self, org_id: UUID, amount: int = 1) -> None:
        """Release what ``take`` granted, or a part of it."""
        key = org_id.int
        left = self._held[key] - amount
        if left:
            self._held[key] = left
        else:
            del self._held[key]
        self.in_use -= amount

    def held_by(self, org_id: UUID) -> int:
        """Return the amount that an organization holds."""
        return self._held.get(org_id.int, 0)

    def __len__(self) -> int:
        """Return the number of organizations that hold an amount."""
        return len(self._held)


class BodyRateLimit:
    """A token bucket for each organization that limits the rate at which its bodies are read.

    An organization that sends many large bodies at once would otherwise take most of the worker's CPU time. A single
    body that fits in the burst is never delayed.
    """

    __slots__ = ("_burst_s", "_bytes_per_s", "_due")

    def __init__(self, bytes_per_s: int = BODY_BYTES_PER_S, burst_bytes: int = BODY_BURST_BYTES) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst_s = burst_bytes / bytes_per_s
        self._due: dict[int, float] = {}  # when the bytes read so far would have arrived at this rate

    @property
    def organizations(self) -> int:
        """The number of organizations with a bucket."""
        return len(self._due)

    def delay_s(self, org_id: UUID, size: int, now_s: float) -> float:
        """Count ``size`` bytes as read. Return how long to wait before reading more, in seconds.

        ``now_s`` is the time of a monotonic clock, in seconds. All calls must use the same clock.
        """
        key = org_id.int
        idle = now_s - self._burst_s
        due = max(self._due.get(key, idle), idle) + size / self._bytes_per_s
        self._due[key] = due
        if len(self._due) > _MAX_LIMITED:
            self._due = {other: at for other, at in self._due.items() if at > idle}
        return max(0.0, due - now_s)


class Capacity:
    """The capacity of one worker: request slots, body bytes, and concurrent authentications.

    The organization of a request is unknown until it is authenticated. Until then, the request takes no slot and counts
    against a limit of its own.
    """

    __slots__ = ("_most_authenticating", "authenticating", "body_bytes", "body_rate", "refusals", "slots")

    def __init__(self, *, slots: int, body_bytes: int, max_authenticating: int) -> None:
        self.slots = FairShare(slots)
        self.body_bytes = FairShare(body_bytes)
        self.body_rate = BodyRateLimit()
        self.authenticating = 0
        self.refusals = dict.fromkeys(Limit, 0)
        self._most_authenticating = max_authenticating

    def begin_authentication(self) -> None:
        """Admit a request to authentication. ``end_authentication`` must follow. Raises ``OverloadedError``."""
        if self.authenticating >= self._most_authenticating:
            raise self.refused(Limit.AUTHENTICATION)
        self.authenticating += 1

    def end_authentication(self) -> None:
        """End an authentication, whatever its outcome."""
        self.authenticating -= 1

    def refused(self, limit: Limit) -> OverloadedError:
        """Count a refusal and return the error for the client."""
        self.refusals[limit] += 1
        return OverloadedError(_MESSAGES[limit], retry_after_s=RETRY_AFTER_S)


class Reservation:
    """One request's part of a worker's capacity, from its authentication to the end of its response."""

    __slots__ = ("_body_bytes", "_org_id", "capacity")

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._org_id: UUID | None = None
        self._body_bytes = 0

    def take_slot(self, org_id: UUID) -> None:
        """Take a slot. Call it once. Raises ``OverloadedError``."""
        if not self.capacity.slots.take(org_id):
            raise self.capacity.refused(Limit.SLOTS)
        self._org_id = org_id

    def reserve_body(self, size: int) -> None:
        """Reserve more bytes for the request's body. Raises ``OverloadedError``.

        Only called once the request has a slot.
        """
        if size and self._org_id is not None:
            if not self.capacity.body_bytes.take(self._org_id, size):
                raise self.capacity.refused(Limit.BODY_BYTES)
            self._body_bytes += size

    def body_delay_s(self, size: int, now_s: float) -> float:
        """Count ``size`` bytes of the body as read. Return how long to wait before reading more, in seconds."""
        return 0.0 if self._org_id is None else self.capacity.body_rate.delay_s(self._org_id, size, now_s)

    def release_body(self) -> None:
        """Release the bytes of the body, which nothing needs any more. Idempotent."""
        size = self._body_bytes
        if size and self._org_id is not None:
            self._body_bytes = 0
            self.capacity.body_bytes.release(self._org_id, size)

    def release(self) -> None:
        """Release the slot and the bytes at the end of the request. Idempotent."""
        if self._body_bytes:
            self.release_body()
        org_id, self._org_id = self._org_id, None
        if org_id is not None:
            self.capacity.slots.release(org_id)


_MESSAGES: Final = {
    Limit.AUTHENTICATION: "Too many requests are being authenticated. Retry later.",
    Limit.SLOTS: "Your organization has too many requests in flight. Retry when some have finished.",
    Limit.BODY_BYTES: "The request bodies that your organization has in flight are too large. Retry later.",
}
