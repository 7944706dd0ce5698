"""Tests of a validation whose database does not answer in time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from harness.chat_scene import TOKEN
from harness.simulated_time import SimulatedLoop, in_simulated_time
from ibex.adapters.grpc.generated import auth_pb2
from ibex.adapters.grpc.pauses import PauseDetector
from ibex.adapters.grpc.service import AuthService, IdentityUseCases
from ibex.domain.errors import ServiceDegradedError

if TYPE_CHECKING:
    from ibex.domain.freshness.cache import Fetched
    from ibex.domain.identity.model import PersonalAccessToken, Principal

REQUEST = auth_pb2.ValidateTokenRequest(access_token=TOKEN.reveal())
DEADLINE_S = 0.5


class Hanging:
    """A ``TokenVerifier`` that never answers."""

    async def verify(self, token: PersonalAccessToken) -> Fetched[Principal]:
        """Wait forever."""
        del token
        never: asyncio.Future[Fetched[Principal]] = asyncio.get_running_loop().create_future()
        return await never


class Context:
    """The part of a call's context that a validation uses."""

    def time_remaining(self) -> float:
        """Return the remaining time of the caller."""
        return DEADLINE_S


async def validated(pauses: PauseDetector) -> Any:
    """Validate a token with a database that hangs."""
    unused = cast("Any", None)
    identity = IdentityUseCases(Hanging(), unused, unused, unused, unused)
    return await AuthService(identity, unused, pauses).ValidateToken(REQUEST, cast("Any", Context()))


@in_simulated_time
async def test_a_source_that_hangs_is_unavailable() -> None:
    """The caller gets the error before its deadline, so that it can serve cached identity."""
    pauses, loop = PauseDetector(), asyncio.get_running_loop()
    pauses.start()
    with pytest.raises(ServiceDegradedError):
        await validated(pauses)
    assert loop.time() < DEADLINE_S
    pauses.stop()


@in_simulated_time
async def test_a_call_after_a_pause_proves_nothing_about_the_source() -> None:
    """The call may have been sent during the pause, so that its deadline is too short for the lookup."""
    pauses, loop = PauseDetector(), asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    pauses.start()
    await asyncio.sleep(1.0)
    loop.stand_still(6.0)
    with pytest.raises(TimeoutError):
        await validated(pauses)
    await asyncio.sleep(1.0)
    with pytest.raises(ServiceDegradedError):
        await validated(pauses)
    pauses.stop()
