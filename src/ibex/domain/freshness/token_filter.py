"""A Bloom filter of all live tokens, in each worker, kept up to date by the watch."""

from __future__ import annotations

import asyncio
import hashlib
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from ibex.domain.freshness.change_log import Change

FALSE_POSITIVES: Final = 0.001
"""The rate of unknown tokens that the filter does not exclude, if it contains as many tokens as it is sized for."""
HASHES: Final = 10
MIN_TOKENS: Final = 10_000
PAGE_TOKENS: Final = 5_000
_BITS_PER_TOKEN: Final = math.ceil(-math.log(FALSE_POSITIVES) / math.log(2) ** 2)
_CHUNK_TOKENS: Final = 250
"""Tokens that are added in one turn of the event loop: about half a millisecond."""
RETRY_S: Final = 1.0
RECOUNT_S: Final = 600.0
"""How often live tokens are counted, so that the filter is rebuilt once half of its tokens are not live any more."""


class TokensUnavailableError(Exception):
    """The live tokens cannot be listed now."""


@value_object
class TokensPage:
    """A page of the ids of live tokens that have not expired; ``next_after`` is where the next page begins, or None."""

    token_ids: Sequence[UUID]
    next_after: UUID | None


class LiveTokens(Protocol):
    """Port: lists live tokens."""

    async def count(self) -> int:
        """Return the approximate number of live tokens. Raises ``TokensUnavailableError``."""

    async def page(self, after: UUID | None, limit: int) -> TokensPage:
        """Return up to ``limit`` tokens with ids above ``after``, in order of id. Pass None for the first page.

        Raises ``TokensUnavailableError``.
        """


class BloomFilter:
    """A Bloom filter that sets ten bits per token. Positions depend on a random key, so no client can choose them."""

    def __init__(self, tokens: int, key: bytes) -> None:
        """Create an empty filter for a number of tokens. ``key`` is up to 64 random bytes."""
        self.capacity = max(tokens, MIN_TOKENS)
        self._size = self.capacity * _BITS_PER_TOKEN
        self._bits = bytearray(self._size // 8 + 1)
        self._key = key
        self.added = 0

    @property
    def size_bytes(self) -> int:
        """The memory of the bits, in bytes."""
        return len(self._bits)

    def add(self, token_id: UUID) -> None:
        """Add a token. Adding it again changes nothing but ``added``."""
        bits = self._bits
        for position in self._positions(token_id):
            bits[position >> 3] |= 1 << (position & 7)
        self.added += 1

    def definitely_absent(self, token_id: UUID) -> bool:
        """Return True if the token was never added; False if it was, and for one in a thousand that were not."""
        bits = self._bits
        return any(not bits[position >> 3] & (1 << (position & 7)) for position in self._positions(token_id))

    def _positions(self, token_id: UUID) -> list[int]:
        digest = hashlib.blake2b(token_id.bytes, digest_size=16, key=self._key).digest()
        first = int.from_bytes(digest[:8], "little")
        step = int.from_bytes(digest[8:], "little") | 1
        size = self._size
        return [(first + number * step) % size for number in range(HASHES)]


class TokenFilter:
    """The Bloom filter of one worker, as a listener of its watch.

    It excludes nothing until it is complete. It is built page by page after the watch has begun; a token that is
    created during the build arrives as an event. A stream that does not resume discards the filter.
    """

    def __init__(self, live_tokens: LiveTokens, key: bytes) -> None:
        self._live_tokens = live_tokens
        self._key = key
        self._complete: BloomFilter | None = None
        self._building: BloomFilter | None = None
        self._since_build: list[UUID] = []
        self._should_build = asyncio.Event()

    @property
    def is_complete(self) -> bool:
        """Whether the filter excludes tokens at all."""
        return self._complete is not None

    @property
    def size_bytes(self) -> int:
        """The memory of the filter, in bytes."""
        return 0 if self._complete is None else self._complete.size_bytes

    def definitely_absent(self, token_id: UUID) -> bool:
        """Return True if the filter does not contain the token; False if it may, or if the filter is not complete."""
        return self._complete is not None and self._complete.definitely_absent(token_id)

    def reset(self) -> None:
        """Discard the filter and build it again: see ``WatchListener``."""
        self._complete = self._building = None
        self._since_build = []
        self._should_build.set()

    def changed(self, change: Change) -> None:
        """Add a token that was created or restored: see ``WatchListener``."""
        token_id = change.live_token
        if token_id is None:
            return
        if self._building is not None:
            self._since_build.append(token_id)
        if self._complete is not None:
            self._complete.add(token_id)
            if self._complete.added > self._complete.capacity and self._building is None:
                self._should_build.set()

    def confirmed(self, ping_sent_ns: int) -> None:
        """Do nothing: see ``WatchListener``."""

    async def run(self) -> None:
        """Build the filter, and rebuild it when necessary, until cancelled."""
        while True:
            with suppress(TimeoutError):  # before Python 3.12, ``wait_for`` could lose a cancellation
                async with asyncio.timeout(RECOUNT_S):
                    await self._should_build.wait()
            try:
                if self._should_build.is_set() or await self._is_half_gone():
                    self._should_build.clear()
                    await self._build()
            except TokensUnavailableError:
                self._building, self._since_build = None, []
                self._should_build.set()
                await asyncio.sleep(RETRY_S)

    async def _is_half_gone(self) -> bool:
        if self._complete is None or self._complete.added <= MIN_TOKENS:
            return False
        return await self._live_tokens.count() < self._complete.added / 2

    async def _build(self) -> None:
        self._since_build = []
        building = self._building = BloomFilter(2 * await self._live_tokens.count(), self._key)
        after: UUID | None = None
        while True:
            page = await self._live_tokens.page(after, PAGE_TOKENS)
            for start in range(0, len(page.token_ids), _CHUNK_TOKENS):
                for token_id in page.token_ids[start : start + _CHUNK_TOKENS]:
                    building.add(token_id)
                await asyncio.sleep(0)
            if self._should_build.is_set():
                return  # the stream did not resume: an event may have been missed
            if page.next_after is None:
                break
            after = page.next_after
        for token_id in self._since_build:
            building.add(token_id)
        self._complete, self._building, self._since_build = building, None, []
