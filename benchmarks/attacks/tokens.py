"""Tokens that are well formed and that auth has never issued, written as the format says."""

from __future__ import annotations

import base64
import secrets
import zlib
from typing import Final

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def checksum(text: str) -> str:
    """Return the CRC-32 of a text in six base62 digits."""
    value, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        value, digit = divmod(value, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits


def id_of(token: str) -> str:
    """Return the id of a token: the part that is safe to log."""
    return token.split("_")[2]


def guess(token_id: str) -> str:
    """Return a token of this id with a random secret."""
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    text = f"ibex_pat_{token_id}_{secret}"
    return text + checksum(text)
