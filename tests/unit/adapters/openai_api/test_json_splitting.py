"""One level of JSON comes apart, and no byte of the parts changes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibex.adapters.openai_api.json_splitting import (
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


def test_members_come_in_their_order_with_duplicates_and_bytes() -> None:
    """Names are decoded, values are not."""
    text = b'{"b" : 1.0e5 ,"a":[1, 2 ],"b":"\\u00e4", "\\u0061":{}}'

    assert members(text) == [("b", b"1.0e5"), ("a", b"[1, 2 ]"), ("b", b'"\\u00e4"'), ("a", b"{}")]


def test_names_are_plain_texts() -> None:
    """What made duplicates possible does not leave the module."""
    assert [type(name) for name, _ in ObjectSplitter().split(b'{"a":1}')] == [str]


@given(
    pairs=st.lists(
        st.tuples(st.sampled_from(["", "a", "b", "role", "\u00e4", '"', "\U0001f410"]), st.sampled_from([0, "x", [1]]))
    ),
    comma=st.sampled_from([",", ", ", " ,"]),
    colon=st.sampled_from([":", ": "]),
    ascii_only=st.booleans(),
)
def test_no_duplicate_is_lost_however_the_object_is_written(
    pairs: list[tuple[str, object]], comma: str, colon: str, *, ascii_only: bool
) -> None:
    """Compact or with spaces, with escapes or without: what is read by the quick way is read as by the other."""

    def written(value: object) -> str:
        return json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":"))

    text = "{" + comma.join(written(name) + colon + written(value) for name, value in pairs) + "}"
    assert [(name, json.loads(raw)) for name, raw in members(text.encode())] == pairs


@pytest.mark.parametrize("text", [b"[]", b"1", b'"a"', b"null"])
def test_another_type_is_told_from_no_json(text: bytes) -> None:
    """Other JSON is the narrower error."""
    with pytest.raises(WrongTypeError):
        members(text)


@pytest.mark.parametrize("text", [b"", b"{", b'{"a":}', b'{"a":1}}'])
def test_what_is_no_json_is_said_to_be_none(text: bytes) -> None:
    """The wider error, and not the narrower one."""
    with pytest.raises(NotJsonError) as raised:
        members(text)
    assert not isinstance(raised.value, WrongTypeError)


def test_the_bound_on_members_is_anew_for_each_object() -> None:
    """A splitter that has given up once works on."""
    splitter = ObjectSplitter()
    most = b"{" + b",".join([b'"a":1'] * MAX_MEMBERS) + b"}"

    assert len(splitter.split(most)) == MAX_MEMBERS
    with pytest.raises(TooManyError):
        splitter.split(most[:-1] + b',"b":1}')
    assert len(splitter.split(most)) == MAX_MEMBERS


def test_elements_keep_their_bytes() -> None:
    """White space around an element is not its own, that within is."""
    assert split_array(b'[ 1 , {"a" : 1} ,"x"]') == [b"1", b'{"a" : 1}', b'"x"']
    assert split_array(b"[]") == []


@pytest.mark.parametrize("count", [MAX_ELEMENTS - 1, MAX_ELEMENTS])
def test_as_many_elements_as_are_allowed_come_apart(count: int) -> None:
    """Both ways of reading give the same, up to the bound."""
    element = b'[",",1]'

    assert split_array(b"[" + b",".join([element] * count) + b"]") == [element] * count


def test_one_element_more_is_too_many() -> None:
    """Found without splitting the rest."""
    with pytest.raises(TooManyError):
        split_array(b"[" + b",".join([b"1"] * (MAX_ELEMENTS + 1)) + b"]")


@pytest.mark.parametrize("text", [b"{}", b"1", b'"' + b"," * MAX_ELEMENTS + b'"'])
def test_what_is_no_array_is_said_to_be_none(text: bytes) -> None:
    """Whichever way it would have been read."""
    with pytest.raises(WrongTypeError):
        split_array(text)
