"""The commands for epochs, on a link that a test scripts; the contract's suite has what Redis makes of them."""

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
    """A link that gives the replies of a test in order, None for no answer, and records commands."""

    replies: list[Any]
    hangs: bool = False
    commands: list[tuple[Any, ...]] = field(default_factory=list)

    async def execute(
        self, tag: object, _key: object, build: Callable[[int], tuple[Any, ...]]
    ) -> tuple[RedisReply | None, int]:
        """Give the next reply."""
        assert tag == ORG
        self.commands.append(build(1))
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        reply = self.replies.pop(0)
        return (None if reply is None else RedisReply(7, reply, 1)), 1


def epochs_over(link: ScriptedLink) -> RedisEpochs:
    """Return the epochs behind a link."""
    return RedisEpochs(cast("Any", link), ManualClock(), SequentialIds())


async def test_an_epoch_lies_with_its_organization_and_expires() -> None:
    """A Redis Cluster has it in the slot of the organization's counts."""
    link = ScriptedLink([b"one", b"OK"])
    epochs = epochs_over(link)

    assert (await epochs.read_or_create(ORG)).value == "one"
    assert await epochs.replace(ORG)

    (read, replace) = link.commands
    assert read[:4] == ("EVALSHA", READ_OR_CREATE.sha, 1, KEY)
    assert (replace[0], replace[1], replace[3:]) == ("SET", KEY, ("EX", 86_400))
    assert read[4] != replace[2]


async def test_a_try_that_was_not_answered_is_followed_by_one_with_another_value() -> None:
    """Redis may have set the first value, and another process may have replaced it: it must not come back."""
    link = ScriptedLink([None, None, b"OK"])

    assert await epochs_over(link).replace(ORG)

    assert len({command[2] for command in link.commands}) == len(link.commands) == 3


async def test_a_replacement_that_is_never_answered_is_given_up() -> None:
    """The watch makes the change known."""
    link = ScriptedLink([None] * ATTEMPTS)

    assert not await epochs_over(link).replace(ORG)
    assert link.replies == []


async def test_an_epoch_that_is_not_answered_or_not_understood_is_unknown() -> None:
    """It proves nothing; validation goes on."""
    for reply in (None, 7, [b"one"]):
        epoch = await epochs_over(ScriptedLink([reply])).read_or_create(ORG)

        assert (epoch.value, epoch.was_read) == (None, False)


@in_simulated_time
async def test_a_link_that_hangs_costs_a_validation_10_ms() -> None:
    """Whatever the link's own time limit is."""
    clock = LoopClock()
    epochs = RedisEpochs(cast("Any", ScriptedLink([], hangs=True)), clock, SequentialIds())
    began_ns = clock.monotonic_ns()

    epoch = await epochs.read_or_create(ORG)

    assert not epoch.was_read
    assert epoch.asked_ns == began_ns
    assert clock.monotonic_ns() - began_ns == int(READ_TIMEOUT_S * 1_000_000_000) == 10_000_000
