"""The freshness protocol's invariant, in a world where things break (spec 5).

No request is served more than ``BOUND_S`` after what forbids it was committed; none at all once the change is known and
all is well; no live token is refused as invalid, nor, when all is well, for any reason. ``harness.freshness_runs`` has
as many worlds as there is time for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.freshness_faults import KINDS
from harness.freshness_world import ViolatedError, World
from harness.simulated_time import run_simulated
from ibex.adapters.memory.board import InMemoryBoard
from ibex.domain.freshness import BOUND_S

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from ibex.adapters.memory.board import Kept
    from ibex.domain.announce import Connection
    from ibex.domain.freshness import Kind

SECONDS = 30.0
WORLDS_A_KIND = 3
STEPS_A_KIND = 200


@pytest.mark.parametrize("fault", sorted(KINDS))
def test_whatever_breaks_the_bound_is_kept(fault: str) -> None:
    """One kind of fault, again and again, at any moment of what operators and clients do."""
    steps = served = 0
    for seed in range(WORLDS_A_KIND):
        world = World(seed, only=fault)
        run_simulated(world.live(SECONDS))

        assert max(world.worst.values(), default=0.0) <= BOUND_S
        steps += world.steps
        served += world.outcomes["served"]
    assert steps > STEPS_A_KIND
    assert served


@pytest.mark.parametrize("seed", range(10))
def test_one_fault_after_the_other(seed: int) -> None:
    """Any of them, once the world has settled from the one before."""
    world = World(1_000 + seed)

    run_simulated(world.live(2 * SECONDS))

    assert max(world.worst.values(), default=0.0) <= BOUND_S


def test_a_seed_is_a_world() -> None:
    """What was found once is found again: the same seed is the same story, to the last step."""
    stories = []
    for _ in range(2):
        world = World(7)
        run_simulated(world.live(SECONDS))
        stories.append([line[:40] for line in world.log])

    assert stories[0] == stories[1]
    assert len(stories[0]) > 100


class Forgetful(InMemoryBoard):
    """Says that a change is announced, and does nothing."""

    async def announce(self, connection: Connection, org_id: UUID, kinds: Iterable[Kind]) -> None:
        """Do nothing."""


class Trusting(InMemoryBoard):
    """Takes what another instance left for its own."""

    def fail_over(self, replicated: Kept | None = None, instance: str | None = None) -> None:  # noqa: ARG002 - a board's
        """Stay what it is."""
        super().fail_over(replicated, self.instance)


@pytest.mark.parametrize(
    ("board_of", "fault", "what"),
    [
        (Forgetful, "a link proxy-auth", "though all was well and the change known"),
        (Forgetful, "a link auth-redis", "forbidden"),
        (Trusting, "redis failed over", "invalid, asked at"),
    ],
)
def test_a_protocol_that_does_not_keep_its_promise_is_found_out(
    board_of: type[InMemoryBoard], fault: str, what: str
) -> None:
    """By a story that says which seed it is and what happened until then."""
    stories = []
    for seed in range(8):
        try:
            run_simulated(World(seed, only=fault, board_of=board_of).live(2 * SECONDS))
        except ViolatedError as violated:
            stories.append((seed, str(violated)))

    assert stories
    assert all(story.startswith(f"seed {seed}: ") for seed, story in stories)
    assert any(what in story.partition("\n")[0] for _, story in stories)
