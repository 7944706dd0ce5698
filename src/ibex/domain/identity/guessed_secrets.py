"""Detection of guessed secrets: counts failed attempts per token id and assigns each call to auth a share.

A token's id is safe to log, so an attacker may know it. A random secret with a known id passes the Bloom filter of live
tokens, and only auth can refuse it. ``GuessedSecrets`` counts such attempts; ``auth_calls`` limits the calls of each
share. Nothing here waits. Time is an argument, in nanoseconds of the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable
    from uuid import UUID

K = TypeVar("K", bound="Hashable")

FREE_GUESSES: Final = 5
"""Failed secrets of one token id in a minute before further attempts use the lane."""
WINDOW_S: Final = 60
CONFIRMED_S: Final = 3_600
LANE_CALLS_PER_SECOND: Final = 50
LANE_BURST: Final = 8
MAX_TOKEN_IDS: Final = 10_000
MAX_CONFIRMED: Final = 20_000
_NS: Final = 1_000_000_000


class Share(StrEnum):
    """The shares of the calls that a worker makes to auth.

    ``PROVEN`` is for tokens and agents that auth confirmed within the last hour, ``FIRST_SEEN`` for other tokens,
    ``SUSPECT`` for tokens whose id has another secret that failed or is being checked, ``LANE`` for token ids beyond
    ``FREE_GUESSES``, and ``AGENT`` for agents that were not confirmed within the last hour.
    """

    PROVEN = "proven"
    FIRST_SEEN = "first_seen"
    AGENT = "agent"
    SUSPECT = "suspect"
    LANE = "lane"


class RecentlyConfirmed(Generic[K]):
    """A set of keys that auth confirmed within the last hour. Beyond ``max_keys``, the oldest is dropped."""

    def __init__(self, max_keys: int = MAX_CONFIRMED) -> None:
        self._max_keys = max_keys
        self._confirmed_ns: dict[K, int] = {}

    def add(self, key: K, now_ns: int) -> None:
        """Record that the key was confirmed now."""
        self._confirmed_ns.pop(key, None)
        self._confirmed_ns[key] = now_ns
        if len(self._confirmed_ns) > self._max_keys:
            del self._confirmed_ns[next(iter(self._confirmed_ns))]

    def discard(self, key: K) -> None:
        """Remove a key, if it is there."""
        self._confirmed_ns.pop(key, None)

    def has(self, key: K, now_ns: int) -> bool:
        """Return whether the key was confirmed within the last hour."""
        confirmed_ns = self._confirmed_ns.get(key)
        return confirmed_ns is not None and now_ns - confirmed_ns < CONFIRMED_S * _NS

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._confirmed_ns)


@dataclass(slots=True)
class _Window:
    """The attempts at one token id since ``began_ns`` that failed or are in flight."""

    began_ns: int
    attempts: int = 0


@dataclass(slots=True)
class Attempt:
    """A secret that is being checked, and the share of its call."""

    token_id: UUID
    share: Share
    window: _Window | None = None


class GuessedSecrets:
    """Counts failed secrets per token id. Memory is bounded: beyond the maximum, the oldest ids are dropped.

    An attempt counts while it is in flight, so that parallel guesses are not all treated as the first one. Tokens are
    identified by their digest. A token that was confirmed within the last hour is never counted, whatever other secrets
    are tried with its id.
    """

    def __init__(self, *, max_ids: int = MAX_TOKEN_IDS, max_confirmed: int = MAX_CONFIRMED) -> None:
        self._max_ids = max_ids
        self._windows: dict[UUID, _Window] = {}
        self._confirmed: RecentlyConfirmed[bytes] = RecentlyConfirmed(max_confirmed)

    def begin(self, digest: bytes, token_id: UUID, now_ns: int) -> Attempt:
        """Begin to check a token. ``confirmed``, ``failed`` or ``undecided`` must follow."""
        if self._confirmed.has(digest, now_ns):
            return Attempt(token_id, Share.PROVEN)
        window = self._windows.pop(token_id, None)
        if window is None or now_ns - window.began_ns >= WINDOW_S * _NS:
            window = _Window(now_ns)
        self._windows[token_id] = window
        if len(self._windows) > self._max_ids:
            del self._windows[next(iter(self._windows))]
        window.attempts += 1
        if window.attempts == 1:
            share = Share.FIRST_SEEN
        else:
            share = Share.SUSPECT if window.attempts <= FREE_GUESSES + 1 else Share.LANE
        return Attempt(token_id, share, window)

    def confirmed(self, attempt: Attempt, digest: bytes, now_ns: int) -> None:
        """End an attempt: auth confirmed the token."""
        self._confirmed.add(digest, now_ns)
        self.undecided(attempt)

    def failed(self, attempt: Attempt, digest: bytes) -> None:
        """End an attempt: auth refused the token. The attempt still counts."""
        del attempt
        self._confirmed.discard(digest)

    def undecided(self, attempt: Attempt) -> None:
        """End an attempt without an answer from auth. The attempt no longer counts."""
        window = attempt.window
        if window is None:
            return
        window.attempts -= 1
        if window.attempts == 0 and self._windows.get(attempt.token_id) is window:
            del self._windows[attempt.token_id]

    def __len__(self) -> int:
        """Return the number of token ids."""
        return len(self._windows)


class LeakyBucket:
    """A rate limit of ``per_second`` calls per second, with bursts of ``burst`` calls."""

    def __init__(self, per_second: int = LANE_CALLS_PER_SECOND, burst: int = LANE_BURST) -> None:
        self._interval_ns = _NS // per_second
        self._allowance_ns = self._interval_ns * (burst - 1)
        self._next_ns = 0

    def reserve(self, now_ns: int, max_wait_ns: int) -> int | None:
        """Reserve a call and return how long to wait for it; None, and no reservation, if that exceeds ``max_wait_ns``.

        A reservation that is not used is lost, unless ``refund`` takes it back.
        """
        due_ns = max(self._next_ns, now_ns)
        wait_ns = max(0, due_ns - self._allowance_ns - now_ns)
        if wait_ns > max_wait_ns:
            return None
        self._next_ns = due_ns + self._interval_ns
        return wait_ns

    def refund(self) -> None:
        """Take a reservation back, so that its call does not count."""
        self._next_ns -= self._interval_ns
