"""Tests of the scanner that replaces and captures members while a JSON object passes."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibex.adapters.openai_api.member_scanner import MAX_VALUE_BYTES, MemberScanner, Path

TARGET = ("response", "instructions")
NEW = b'"the client\'s"'

names = st.sampled_from(["response", "instructions", "input", 'a "quoted" one', "id", "\\", "é🙂"]) | st.text(
    max_size=5
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)
objects = st.dictionaries(names, values | st.dictionaries(names, values, max_size=4), max_size=4)


def written(value: Any, *, spaced: bool = False, escaped: bool = True) -> bytes:
    """Return the JSON text of a value."""
    separators = (" ,\n", "\t: ") if spaced else (",", ":")
    return json.dumps(value, separators=separators, ensure_ascii=escaped).encode("utf-8", "surrogatepass")


def pieces(text: bytes, cuts: list[int]) -> list[bytes]:
    """Cut a text at any positions."""
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def scanned(scanner: MemberScanner, chunks: list[bytes]) -> bytes:
    """Return all that the scanner forwards."""
    return b"".join([scanner.feed(chunk) for chunk in chunks]) + scanner.finish()


def replacing(value: bytes = NEW) -> MemberScanner:
    """Return a scanner that replaces the instructions of a response."""
    return MemberScanner(frozenset(), {TARGET: lambda _: value})


@given(value=objects, spaced=st.booleans(), escaped=st.booleans(), cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_only_the_value_at_the_path_changes(
    value: dict[str, Any], *, spaced: bool, escaped: bool, cuts: list[int]
) -> None:
    """This holds for any object, white space, escapes and chunks."""
    text = written(value, spaced=spaced, escaped=escaped)

    found = scanned(replacing(), pieces(text, cuts))

    response = value.get("response")
    if isinstance(response, dict) and "instructions" in response:
        changed = {**value, "response": {**response, "instructions": json.loads(NEW)}}
        assert json.loads(found) == changed
    else:
        assert found == text


@given(value=objects, spaced=st.booleans(), cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_a_captured_value_is_forwarded_unchanged(value: dict[str, Any], *, spaced: bool, cuts: list[int]) -> None:
    """The value may be of any type."""
    text = written(value, spaced=spaced)
    paths = frozenset({("id",), ("response", "id"), TARGET})
    scanner = MemberScanner(paths)

    assert scanned(scanner, pieces(text, cuts)) == text
    expected: dict[Path, Any] = {("id",): value["id"]} if "id" in value else {}
    if isinstance(value.get("response"), dict):
        expected |= {
            ("response", name): value["response"][name] for name in ("id", "instructions") if name in value["response"]
        }
    assert {path: json.loads(raw) for path, raw in scanner.captured.items()} == expected
    assert scanner.is_done


def test_a_name_with_escapes_matches() -> None:
    """The decoded name counts."""
    text = b'{"respons\\u0065":{"instr\\u0075ctions":"secret"}}'

    assert scanned(replacing(), [text]) == text.replace(b'"secret"', NEW)


def test_the_same_name_at_another_path_is_ignored() -> None:
    """The name may be a value, within an array, or at another depth."""
    text = b'{"instructions":1,"response":{"tools":[{"instructions":2}],"x":{"instructions":3},"y":"instructions"}}'

    assert scanned(replacing(), [text]) == text


def test_every_duplicate_is_replaced() -> None:
    """The client's parser may read the first or the last one."""
    text = b'{"response":{"instructions":"a","instructions":"b"},"response":{"instructions":"c"}}'

    assert scanned(replacing(), [text]).count(NEW) == 3


@pytest.mark.parametrize("size", [MAX_VALUE_BYTES - 2, MAX_VALUE_BYTES + 1, 3 * MAX_VALUE_BYTES])
def test_a_value_over_the_limit_is_not_buffered(size: int) -> None:
    """The function gets None, and no part of the value is forwarded."""
    given_values: list[bytes | None] = []

    def replace(value: bytes | None) -> bytes:
        given_values.append(value)
        return b"null"

    scanner = MemberScanner(frozenset(), {("a",): replace})
    text = b'{"a":"' + b"x" * size + b'","b":1}'

    assert scanned(scanner, [text[at : at + 65_536] for at in range(0, len(text), 65_536)]) == b'{"a":null,"b":1}'
    (value,) = given_values
    assert (value is None) == (size + 2 > MAX_VALUE_BYTES)


@pytest.mark.parametrize("cut", range(80))
def test_the_object_may_be_the_data_of_an_event(cut: int) -> None:
    """Several lines may begin with ``data:``, and chunks may end anywhere."""
    event = b' {"type":"x",\ndata: "response": {\ndata:  "instructions": "a"\ndata: , "id": null\ndata: }}\n\n'

    found = scanned(replacing(), [event[:cut], event[cut:]])

    assert found == event.replace(b'"a"', NEW)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_a_captured_value_may_span_data_lines(line_end: bytes) -> None:
    """The field names of an event are forwarded, and are no part of the captured value."""
    text = b'{"response":{"usage":{"a": 1,' + line_end + b'data: "b": [2,' + line_end + b"data:3]}}}"
    scanner = MemberScanner(frozenset({("response", "usage")}))

    assert scanner.feed(text) + scanner.finish() == text
    assert json.loads(scanner.captured["response", "usage"]) == {"a": 1, "b": [2, 3]}


def test_bytes_after_the_object_are_forwarded() -> None:
    """They may be any bytes."""
    scanner = replacing()

    assert (
        scanned(scanner, [b'{"a":1}', b'{"response":{"instructions":1}}']) == b'{"a":1}{"response":{"instructions":1}}'
    )


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_arbitrary_bytes_are_forwarded_without_an_error(text: bytes, cuts: list[int]) -> None:
    """This includes bytes that are not JSON."""
    assert scanned(MemberScanner(frozenset({("a",)})), pieces(text, cuts)) == text
