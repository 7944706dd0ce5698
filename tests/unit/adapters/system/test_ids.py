"""Identifiers from the operating system; what every source keeps is in ``tests/contracts``."""

from __future__ import annotations

import time

from ibex.adapters.system.ids import SystemIds


def test_an_id_holds_the_time_of_its_making() -> None:
    """To the millisecond."""
    before = time.time_ns() // 1_000_000
    made = SystemIds().uuid7()
    after = time.time_ns() // 1_000_000

    assert before <= made.int >> 80 <= after


def test_two_sources_share_nothing() -> None:
    """Two processes that start together draw different ids and secrets."""
    first, second = SystemIds(), SystemIds()

    assert not {first.uuid7() for _ in range(1_000)} & {second.uuid7() for _ in range(1_000)}
    assert first.secret() != second.secret()
