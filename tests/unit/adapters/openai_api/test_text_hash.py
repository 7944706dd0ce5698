"""Tests of the hashes of a response's texts."""

from __future__ import annotations

import hashlib

from ibex.adapters.openai_api.text_hash import TextHashes


def test_a_text_in_parts_has_the_hash_of_the_whole_text() -> None:
    """Even a surrogate pair may be split."""
    texts = TextHashes[int]()
    assert (bool(texts), texts.hexdigest()) == (False, None)
    for part in ("a", "\ud83d", "\ude42"):
        texts.add(0, part)
    assert texts.hexdigest() == hashlib.sha256("a🙂".encode()).hexdigest()
    assert texts


def test_several_texts_are_hashed_in_the_order_of_their_keys() -> None:
    """The order of arrival does not matter."""
    one, other = TextHashes[tuple[int, int]](), TextHashes[tuple[int, int]]()
    for texts, keys in ((one, [(0, 0), (0, 1)]), (other, [(0, 1), (0, 0)])):
        for key in keys:
            texts.add(key, f"text {key}")
    assert one.hexdigest() == other.hexdigest()


def test_texts_over_the_limit_are_ignored() -> None:
    """The memory of the hashes is bounded."""
    texts = TextHashes[int]()
    for key in range(200):
        texts.add(key, "x")
    assert (texts.get(127) is None, texts.get(128) is None) == (False, True)
