"""Tests of a server that has not started."""

from __future__ import annotations

import pytest

from harness.auth import CREDENTIAL, Identity
from ibex.adapters.grpc.server import AuthServer, ServerSecurity


@pytest.fixture
async def identity() -> Identity:
    """The use cases of the server."""
    return await Identity.settled()


async def test_a_server_that_has_not_started_has_no_port(identity: Identity) -> None:
    """``wait`` and ``stop`` return immediately."""
    server = AuthServer("127.0.0.1:0", identity.use_cases, identity.ids, identity.clock)

    await server.wait()
    await server.stop()

    assert server.port == 0


def test_an_empty_credential_is_refused(identity: Identity) -> None:
    """The error is raised before the server starts."""
    with pytest.raises(ValueError, match="empty"):
        AuthServer("127.0.0.1:0", identity.use_cases, identity.ids, identity.clock, security=ServerSecurity(""))


def test_no_repr_shows_the_credential(identity: Identity) -> None:
    """This covers the security settings and the server."""
    security = ServerSecurity(CREDENTIAL)
    server = AuthServer("127.0.0.1:0", identity.use_cases, identity.ids, identity.clock, security=security)

    assert CREDENTIAL not in repr(security) + repr(server)
