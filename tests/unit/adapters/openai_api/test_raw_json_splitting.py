"""Tests of splitting JSON by one level without changing the bytes of its parts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibex.adapters.openai_api.raw_json import (
    MAX_ELEMENTS,
    MAX_MEMBERS,
    NotJsonError,
    ObjectSplitter,
    TooManyError,
    WrongTypeError,
    split_array,
)


def members(text: bytes) -> list[tuple[str, bytes]]:
    """Return the members of an object."""
    return [(name, bytes(raw)) for name, raw in ObjectSplitter().split(text)]


def test_members_keep_their_order_duplicates_and_bytes() -> None:
    """The splitter decodes names but not values."""
    text = b'{"b" : 1.0e5 ,"a":[1, 2 ],"b":"\\u00e4", "\\u0061":{}}'

    assert members(text) == [("b", b"1.0e5"), ("a", b"[1, 2 ]"), ("b", b'"\\u00e4"'), ("a", b"{}")]


def test_names_are_plain_strings() -> None:
    """The splitter does not return the internal type that allows duplicates."""
    assert [type(name) for name, _ in ObjectSplitter().split(b'{"a":1}')] == [str]


@given(
    pairs=st.lists(
        st.tuples(st.sampled_from(["", "a", "b", "role", "\u00e4", '"', "\U0001f410"]), st.sampled_from([0, "x", [1]]))
    ),
    comma=st.sampled_from([",", ", ", " ,"]),
    colon=st.sampled_from([":", ": "]),
    ascii_only=st.booleans(),
)
def test_no_duplicate_is_lost_in_any_notation(
    pairs: list[tuple[str, object]], comma: str, colon: str, *, ascii_only: bool
) -> None:
    """The fast path gives the same result, with or without spaces and escapes."""

    def written(value: object) -> str:
        return json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":"))

    text = "{" + comma.join(written(name) + colon + written(value) for name, value in pairs) + "}"
    assert [(name, json.loads(raw)) for name, raw in members(text.encode())] == pairs


@pytest.mark.parametrize("text", [b"[]", b"1", b'"a"', b"null"])
def test_another_type_is_distinguished_from_invalid_json(text: bytes) -> None:
    """JSON of another type raises the narrower error."""
    with pytest.raises(WrongTypeError):
        members(text)


@pytest.mark.parametrize("text", [b"", b"{", b'{"a":}', b'{"a":1}}'])
def test_invalid_json_is_refused(text: bytes) -> None:
    """It raises the wider error, not the narrower one."""
    with pytest.raises(NotJsonError) as raised:
        members(text)
    assert not isinstance(raised.value, WrongTypeError)


def test_the_limit_on_members_applies_to_each_object() -> None:
    """A splitter works again after it has exceeded the limit."""
    splitter = ObjectSplitter()
    most = b"{" + b",".join([b'"a":1'] * MAX_MEMBERS) + b"}"

    assert len(splitter.split(most)) == MAX_MEMBERS
    with pytest.raises(TooManyError):
        splitter.split(most[:-1] + b',"b":1}')
    assert len(splitter.split(most)) == MAX_MEMBERS


def test_elements_keep_their_bytes() -> None:
    """White space around an element is stripped, white space within it is not."""
    assert split_array(b'[ 1 , {"a" : 1} ,"x"]') == [b"1", b'{"a" : 1}', b'"x"']
    assert split_array(b"[]") == []


@pytest.mark.parametrize("count", [MAX_ELEMENTS - 1, MAX_ELEMENTS])
def test_the_maximum_number_of_elements_is_accepted(count: int) -> None:
    """Both ways of parsing give the same result up to the limit."""
    element = b'[",",1]'

    assert split_array(b"[" + b",".join([element] * count) + b"]") == [element] * count


def test_one_element_over_the_maximum_is_refused() -> None:
    """The splitter detects it without splitting the rest."""
    with pytest.raises(TooManyError):
        split_array(b"[" + b",".join([b"1"] * (MAX_ELEMENTS + 1)) + b"]")


@pytest.mark.parametrize("text", [b"{}", b"1", b'"' + b"," * MAX_ELEMENTS + b'"'])
def test_a_value_that_is_not_an_array_is_refused(text: bytes) -> None:
    """Both ways of parsing refuse it."""
    with pytest.raises(WrongTypeError):
        split_array(text)
