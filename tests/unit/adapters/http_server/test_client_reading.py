"""Tests that a client that does not read is detected, also if the event loop is blocked."""

from __future__ import annotations

import asyncio

from harness.server_connection import RecordingTransport
from harness.simulated_time import SimulatedLoop, in_simulated_time
from ibex.adapters.http_server.client_reading import ClientReading
from ibex.adapters.http_server.connections import ConnectionLimits


@in_simulated_time
async def test_a_client_that_reads_nothing_is_disconnected() -> None:
    """The time for which the event loop is blocked does not count."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    transport = RecordingTransport()
    transport.unsent = 1
    reading = ClientReading(transport, ConnectionLimits())
    reading.begin()
    loop.stand_still(100)
    await asyncio.sleep(50)
    assert not transport.aborted
    await asyncio.sleep(20)
    assert transport.aborted


@in_simulated_time
async def test_a_client_is_not_monitored_without_pending_data() -> None:
    """Monitoring also stops at the end of its connection."""
    for ends in (False, True):
        transport = RecordingTransport()
        transport.unsent = int(ends)
        reading = ClientReading(transport, ConnectionLimits())
        reading.begin()
        if ends:
            reading.end()
        await asyncio.sleep(1_000)
        assert not transport.aborted
