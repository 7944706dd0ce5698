"""Tests of the commands for epochs, on a scripted link. The contract suite runs them on Redis."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from harness.memory.clock import ManualClock
from harness.memory.ids import SequentialIds
from harness.simulated_time import LoopClock, in_simulated_time
from ibex.adapters.redis.epochs import ATTEMPTS, READ_TIMEOUT_S, RedisEpochs
from ibex.adapters.redis.keys import READ_OR_CREATE
from ibex.adapters.redis.server import RedisReply

if TYPE_CHECKING:
    from collections.abc import Callable

ORG = UUID(int=1)
KEY = f"ibex:{{{ORG}}}:epoch"


@dataclass(slots=True)
class ScriptedLink:
    """A link that returns the replies of a test in order (None: no reply) and records commands."""

    replies: list[Any]
    hangs: bool = False
    commands: list[tuple[Any, ...]] = field(default_factory=list)

    async def execute(
        self, tag: object, _key: object, build: Callable[[int], tuple[Any, ...]]
    ) -> tuple[RedisReply | None, int]:
        """Return the next reply."""
        assert tag == ORG
        self.commands.append(build(1))
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        reply = self.replies.pop(0)
        return (None if reply is None else RedisReply(7, reply, 1)), 1


def epochs_over(link: ScriptedLink) -> RedisEpochs:
    """Return epochs over a link."""
    return RedisEpochs(cast("Any", link), ManualClock(), SequentialIds())


async def test_an_epoch_has_its_organizations_hash_tag_and_expires() -> None:
    """In a Redis Cluster, the epoch is in the same slot as the organization's counts."""
    link = ScriptedLink([b"one", b"OK"])
    epochs = epochs_over(link)

    assert (await epochs.read_or_create(ORG)).value == "one"
    assert await epochs.replace(ORG)

    (read, replace) = link.commands
    assert read[:4] == ("EVALSHA", READ_OR_CREATE.sha, 1, KEY)
    assert (replace[0], replace[1], replace[3:]) == ("SET", KEY, ("EX", 86_400))
    assert read[4] != replace[2]


async def test_each_attempt_to_replace_an_epoch_uses_a_new_value() -> None:
    """Redis may have stored the value of a lost attempt, and another process may have replaced it since."""
    link = ScriptedLink([None, None, b"OK"])

    assert await epochs_over(link).replace(ORG)

    assert len({command[2] for command in link.commands}) == len(link.commands) == 3


async def test_a_replacement_fails_after_all_attempts() -> None:
    """The watch delivers the change to the workers."""
    link = ScriptedLink([None] * ATTEMPTS)

    assert not await epochs_over(link).replace(ORG)
    assert link.replies == []


async def test_without_a_valid_reply_the_epoch_is_unknown() -> None:
    """An unknown epoch validates nothing. Validation continues without it."""
    for reply in (None, 7, [b"one"]):
        epoch = await epochs_over(ScriptedLink([reply])).read_or_create(ORG)

        assert (epoch.value, epoch.was_read) == (None, False)


@in_simulated_time
async def test_a_hanging_link_delays_a_validation_by_10_ms() -> None:
    """This limit does not depend on the link's own timeout."""
    clock = LoopClock()
    epochs = RedisEpochs(cast("Any", ScriptedLink([], hangs=True)), clock, SequentialIds())
    began_ns = clock.monotonic_ns()

    epoch = await epochs.read_or_create(ORG)

    assert not epoch.was_read
    assert epoch.asked_ns == began_ns
    assert clock.monotonic_ns() - began_ns == int(READ_TIMEOUT_S * 1_000_000_000) == 10_000_000
