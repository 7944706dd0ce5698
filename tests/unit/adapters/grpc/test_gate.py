"""Tests that the gate refuses a caller without the credential before it reads the caller's message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness.auth import CREDENTIAL, Identity, bearer
from ibex.adapters.grpc.call_limits import CallKind, CallLimits
from ibex.adapters.grpc.callers import Callers
from ibex.adapters.grpc.connections import GrpcConnections, PeerRole
from ibex.adapters.grpc.gate import Gate
from ibex.adapters.grpc.statuses import ServiceCredentialError, TooManyCallsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Context:
    """A call on connection 1 with this metadata."""

    def __init__(self, metadata: Any) -> None:
        self.metadata = metadata

    def peer(self) -> str:
        """Return the connection."""
        return "unix:/folder/1"

    def invocation_metadata(self) -> Any:
        """Return the metadata."""
        return self.metadata


class Connection:
    """A connection that must not be closed."""

    def close_now(self) -> None:
        """Fail."""
        raise AssertionError

    def close_later(self) -> None:
        """Fail."""
        raise AssertionError


async def unread() -> AsyncIterator[bytes]:
    """Fail if the message is read."""
    raise AssertionError
    yield b""


@pytest.mark.parametrize(
    ("metadata", "raised", "role"),
    [
        ((), ServiceCredentialError, PeerRole.UNAUTHENTICATED),
        (bearer("wrong"), ServiceCredentialError, PeerRole.UNAUTHENTICATED),
        (bearer(CREDENTIAL), TooManyCallsError, PeerRole.SERVICE),
    ],
)
async def test_the_credential_is_checked_before_the_limit(
    metadata: Any, raised: type[Exception], role: PeerRole
) -> None:
    """The message is not read in any case. Only the right credential raises the connection's role."""
    identity, table = await Identity.settled(), GrpcConnections(1)
    table.add("1", Connection())
    gate = Gate(Callers(identity.use_cases.tokens, CREDENTIAL, identity.clock), table, CallLimits(validation=0))
    context: Any = Context(metadata)

    with pytest.raises(raised):
        await gate.run(CallKind.VALIDATION, None, unread(), context)

    assert table.role("1") is role
