"""Tests of objects and arrays whose values keep their bytes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ibex.adapters.openai_api.raw_json import Member, encode_array, encode_object, put

NAMES = st.text(st.characters(exclude_categories=()), max_size=8)
VALUES = st.sampled_from([b"1", b"1.50", b'"\\u00e4"', b"[ 1 ,2 ]", b'{"a" : null}', b"true", '"ä"'.encode()])
MEMBERS = st.lists(st.builds(Member, NAMES, VALUES), max_size=6).map(tuple)


@given(MEMBERS)
def test_an_object_is_built_from_the_bytes_of_its_members(members: tuple[Member, ...]) -> None:
    """The result parses to the same members in the same order, including duplicates."""
    pairs = json.loads(encode_object(members), object_pairs_hook=list)

    assert pairs == [(m.name, json.loads(m.raw, object_pairs_hook=list)) for m in members]


@given(st.lists(VALUES))
def test_an_array_is_built_from_the_bytes_of_its_elements(elements: list[bytes]) -> None:
    """The bytes of the elements do not change."""
    assert encode_array(elements) == b"[" + b",".join(elements) + b"]"


@given(MEMBERS, NAMES)
def test_putting_a_member_keeps_the_position_of_all_others(members: tuple[Member, ...], name: str) -> None:
    """Every member of the same name is replaced, so that no duplicate disagrees. A new name is added at the end."""
    member = Member(name, b'"new"')

    result = put(members, member)

    if any(m.name == name for m in members):
        assert result == tuple(member if m.name == name else m for m in members)
    else:
        assert result == (*members, member)
