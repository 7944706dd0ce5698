"""What happens around every call of the service: its request id, its deadline, its status, who hears of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError

from ibex.adapters.grpc.metadata import REQUEST_ID_KEY, request_id_in
from ibex.adapters.grpc.statuses import REASON_KEY, Reason, refusal_of
from ibex.domain.errors import FieldCode, FieldError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource

    Context = grpc.aio.ServicerContext[bytes, bytes]
    Handler = Any  # a grpc.RpcMethodHandler, whose stub knows no asynchronous ones

MAX_CALL_S: Final = 10.0
OK: Final = "OK"
CANCELLED: Final = "CANCELLED"


class CallObserver(Protocol):
    """Port: hears of every call once it begins and once it ends. Quick; never raises, never blocks.

    All three are called in the call's own task, so that a context variable set by ``began`` is seen wherever it goes.
    """

    def began(self, request_id: UUID) -> None:
        """A call has come in."""

    def failed(self, error: BaseException) -> None:
        """Something unforeseen was raised. Its message may hold anything: it must not be written down."""

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """The call is over, and is about to be answered.

        ``method`` is the name in the protocol, ``status`` gRPC's: OK, UNAUTHENTICATED …; CANCELLED if the caller has
        gone or its own deadline has passed.
        """


class Unobserved:
    """A ``CallObserver`` that keeps it to itself."""

    def began(self, request_id: UUID) -> None:
        """A call has come in."""

    def failed(self, error: BaseException) -> None:
        """Something unforeseen was raised."""

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """The call is over."""


class AroundCalls(grpc.aio.ServerInterceptor):
    """Interceptor of one service's unary calls; those of other services pass."""

    def __init__(
        self, service: str, ids: IdSource, clock: Clock, observer: CallObserver, *, max_call_s: float = MAX_CALL_S
    ) -> None:
        """Take the longest that a call may run, in seconds; a caller's own deadline ends it earlier."""
        self._prefix = f"/{service}/"
        self._ids = ids
        self._clock = clock
        self._observer = observer
        self._max_call_s = max_call_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the call's handler with everything around it, None where there is no such method."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or handler.unary_unary is None or not method.startswith(self._prefix):
            return handler
        name = method.removeprefix(self._prefix)

        async def call(request: bytes, context: Context) -> bytes:
            return await self._call(name, handler, request, context)

        return grpc.unary_unary_rpc_method_handler(call)

    async def _call(self, name: str, handler: Handler, request: bytes, context: Context) -> bytes:
        started_ns = self._clock.monotonic_ns()
        request_id = request_id_in(context.invocation_metadata() or ()) or self._ids.uuid7()
        self._observer.began(request_id)
        response, refusal, status = b"", None, CANCELLED
        try:
            response = await self._answer(handler, request, context)
            status = OK
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a status
            refusal = refusal_of(error)
            if refusal.reason is Reason.INTERNAL:
                self._observer.failed(error)
            status = refusal.status.name
        finally:
            self._observer.ended(name, status, self._clock.monotonic_ns() - started_ns)
        trailing = (REQUEST_ID_KEY, str(request_id))
        if refusal is not None:
            await context.abort(refusal.status, refusal.message, ((REASON_KEY, refusal.reason.value), trailing))
        context.set_trailing_metadata((trailing,))
        return response

    async def _answer(self, handler: Handler, request: bytes, context: Context) -> bytes:
        """Read the message here, not in the library: it would answer one that cannot be read as a bug, and log it."""
        try:
            message = handler.request_deserializer(request)
        except DecodeError:
            wrong = FieldError("message", FieldCode.INVALID_FORMAT, "cannot be read")
            raise ValidationError((wrong,)) from None
        async with asyncio.timeout(self._max_call_s):
            response: bytes = handler.response_serializer(await handler.unary_unary(message, context))
        return response
