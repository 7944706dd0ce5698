"""Tests of the commands for shared directives. The contract suite tests their effect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from harness.chat_scene import DIRECTIVE
from harness.memory.clock import ManualClock
from ibex.adapters.redis.shared_directives import RedisSharedDirectives
from ibex.domain.directives.seal import Seal
from ibex.domain.directives.shared import SharedDirective

if TYPE_CHECKING:
    from collections.abc import Callable

ORG, AGENT = UUID(int=1), UUID(int=2)


@dataclass(slots=True)
class RecordingLink:
    """A link that does not answer."""

    commands: list[tuple[Any, ...]] = field(default_factory=list)

    async def execute(self, _tag: object, _key: object, build: Callable[[int], tuple[Any, ...]]) -> tuple[None, int]:
        """Record the command and return no reply."""
        self.commands.append(build(1))
        return None, 1


async def test_keys_have_their_organizations_hash_tag_and_expire() -> None:
    """In a Redis Cluster they are in the slot of the organization's other keys. Every entry expires."""
    link = RecordingLink()
    shared = RedisSharedDirectives(cast("Any", link), ManualClock(), Seal(b"key"), 1.5)
    await shared.put(ORG, AGENT, "epoch", SharedDirective(DIRECTIVE))
    assert await shared.get(ORG, AGENT, "epoch") is None
    (put, get) = link.commands
    assert (put[0], put[3:]) == ("SET", ("PX", 1_500))
    assert put[1].startswith(f"ibex:{{{ORG}}}:directive:{AGENT}:")
    assert get == ("GET", put[1])
