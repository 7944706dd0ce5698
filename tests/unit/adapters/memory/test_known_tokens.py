"""No filter at all."""

from __future__ import annotations

from uuid import UUID

from ibex.adapters.memory.known_tokens import NoFilter


async def test_no_token_is_excluded() -> None:
    """Every unknown one is looked up."""
    assert not await NoFilter().excludes(UUID(int=1))
