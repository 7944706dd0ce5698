"""A revoked token stops working within the bound, whichever single link or process fails; a live one is never refused.

(spec 5, faults.md)
"""

from __future__ import annotations

import pytest

from harness.revocation import LINKS, RelayedStack
from ibex.domain.freshness import BOUND_S

pytestmark = pytest.mark.integration


def test_all_is_well(stack: RelayedStack) -> None:
    """No request that is sent after the revocation has returned is served."""
    outcome = stack.revoke_under(lambda: None, lambda: None, by_auth=True)

    assert outcome.served_s == 0
    assert set(outcome.refused) == {401}
    assert set(outcome.live) == {200}


@pytest.mark.parametrize("how", ["stall", "cut"])
@pytest.mark.parametrize("link", LINKS)
def test_a_link_fails(stack: RelayedStack, link: str, how: str) -> None:
    """An outage may be 503 for a live token, where auth is out of reach; 401 it is never."""
    relay = stack.relays[link]
    by_auth = link != "auth-postgres"  # which could not revoke anything then
    outcome = stack.revoke_under(getattr(relay, how), relay.heal, by_auth=by_auth)

    assert outcome.served_s < BOUND_S
    assert 401 not in outcome.live
    if link in {"proxy-redis", "auth-redis"}:
        assert set(outcome.live) == {200}


def test_auth_is_frozen(stack: RelayedStack) -> None:
    """What an operator revokes at the source is announced by the operator's command."""
    outcome = stack.revoke_under(stack.freeze_auth, stack.thaw_auth, by_auth=False)

    assert outcome.served_s < BOUND_S
    assert 401 not in outcome.live


def test_redis_is_frozen(stack: RelayedStack) -> None:
    """What cannot be confirmed is fetched anew."""
    outcome = stack.revoke_under(stack.redis.pause, stack.redis.resume, by_auth=True)

    assert outcome.served_s < BOUND_S
    assert set(outcome.live) == {200}
