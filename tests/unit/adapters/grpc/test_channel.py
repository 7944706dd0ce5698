"""A connection that is not open: what it is made of."""

from __future__ import annotations

import pytest

from harness.auth import CREDENTIAL, REQUEST_ID
from ibex.adapters.grpc.channel import ChannelSecurity, GrpcAuthChannel
from ibex.domain.errors import ServiceDegradedError


@pytest.mark.parametrize("bounds", [{"timeout_s": 0}, {"timeout_s": -1}, {"max_in_flight": 0}])
def test_bounds_are_positive(bounds: dict[str, int]) -> None:
    """Anything else is a mistake."""
    with pytest.raises(ValueError, match="positive"):
        GrpcAuthChannel("127.0.0.1:1", lambda: REQUEST_ID, **bounds)  # type: ignore[arg-type]


async def test_what_is_not_open_does_not_answer() -> None:
    """Closing it is no mistake."""
    channel = GrpcAuthChannel("127.0.0.1:1", lambda: REQUEST_ID)

    with pytest.raises(ServiceDegradedError, match="reached"):
        await channel.ping()
    await channel.close()


def test_no_repr_shows_the_credential() -> None:
    """Neither of what it is made of nor of itself."""
    security = ChannelSecurity(CREDENTIAL)

    assert CREDENTIAL not in repr(security) + repr(GrpcAuthChannel("a:1", lambda: REQUEST_ID, security=security))
