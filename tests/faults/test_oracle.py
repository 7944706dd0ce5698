"""No request is lost or recorded twice, whatever process dies under load."""

from __future__ import annotations

import pytest

from harness.oracle import ask_the_oracle
from harness.oracle_faults import FAIL_OVER, WITHOUT_LOSS
from harness.redis import redis_server_program

pytestmark = pytest.mark.integration

SECONDS = 5


@pytest.mark.timeout(180)
async def test_every_request_is_recorded_once_despite_faults() -> None:
    """Workers are killed, and servers are frozen and restarted.

    Each request that reached the provider has one checkpoint and one trace. Turns are numbered without gaps, and totals
    add up. ``make soak`` runs longer, and fills the journal's disk too.
    """
    if redis_server_program() is None:
        pytest.skip("there is no redis-server")
    findings = await ask_the_oracle(SECONDS, seed=1, kinds=WITHOUT_LOSS)
    assert findings.wrong == []
    assert (findings.lost, findings.told, findings.duplicated) == (0, 0, 0)
    assert findings.complete > 0
    assert findings.faults.keys() == set(WITHOUT_LOSS)


@pytest.mark.timeout(240)
async def test_every_request_is_recorded_once_despite_fail_overs(pgbouncer_path: str) -> None:
    """PostgreSQL fails over behind PgBouncer, and workers are killed. ``make soak ARGS=--pooler`` runs longer."""
    if redis_server_program() is None:
        pytest.skip("there is no redis-server")
    kinds = ("kill a worker", FAIL_OVER)
    findings = await ask_the_oracle(SECONDS, seed=2, kinds=kinds, fails_over=True, pooler=pgbouncer_path)
    assert findings.wrong == []
    assert (findings.lost, findings.told, findings.duplicated) == (0, 0, 0)
    assert findings.complete > 0
    assert findings.faults.keys() == set(kinds)
