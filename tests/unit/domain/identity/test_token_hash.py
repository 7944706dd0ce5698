"""Hashing of tokens for the store."""

from __future__ import annotations

import hashlib
import hmac
from uuid import UUID

import pytest

from ibex.domain.identity.model import PersonalAccessToken
from ibex.domain.identity.token_hash import TokenPeppers

OLD = b"an old pepper, 21 byt"
NEW = b"a new pepper of 24 bytes"
TOKEN = PersonalAccessToken.issue(UUID(int=1), bytes(32))
OTHER = PersonalAccessToken.issue(UUID(int=1), bytes(31) + b"\x01")


def test_a_digest_is_the_hmac_of_the_whole_token_under_the_newest_pepper() -> None:
    """The digest equals the standard library's HMAC-SHA256."""
    key_id, digest = TokenPeppers({"old": OLD, "new": NEW}).hash(TOKEN)

    assert (key_id, digest) == ("new", hmac.new(NEW, TOKEN.reveal().encode(), hashlib.sha256).digest())


def test_a_token_matches_its_own_digest_only() -> None:
    """Another secret with the same id does not match, nor does another digest."""
    peppers = TokenPeppers({"k": NEW})
    key_id, digest = peppers.hash(TOKEN)

    assert peppers.matches(TOKEN, key_id, digest)
    assert not peppers.matches(OTHER, key_id, digest)
    assert not peppers.matches(TOKEN, key_id, bytes(32))
    assert not peppers.matches(TOKEN, key_id, b"")


def test_tokens_of_an_older_pepper_still_match() -> None:
    """A rotation adds a pepper: digests with the older ones stay valid."""
    key_id, digest = TokenPeppers({"old": OLD}).hash(TOKEN)

    assert TokenPeppers({"old": OLD, "new": NEW}).matches(TOKEN, key_id, digest)


def test_tokens_of_a_removed_pepper_match_no_digest() -> None:
    """The key id must match too, even if the digest is the one under the newest pepper."""
    peppers = TokenPeppers({"new": NEW})
    _, digest_under_newest = peppers.hash(TOKEN)

    assert not peppers.matches(TOKEN, "old", digest_under_newest)
    assert not peppers.matches(TOKEN, "old", TokenPeppers({"old": OLD}).hash(TOKEN)[1])


def test_the_dummy_comparison_accepts_any_token() -> None:
    """It returns nothing."""
    TokenPeppers({"k": NEW}).compare_dummy(TOKEN)


@pytest.mark.parametrize("peppers", [{}, {"short": b"15 bytes of it."}, {"good": NEW, "short": b""}])
def test_a_missing_or_short_pepper_is_refused(peppers: dict[str, bytes]) -> None:
    """A pepper has at least 16 bytes. The message contains no part of it."""
    with pytest.raises(ValueError, match="pepper") as raised:
        TokenPeppers(peppers)

    assert "15 bytes" not in str(raised.value)


def test_the_repr_of_peppers_contains_only_key_ids() -> None:
    """Later changes of the mapping have no effect."""
    given = {"old": OLD, "new": NEW}
    peppers = TokenPeppers(given)
    given.clear()

    assert repr(peppers) == "<TokenPeppers old, new>"
    assert peppers.hash(TOKEN)[0] == "new"


def test_a_pepper_is_known_before_it_is_used() -> None:
    """A new last one must wait, until it is used or was known before."""
    peppers = TokenPeppers({"old": OLD})
    assert peppers.replace({"old": OLD, "new": NEW}) == "new"
    assert peppers.hash(TOKEN)[0] == peppers.in_use == "old"
    assert peppers.matches(TOKEN, *TokenPeppers({"new": NEW}).hash(TOKEN))

    peppers.use("old")
    assert peppers.in_use == "old"
    peppers.use("new")
    assert peppers.in_use == "new"
    assert peppers.replace({"new": NEW, "old": OLD}) is None
    assert peppers.in_use == "old"


def test_a_pepper_that_was_in_use_and_is_removed_is_replaced_at_once() -> None:
    """Nothing could verify its tokens."""
    peppers = TokenPeppers({"old": OLD})

    assert peppers.replace({"new": NEW}) is None
    assert peppers.in_use == "new"


def test_a_known_pepper_cannot_get_another_value() -> None:
    """All tokens that are kept under it would be refused. The peppers stay the same."""
    peppers = TokenPeppers({"old": OLD})
    kept = peppers.hash(TOKEN)

    with pytest.raises(ValueError, match="The pepper old has another value"):
        peppers.replace({"old": NEW})
    assert peppers.matches(TOKEN, *kept)
