"""What a validation says of its source when the source does not answer in time."""

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
    """A ``TokenVerifier`` whose source never answers."""

    async def verify(self, token: PersonalAccessToken) -> Fetched[Principal]:
        """Hang."""
        del token
        never: asyncio.Future[Fetched[Principal]] = asyncio.get_running_loop().create_future()
        return await never


class Context:
    """As much of a call's context as a validation uses."""

    def time_remaining(self) -> float:
        """Return how long the caller waits."""
        return DEADLINE_S


async def validated(pauses: PauseDetector) -> Any:
    """Validate a token of a source that hangs."""
    unused = cast("Any", None)
    identity = IdentityUseCases(Hanging(), unused, unused, unused, unused)
    return await AuthService(identity, unused, pauses).ValidateToken(REQUEST, cast("Any", Context()))


@in_simulated_time
async def test_a_source_that_hangs_is_unavailable() -> None:
    """The caller is told before its deadline, so that it may serve what it has cached."""
    pauses, loop = PauseDetector(), asyncio.get_running_loop()
    pauses.start()
    with pytest.raises(ServiceDegradedError):
        await validated(pauses)
    assert loop.time() < DEADLINE_S
    pauses.stop()


@in_simulated_time
async def test_a_call_after_a_pause_says_nothing_of_the_source() -> None:
    """It may have been sent during the pause, and its deadline be over before the source can answer."""
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
