"""A directive that was changed is in force at the next request, on every worker; without Redis, within the bound.

(spec 1, 5, 7; a version that was rolled back was served until restart elsewhere, lessons.md)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.directive_watch import change_under
from ibex.domain.freshness import BOUND_S

if TYPE_CHECKING:
    from harness.revocation import RelayedStack

pytestmark = pytest.mark.integration


def test_all_is_well(stack: RelayedStack) -> None:
    """No request that is sent after a change has returned carries the old text: neither a new one nor a way back."""
    changes = [change_under(stack), change_under(stack), change_under(stack, rollback_to=1)]

    assert [(change.old_s, change.failed, change.strayed) for change in changes] == [(0.0, 0, 0)] * 3


@pytest.mark.parametrize("rollback_to", [None, 1])
def test_redis_is_frozen(stack: RelayedStack, rollback_to: int | None) -> None:
    """What cannot be confirmed is fetched anew, from PostgreSQL; nothing fails, and no worker goes back to the old."""
    change_under(stack)  # so that version 1 is not in force

    change = change_under(stack, stack.redis.pause, stack.redis.resume, rollback_to=rollback_to)

    assert change.old_s < BOUND_S
    assert (change.failed, change.strayed) == (0, 0)
