"""Personal access tokens: format, checksum and repr."""

from __future__ import annotations

import base64
import string
import zlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibex.domain.identity.model import PersonalAccessToken

TOKEN_ID = UUID("0198c0de-0000-7000-8000-000000000001")
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
TOKENS = st.builds(PersonalAccessToken.issue, st.uuids(), st.binary(min_size=32, max_size=32))


def test_a_token_has_the_specified_format() -> None:
    """It has a prefix, its id, 43 URL-safe characters of the secret, and a CRC-32 in six base-62 digits."""
    secret = bytes(range(224, 256))

    text = PersonalAccessToken.issue(TOKEN_ID, secret).reveal()

    body, checksum = text[:-6], text[-6:]
    assert body == f"ibex_pat_{TOKEN_ID}_" + base64.urlsafe_b64encode(secret).decode().rstrip("=")
    assert sum(BASE62.index(digit) * 62**place for place, digit in enumerate(reversed(checksum))) == zlib.crc32(
        body.encode()
    )
    assert len(text) == 9 + 36 + 1 + 43 + 6


@given(TOKENS)
def test_an_issued_token_can_be_parsed(token: PersonalAccessToken) -> None:
    """Every issued token is parsed again, with its id."""
    parsed = PersonalAccessToken.parse(token.reveal())

    assert parsed is not None
    assert (parsed.token_id, parsed.reveal()) == (token.token_id, token.reveal())


@given(TOKENS, st.data())
def test_a_token_with_a_changed_character_is_invalid(token: PersonalAccessToken, data: st.DataObject) -> None:
    """A typing error at any position is refused before any lookup."""
    text = token.reveal()
    position = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(BASE62 + "-_ =ä\n\x00").filter(lambda c: c != text[position]))

    assert PersonalAccessToken.parse(text[:position] + other + text[position + 1 :]) is None


@given(TOKENS, st.data())
def test_a_token_with_a_missing_or_additional_character_is_invalid(
    token: PersonalAccessToken, data: st.DataObject
) -> None:
    """The position of the character does not matter."""
    text = token.reveal()
    position = data.draw(st.integers(0, len(text)))

    assert PersonalAccessToken.parse(text[:position] + data.draw(st.sampled_from(BASE62)) + text[position:]) is None
    if position < len(text):
        assert PersonalAccessToken.parse(text[:position] + text[position + 1 :]) is None


@given(st.text())
def test_parsing_never_raises(text: str) -> None:
    """For any text, the result is a token or None."""
    assert PersonalAccessToken.parse(text) is None
    assert PersonalAccessToken.parse("ibex_pat_" + text) is None


@pytest.mark.parametrize("end", ["\n", " ", "\x00", "="])
def test_a_token_ends_with_its_checksum(end: str) -> None:
    """Nothing may follow, not even the newline that a regular expression's ``$`` would accept."""
    assert PersonalAccessToken.parse(PersonalAccessToken.issue(TOKEN_ID, bytes(32)).reveal() + end) is None


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_has_32_bytes(size: int) -> None:
    """A token cannot be created from fewer or more."""
    with pytest.raises(ValueError, match="32 bytes"):
        PersonalAccessToken.issue(TOKEN_ID, bytes(size))


@given(TOKENS)
def test_the_repr_of_a_token_contains_only_its_display_prefix(token: PersonalAccessToken) -> None:
    """Neither repr nor str nor any format contains a part of the secret."""
    for shown in (repr(token), str(token), f"{token}", f"{token!r:>200}", repr([token]), f"{token!a}"):
        assert token.display_prefix in shown
        assert token.reveal()[46:] not in shown
    assert token.display_prefix == f"ibex_pat_{token.token_id}"
    assert not hasattr(token, "__dict__")
