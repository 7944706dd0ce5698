"""Tests of identifiers from the operating system. ``tests/contracts`` has the tests that every source passes."""

from __future__ import annotations

import time

from ibex.adapters.system.ids import SystemIds


def test_an_id_contains_its_creation_time() -> None:
    """The time has a precision of a millisecond."""
    before = time.time_ns() // 1_000_000
    made = SystemIds().uuid7()
    after = time.time_ns() // 1_000_000

    assert before <= made.int >> 80 <= after


def test_two_sources_return_different_ids_and_secrets() -> None:
    """Two processes may start at the same time."""
    first, second = SystemIds(), SystemIds()

    assert not {first.uuid7() for _ in range(1_000)} & {second.uuid7() for _ in range(1_000)}
    assert first.secret() != second.secret()
