"""Tests of the part of request parsing that all operations share. ``test_chat_parser`` tests it in detail."""

from __future__ import annotations

import asyncio

import pytest

from ibex.adapters.openai_api.body_parser import MAX_STRUCTURE, run_in_steps, split_body
from ibex.domain.errors import InvalidJsonError, ValidationError


async def test_a_large_body_is_split_in_steps() -> None:
    """The event loop runs other tasks between the steps."""
    body = b'{"model":"m","input":"' + b"x" * (4 << 20) + b'"}'
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    members = await run_in_steps(split_body(body))
    counting.cancel()

    assert [member.name for member in members] == ["model", "input"]
    assert turns > 3


@pytest.mark.parametrize("body", [b"", b"[]", b'{"a":"\xff"}', b"{" * 3_000_000])
async def test_a_body_that_is_not_a_json_object_or_is_nested_too_deep_is_refused(body: bytes) -> None:
    """This applies to small and large bodies."""
    with pytest.raises((InvalidJsonError, ValidationError)):
        await run_in_steps(split_body(body))


async def test_a_body_with_too_many_brackets_and_commas_is_refused() -> None:
    """Parsing it would take too long."""
    body = b'{"input":[' + b"1," * (MAX_STRUCTURE * 3) + b"1]}"
    with pytest.raises(ValidationError, match="brackets and commas"):
        await run_in_steps(split_body(body))


async def test_the_depth_check_of_one_member_may_be_deferred() -> None:
    """The depth of all other members is checked at once."""
    deep = b"[" * 100 + b"]" * 100
    (member,) = await run_in_steps(split_body(b'{"a":' + deep + b"}", checked_later="a"))
    assert member.raw == deep
    with pytest.raises(ValidationError):
        await run_in_steps(split_body(b'{"a":' + deep + b"}", checked_later="b"))
