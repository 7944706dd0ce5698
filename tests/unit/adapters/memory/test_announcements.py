"""Announcements that are only remembered."""

from __future__ import annotations

from uuid import UUID

from ibex.adapters.memory.announcements import RecordingAnnouncements
from ibex.domain.freshness import Kind

ORG, TOKEN = UUID(int=1), UUID(int=2)


async def test_what_was_announced_is_there_in_order() -> None:
    """Changes and new tokens, each in a list of its own."""
    announced = RecordingAnnouncements()

    await announced.changed(ORG, Kind.AGENTS)
    await announced.token_created(TOKEN)
    await announced.changed(ORG, Kind.TOKENS)

    assert announced.changes == [(ORG, Kind.AGENTS), (ORG, Kind.TOKENS)]
    assert announced.new_tokens == [TOKEN]
