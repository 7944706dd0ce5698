"""Nothing is lost and nothing is twice, whatever dies under load."""

from __future__ import annotations

import pytest

from harness.oracle import ask_the_oracle
from harness.oracle_faults import WITHOUT_LOSS
from harness.redis import redis_server_program

pytestmark = pytest.mark.integration

SECONDS = 5


@pytest.mark.timeout(180)
async def test_everything_that_was_seen_is_on_record_once() -> None:
    """Workers killed, servers frozen and restarted: what reached the provider has one checkpoint and one trace.

    What a client saw whole is there as it saw it, turns are numbered without gaps, totals add up. ``make soak`` runs
    the same for longer, and fills the journal's disk as well.
    """
    if redis_server_program() is None:
        pytest.skip("there is no redis-server")
    findings = await ask_the_oracle(SECONDS, seed=1, kinds=WITHOUT_LOSS)
    assert findings.wrong == []
    assert (findings.lost, findings.told, findings.duplicated) == (0, 0, 0)
    assert findings.complete > 0
    assert findings.faults.keys() == set(WITHOUT_LOSS)
