"""The log of changes in memory, taken through what happens to a database."""

from __future__ import annotations

from uuid import UUID

import pytest

from ibex.adapters.memory.change_log import InMemoryChangeLog
from ibex.domain.freshness.change_log import Change, ChangeLogUnavailableError
from ibex.domain.freshness.kinds import Kind

ORG = UUID(int=1)


def log_of(changes: int) -> InMemoryChangeLog:
    """Return a log with so many changes."""
    log = InMemoryChangeLog()
    for _ in range(changes):
        log.append(ORG, Kind.AGENTS)
    return log


async def test_a_position_of_another_incarnation_cannot_be_resumed_from() -> None:
    """Although nothing was pruned; the position that is returned can be."""
    log = log_of(3)
    before = (await log.read(None)).position
    log.begin_incarnation()

    read = await log.read(before)
    assert read.changes is None
    log.append(ORG, Kind.TOKENS)
    assert (await log.read(read.position)).changes == [Change(ORG, Kind.TOKENS)]


async def test_a_position_before_what_was_pruned_cannot_be_resumed_from() -> None:
    """One at the horizon can, and so can every later one."""
    log = log_of(1)
    too_old = (await log.read(None)).position
    log.append(ORG, Kind.AGENTS)
    at_the_horizon = (await log.read(None)).position
    log.append(ORG, Kind.DIRECTIVES)
    log.prune(keep=1)

    assert (await log.read(too_old)).changes is None
    assert (await log.read(at_the_horizon)).changes == [Change(ORG, Kind.DIRECTIVES)]
    assert (await log.read((await log.read(None)).position)).changes == []


async def test_a_log_that_cannot_be_reached_says_so() -> None:
    """And is read again as soon as it can be; nothing is lost meanwhile."""
    log = log_of(0)
    position = (await log.read(None)).position
    log.reachable = False
    log.append(ORG, Kind.AGENTS)
    with pytest.raises(ChangeLogUnavailableError):
        await log.read(position)
    log.reachable = True
    assert (await log.read(position)).changes == [Change(ORG, Kind.AGENTS)]
