"""Tests of the interceptor of all calls, without a socket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import pytest

from harness.memory.clock import ManualClock
from harness.memory.ids import SequentialIds
from ibex.adapters.grpc.call_limits import KIND_OF, CallLimits
from ibex.adapters.grpc.callers import Callers
from ibex.adapters.grpc.calls import CallInterceptor, NullCallObserver
from ibex.adapters.grpc.connections import GrpcConnections
from ibex.adapters.grpc.gate import Gate
from ibex.adapters.grpc.generated import auth_pb2
from ibex.domain.errors import InvalidTokenError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ID = UUID(int=7)
VALIDATE = "/ibex.auth.v1.AuthService/ValidateToken"


@dataclass
class Details:
    """A call as grpc announces it to an interceptor."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


class AbortedError(Exception):
    """The error that grpc raises to end a call."""


class Context:
    """The context of a call. It records the status and the trailing metadata."""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self.metadata = metadata
        self.trailing: tuple[tuple[str, str], ...] = ()
        self.status: tuple[grpc.StatusCode, str] | None = None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of the call."""
        return self.metadata

    def peer(self) -> str:
        """Return the name of the call's connection."""
        return "unix:/folder/1"

    def set_trailing_metadata(self, trailing: tuple[tuple[str, str], ...]) -> None:
        """Record the metadata."""
        self.trailing = trailing

    async def abort(self, status: grpc.StatusCode, details: str, trailing: tuple[tuple[str, str], ...]) -> None:
        """Record the status and end the call."""
        self.status, self.trailing = (status, details), trailing
        raise AbortedError


class Recorder(NullCallObserver):
    """Records all calls of the observer."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def began(self, request_id: UUID) -> None:
        """Record it."""
        self.heard.append((request_id,))

    def failed(self, error: BaseException) -> None:
        """Record it."""
        self.heard.append((error,))

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """Record it."""
        self.heard.append((method, status, duration_ns))


class Scene:
    """An interceptor with one handler."""

    def __init__(self, behavior: Any, *, max_call_s: float = 10) -> None:
        self.clock = ManualClock()
        self.recorder = Recorder()
        self.handler: Any = grpc.unary_unary_rpc_method_handler(behavior, bytes.decode, str.encode)
        gate = Gate(Callers(Nobody(), None, self.clock), GrpcConnections(1), CallLimits())
        self.interceptor = CallInterceptor(gate, SequentialIds(), self.clock, self.recorder, max_call_s=max_call_s)

    async def intercept(self, method: str) -> Any:
        """Return the handler that the interceptor returns."""

        async def continuation(_details: Any) -> Any:
            return self.handler

        return await self.interceptor.intercept_service(continuation, Details(method))

    async def call(self, context: Context) -> bytes:
        """Make one call."""
        handler = await self.intercept(VALIDATE)
        answer: bytes = await handler.stream_unary(said(b"hello"), context)
        return answer


class Nobody:
    """A ``TokenVerifier`` that refuses every token."""

    async def verify(self, _token: Any) -> Any:
        """Refuse every token."""
        raise InvalidTokenError


async def said(message: bytes) -> AsyncIterator[bytes]:
    """Yield one message."""
    yield message


async def test_a_call_returns_its_response_and_is_observed() -> None:
    """The observer gets the request id, the method, the status and the duration."""

    async def say(request: str, _context: Any) -> str:
        scene.clock.advance(timedelta(milliseconds=3))
        return request.upper()

    scene, context = Scene(say), Context(("x-request-id", str(ID)))

    assert await scene.call(context) == b"HELLO"
    assert context.trailing == (("x-request-id", str(ID)),)
    assert scene.recorder.heard == [(ID,), ("ValidateToken", "OK", 3_000_000)]


async def test_a_refusal_is_not_observed_as_a_failure() -> None:
    """The status and the reason are sent. The observer does not record an unexpected error."""

    async def refuse(_request: str, _context: Any) -> str:
        raise InvalidTokenError

    scene, context = Scene(refuse), Context()
    with pytest.raises(AbortedError):
        await scene.call(context)

    assert context.status == (grpc.StatusCode.UNAUTHENTICATED, InvalidTokenError.default_message)
    assert dict(context.trailing)["ibex-reason"] == "invalid-token"
    assert [heard[1:] for heard in scene.recorder.heard] == [(), ("UNAUTHENTICATED", 0)]


async def test_a_bug_is_observed_and_not_revealed() -> None:
    """The observer gets the raised error before the call ends. The caller gets no part of its text."""
    bug = RuntimeError("canary")

    async def fail(_request: str, _context: Any) -> str:
        raise bug

    scene, context = Scene(fail), Context()
    with pytest.raises(AbortedError):
        await scene.call(context)

    assert scene.recorder.heard[1:] == [(bug,), ("ValidateToken", "INTERNAL", 0)]
    assert "canary" not in repr(context.status) + repr(context.trailing)


async def test_a_call_that_exceeds_its_time_limit_times_out() -> None:
    """The status is DEADLINE_EXCEEDED."""

    async def hang(_request: str, _context: Any) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    scene, context = Scene(hang, max_call_s=0.001), Context()
    with pytest.raises(AbortedError):
        await scene.call(context)

    assert dict(context.trailing)["ibex-reason"] == "deadline"


async def test_a_caller_that_disconnects_ends_the_call() -> None:
    """The call is cancelled, and the observer records CANCELLED."""
    begun = asyncio.Event()

    async def hang(_request: str, _context: Any) -> str:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    scene, context = Scene(hang), Context()
    call = asyncio.create_task(scene.call(context))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert scene.recorder.heard[1:] == [("ValidateToken", "CANCELLED", 0)]
    assert context.status is None


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Watch", "/ibex.auth.v1.AuthService/Nothing"])
async def test_an_unknown_method_is_unimplemented(method: str) -> None:
    """The call ends before any message is read, with or without a handler, and is not observed."""

    async def say(_request: str, _context: Any) -> str:
        raise AssertionError

    async def never() -> AsyncIterator[bytes]:
        raise AssertionError
        yield b""

    scene = Scene(say)
    for handler in (scene.handler, None):
        scene.handler = handler
        context = Context()
        with pytest.raises(AbortedError):
            await (await scene.intercept(method)).stream_unary(never(), context)
        assert context.status == (grpc.StatusCode.UNIMPLEMENTED, "Unknown method.")
    assert scene.recorder.heard == []


async def test_a_call_without_a_message_is_invalid() -> None:
    """The status is INVALID_ARGUMENT."""

    async def say(_request: str, _context: Any) -> str:
        raise AssertionError

    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    scene, context = Scene(say), Context()
    with pytest.raises(AbortedError):
        await (await scene.intercept(VALIDATE)).stream_unary(nothing(), context)

    assert context.status == (grpc.StatusCode.INVALID_ARGUMENT, "message: is missing")


def test_every_method_of_the_service_has_a_kind() -> None:
    """A method without a kind would not be served."""
    service = auth_pb2.DESCRIPTOR.services_by_name["AuthService"]
    named = {f"/{service.full_name}/{method.name}" for method in service.methods}

    assert set(KIND_OF) == named | {"/grpc.health.v1.Health/Check"}
