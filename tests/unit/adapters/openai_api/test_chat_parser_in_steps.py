"""Tests that no body blocks the event loop: the time between two of its cycles is bounded (ADR 0043)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from ibex.adapters.openai_api.chat_parser import chat_request_steps
from ibex.domain.errors import InvalidJsonError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (60 << 10, 2 << 20, (10 << 20) - 4_096)
MOST_PASSES = 20
"""One step at most, as passes over ten mebibytes of plain text. Before there were steps it was some 200."""


def nested(value: bytes) -> bytes:
    """Return a value that is nested 40 levels deep."""
    return b"[" * 40 + value + b"]" * 40


def filled(unit: bytes, size: int, before: bytes = b"[", after: bytes = b"0]") -> bytes:
    """Return the unit, repeated up to the size."""
    return before + unit * (size // len(unit)) + after


VALUES: dict[str, Callable[[int], bytes]] = {
    "empty arrays": lambda size: filled(b"[],", size),
    "empty objects": lambda size: filled(b"{},", size),
    "objects": lambda size: filled(b'{"a":1},', size),
    "numbers": lambda size: filled(b"0,", size),
    "deep arrays": lambda size: filled(nested(b"0") + b",", size),
    "brackets as texts": lambda size: filled(b'"[",', size),
    "texts and arrays": lambda size: filled(b'"a",[],', size),
    "members": lambda size: filled(b'"a":1,', size, b"{", b'"b":1}'),
    "a text of brackets": lambda size: filled(b"[", size, b'"', b'"'),
    "a text of quotes and brackets": lambda size: filled(b'\\"[', size, b'"', b'"'),
    "a text of backslashes": lambda size: filled(b"\\\\", size, b'"', b'"'),
    "a text of escapes": lambda size: filled(b"\\u00e4", size, b'"', b'"'),
    "a text of four bytes a character": lambda size: filled("\U0001f600".encode(), size, b'"', b'"'),
    "long numbers": lambda size: filled(b"1" * 10_000 + b",", size),
    "arrays that do not end": lambda size: filled(b"[],", size, after=b""),
    "parts": lambda size: filled(b'{"type":"text","text":"x"},', size),
    "wrong messages": lambda size: filled(b'{"role":1},', size),
    "roles": lambda size: filled(b"{" + b",".join([b'"role":"user"'] * 1_000) + b"},", size),
    "messages of many members": lambda size: filled(
        b"{" + b",".join(b'"k%d":0' % n for n in range(200)) + b',"role":"user"},', min(size, 4_000 * 1_900)
    ),
}
PLACES: dict[str, Callable[[bytes], bytes]] = {
    "member": lambda value: b'{"model":"m","messages":[{"role":"user"}],"x":%b}' % value,
    "content": lambda value: b'{"model":"m","messages":[{"role":"user","content":%b}]}' % value,
    "messages": lambda value: b'{"model":"m","messages":%b}' % value,
    "model": lambda value: b'{"messages":[{"role":"user"}],"model":%b}' % value,
    "stream_options": lambda value: b'{"model":"m","messages":[{"role":"user"}],"stream_options":%b}' % value,
    "name": lambda value: b'{"model":"m","messages":[{"role":"user"}],%b:0}' % value,
}


def timed(work: Callable[[], object]) -> float:
    """Return the processor time of a call in this thread, in seconds."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def longest_step(body: bytes) -> float:
    """Return the processor time of the longest step of parsing a body, in seconds."""
    reading, longest = chat_request_steps(body), 0.0
    while True:
        began = time.thread_time()
        try:
            next(reading)
        except (StopIteration, InvalidJsonError, ValidationError):
            return max(longest, time.thread_time() - began)
        longest = max(longest, time.thread_time() - began)


@pytest.fixture(scope="module")
def one_pass() -> float:
    """Return the time that the parser takes on this machine for ten mebibytes of plain text, in seconds."""
    text = b'{"x":"' + b"x" * (10 << 20) + b'"}'
    decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
    return sorted(timed(lambda: decoder.decode(text)) for _ in range(9))[4]


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("place", PLACES)
def test_every_step_is_short(one_pass: float, kind: str, place: str) -> None:
    """This holds for any content at any place. The best of three runs counts, as other processes may delay a step."""
    for size in SIZES:
        if place == "name" and not VALUES[kind](9).startswith(b'"'):
            continue
        body = PLACES[place](VALUES[kind](size))
        assert any(longest_step(body) < MOST_PASSES * one_pass for _ in range(3)), size
