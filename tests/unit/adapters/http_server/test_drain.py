"""Tests of the shutdown switch."""

from __future__ import annotations

from ibex.adapters.http_server.drain import Drain


def test_a_drain_begins_once() -> None:
    """Another call has no effect."""
    drain = Drain()

    assert not drain.begun
    drain.begin()
    drain.begin()
    assert drain.begun
