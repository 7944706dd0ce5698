"""The invariants of cached identity, in a simulated world with faults (ADR 0045).

No request is served later than ``BOUND_S`` after the commit of a change that forbids it. Without a fault, no request is
served once the change is known in its region. A live token is never refused as invalid, and without a fault it is not
refused at all. ``harness.freshness_runs`` simulates as many worlds as time allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness.freshness_faults import KINDS
from harness.freshness_processes import Rules
from harness.freshness_world import ViolatedError, World
from harness.simulated_time import run_simulated
from ibex.domain.errors import InvalidTokenError
from ibex.domain.freshness.change_log import ChangesRead, Pong, WatchServer
from ibex.domain.freshness.kinds import BOUND_S
from ibex.domain.freshness.unknown_tokens import UnknownTokens
from ibex.domain.freshness.validity import Validity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from ibex.domain.freshness.change_log import WatchClient
    from ibex.domain.freshness.kinds import Kind

SECONDS = 30.0
WORLDS_A_KIND = 3
STEPS_A_KIND = 200


@pytest.mark.parametrize("fault", sorted(KINDS))
def test_the_staleness_bound_holds_under_any_single_fault(fault: str) -> None:
    """One kind of fault repeats, at any moment of the actions of operators and clients."""
    steps = served = 0
    for seed in range(WORLDS_A_KIND):
        world = World(seed, only=fault)
        run_simulated(world.live(SECONDS))

        assert max(world.worst.values(), default=0.0) <= BOUND_S
        steps += world.steps
        served += world.outcomes["served"]
    assert steps > STEPS_A_KIND
    assert served


@pytest.mark.parametrize("regions", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_the_staleness_bound_holds_under_consecutive_faults(seed: int, regions: int) -> None:
    """Each fault begins once the world has recovered from the one before, with one region and with two."""
    world = World(1_000 + seed, regions=regions)

    run_simulated(world.live(2 * SECONDS))

    assert max(world.worst.values(), default=0.0) <= BOUND_S


def test_the_same_seed_reproduces_the_same_run() -> None:
    """A failure can be reproduced to the last step."""
    stories = []
    for _ in range(2):
        world = World(7)
        run_simulated(world.live(SECONDS))
        stories.append([line[:40] for line in world.log])

    assert stories[0] == stories[1]
    assert len(stories[0]) > 100


class KeepsAll(Validity):
    """Keeps its entries when a stream does not resume."""

    def invalidate_all(self, now_ns: int) -> None:
        """Do nothing."""


class Deaf(Validity):
    """Does not invalidate the entries of an event."""

    def invalidate(self, kind: Kind, org_id: UUID, now_ns: int) -> None:
        """Do nothing."""


class Confident(Validity):
    """Serves entries regardless of their last confirmation."""

    def may_serve(self, kind: Kind, org_id: UUID, began_ns: int, now_ns: int) -> bool:
        """Check events only."""
        return began_ns > self.invalidated_ns(kind, org_id) and now_ns >= began_ns


class PongsFirst(WatchServer):
    """Answers a ping from a read that began before the ping arrived."""

    def __init__(self, log: Any) -> None:
        super().__init__(log)
        self._before: dict[str | None, ChangesRead | None] = {}

    async def _read(self, since: str | None) -> ChangesRead | None:
        earlier = self._before.get(since)
        self._before[since] = await super()._read(since)
        return earlier or self._before[since]


class SendsNoEvents(WatchServer):
    """Sends pongs without the changes."""

    def _answer(self, client: WatchClient, ping: int, read: ChangesRead | None) -> None:
        if read is not None and read.changes:
            self._positions[client] = read.position
            client.send(Pong(ping, read.position))
        else:
            super()._answer(client, ping, read)


class RefusesAtOnce(UnknownTokens):
    """Refuses a token that was created just now by the filter alone."""

    async def refuse(self, token_id: UUID) -> None:
        """Do not wait for a pong."""
        if self._filter.definitely_absent(token_id):
            raise InvalidTokenError


WORLDS = 40


def _rules_broken() -> Iterator[Any]:
    for name, fault, what, rules, seed in (
        ("a stream that does not resume evicts all", "log pruned", "forbidden", Rules(validity=KeepsAll), 27),
        ("an event invalidates", "a link auth-redis", "forbidden", Rules(validity=Deaf), 1),
        ("an entry must be confirmed", "auth killed", "forbidden", Rules(validity=Confident), 19),
        ("a read begins after its ping", "a link auth-redis", "forbidden|invalid", Rules(watch_server=PongsFirst), 0),
        ("events come before the pong", "a link auth-redis", "forbidden|invalid", Rules(watch_server=SendsNoEvents), 0),
        ("the filter waits for a pong", "slow auth-redis", "invalid, asked at", Rules(unknown_tokens=RefusesAtOnce), 0),
        ("a change replaces the epoch", "a link proxy-auth", "though all was well", Rules(replaces_epochs=False), 1),
        ("what admits is checked again", "worker paused", "forbidden", Rules(checks_again=False), 0),
    ):
        yield pytest.param(fault, what, rules, seed, id=name)


@pytest.mark.parametrize(("fault", "what", "rules", "first"), list(_rules_broken()))
def test_the_simulation_detects_a_protocol_without_one_of_its_rules(
    fault: str, what: str, rules: Rules, first: int
) -> None:
    """The failure reports its seed and the events until then.

    ``first`` is the seed of a world that has detected it before. If it no longer does, another seed may.
    """
    regions = 2 if rules.validity is Confident else 0  # in one region the epoch reveals every change
    for seed in (*range(first, WORLDS), *range(first)):
        try:
            run_simulated(World(seed, only=fault, regions=regions or 1 + seed % 2, rules=rules).live(2 * SECONDS))
        except ViolatedError as violated:
            story = str(violated)
            assert story.startswith(f"seed {seed}: ")
            if any(word in story.partition("\n")[0] for word in what.split("|")):
                return
    pytest.fail("no world shows it")
