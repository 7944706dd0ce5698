"""Tests of the nesting depth, which is counted outside strings only."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ibex.adapters.openai_api.nesting import is_deeper_than

values = st.recursive(
    st.text('[]{}"\\a', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\a', max_size=5), inner, max_size=3),
    max_leaves=20,
)


def depth(value: Any) -> int:
    """Return the nesting depth of a value."""
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@settings(max_examples=300, deadline=None)
@given(values, st.integers(0, 6))
def test_the_depth_equals_that_of_the_decoded_value(value: Any, limit: int) -> None:
    """Brackets, quotes and backslashes in strings do not count."""
    assert is_deeper_than(limit, json.dumps(value).encode()) == (depth(value) > limit)


def test_many_shallow_brackets_are_not_deep() -> None:
    """The number of elements does not matter."""
    assert not is_deeper_than(2, b"[" + b"[]," * 10_000 + b"{}]")
    assert is_deeper_than(1, b"[" + b"[]," * 10_000 + b"{}]")
