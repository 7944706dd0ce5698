"""Tests of a channel that is not open."""

from __future__ import annotations

import pytest

from harness.auth import CREDENTIAL, REQUEST_ID
from ibex.adapters.grpc.channel import ChannelSecurity, GrpcAuthChannel
from ibex.domain.errors import ServiceDegradedError


@pytest.mark.parametrize("bounds", [{"timeout_s": 0}, {"timeout_s": -1}, {"max_in_flight": 0}])
def test_limits_must_be_positive(bounds: dict[str, int]) -> None:
    """Any other value is refused."""
    with pytest.raises(ValueError, match="positive"):
        GrpcAuthChannel("127.0.0.1:1", lambda: REQUEST_ID, **bounds)  # type: ignore[arg-type]


async def test_a_ping_on_a_channel_that_is_not_open_raises() -> None:
    """Closing the channel raises no error."""
    channel = GrpcAuthChannel("127.0.0.1:1", lambda: REQUEST_ID)

    with pytest.raises(ServiceDegradedError, match="reached"):
        await channel.ping()
    await channel.close()


def test_no_repr_shows_the_credential() -> None:
    """This covers the security settings and the channel."""
    security = ChannelSecurity(CREDENTIAL)

    assert CREDENTIAL not in repr(security) + repr(GrpcAuthChannel("a:1", lambda: REQUEST_ID, security=security))
