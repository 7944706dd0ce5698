"""Hashing of tokens for the store: HMAC-SHA256 with a pepper, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ibex.domain.identity.model import PersonalAccessToken

_MIN_PEPPER_BYTES = 16


class TokenPeppers:
    """The peppers by key id. All of them verify tokens; the last is for new tokens. The repr shows only the key ids."""

    def __init__(self, peppers: Mapping[str, bytes]) -> None:
        """Set the peppers. Raises ``ValueError`` if there is none, or if one is shorter than 16 bytes."""
        self._peppers: Mapping[str, bytes] = {}
        self._newest = ""
        self.replace(peppers)

    def replace(self, peppers: Mapping[str, bytes]) -> str | None:
        """Know these peppers from now on. The last is for new tokens, unless it was not known before.

        If it was not known before, other processes may not know it either and would refuse its tokens. Tokens are then
        created with the former pepper, and the new key id is returned: pass it to ``use`` when all processes know it.
        Raises ``ValueError`` like the constructor, and if a known key id has another value; the peppers stay the same.
        """
        if not peppers:
            raise ValueError("At least one token pepper is required.")
        if any(len(pepper) < _MIN_PEPPER_BYTES for pepper in peppers.values()):
            raise ValueError(f"A token pepper must have at least {_MIN_PEPPER_BYTES} bytes.")
        changed = [key_id for key_id, pepper in self._peppers.items() if peppers.get(key_id, pepper) != pepper]
        if changed:
            raise ValueError(f"The pepper {changed[0]} has another value. Give a new pepper a new key id.")
        last = next(reversed(dict(peppers)))
        must_wait = last not in self._peppers and self._newest in peppers
        self._peppers = dict(peppers)
        if must_wait:
            return last
        self._newest = last
        return None

    def use(self, key_id: str) -> None:
        """Create tokens with this pepper. Does nothing if it is not the last one any more."""
        if key_id == next(reversed(dict(self._peppers))):
            self._newest = key_id

    @property
    def in_use(self) -> str:
        """The key id of the pepper for new tokens."""
        return self._newest

    def hash(self, token: PersonalAccessToken) -> tuple[str, bytes]:
        """Return the newest key id and the token's digest under it."""
        return self._newest, self._digest(self._peppers[self._newest], token)

    def matches(self, token: PersonalAccessToken, key_id: str, digest: bytes) -> bool:
        """Return whether the digest is the token's. An unknown key id never matches, and takes the same time."""
        pepper = self._peppers.get(key_id)
        expected = self._digest(pepper or self._peppers[self._newest], token)
        return hmac.compare_digest(expected, digest) and pepper is not None

    def compare_dummy(self, token: PersonalAccessToken) -> None:
        """Do the work of ``matches`` for an unknown token, so that timing does not reveal that it is unknown."""
        hmac.compare_digest(self._digest(self._peppers[self._newest], token), bytes(32))

    @staticmethod
    def _digest(pepper: bytes, token: PersonalAccessToken) -> bytes:
        return hmac.digest(pepper, token.reveal().encode("ascii"), hashlib.sha256)

    def __repr__(self) -> str:
        return f"<TokenPeppers {', '.join(self._peppers)}>"
