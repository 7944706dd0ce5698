"""The server: one port with the service and ``grpc.health.v1``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health  # type: ignore[attr-defined] # it is public, only not listed

from ibex.adapters.grpc.callers import Callers
from ibex.adapters.grpc.calls import MAX_CALL_S, AroundCalls, Unobserved
from ibex.adapters.grpc.generated import auth_pb2_grpc
from ibex.adapters.grpc.metadata import bearer_in
from ibex.adapters.grpc.service import SERVICE, AuthService
from ibex.adapters.grpc.statuses import REASON_KEY, ServiceCredentialError, refusal_of

if TYPE_CHECKING:
    from ibex.adapters.grpc.calls import CallObserver
    from ibex.adapters.grpc.service import IdentityUseCases
    from ibex.adapters.grpc.tls import ServerTls
    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource

MAX_MESSAGE_BYTES: Final = 64 << 10
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    # A second server on the port fails at once; otherwise the two would share its connections.
    ("grpc.so_reuseport", 0),
    # Clients ask every second whether the connection lives; by default that is too often and they would be thrown out.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.keepalive_permit_without_calls", 1),
    # A client that vanished without a word is noticed too.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
)


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """``max_calls`` at once, more are RESOURCE_EXHAUSTED; ``max_call_s`` and ``stop_grace_s`` are seconds."""

    max_calls: int = 1000
    max_call_s: float = MAX_CALL_S
    stop_grace_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """What callers of validation must present, None for nothing, and TLS, None for plaintext."""

    service_credential: str | None = field(default=None, repr=False)
    tls: ServerTls | None = None


class CredentialedHealth(health.HealthServicer):
    """``grpc.health.v1``, open to all; who presents a service credential learns too whether it is the right one."""

    def __init__(self, callers: Callers) -> None:
        super().__init__()
        self._callers = callers

    async def Check(  # noqa: N802 - the protocol's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        """Say whether a service is served: FAILED_PRECONDITION for a wrong credential, NOT_FOUND if not known."""
        metadata = context.invocation_metadata() or ()
        if bearer_in(metadata) is not None:
            try:
                self._callers.admit_service(metadata)
            except ServiceCredentialError as error:
                refusal = refusal_of(error)
                await context.abort(refusal.status, refusal.message, ((REASON_KEY, refusal.reason.value),))
        check: Any = super().Check  # the library's annotation says that it returns nothing
        return await check(request, context)


class AuthServer:
    """``ibex.auth.v1.AuthService`` on a port. Health is SERVING from start to stop.

    It stays so while the store is lost: answering that is the service's work then (spec 5). Health of the store is the
    ops port's to tell.
    """

    def __init__(
        self,
        address: str,
        identity: IdentityUseCases,
        ids: IdSource,
        clock: Clock,
        *,
        security: ServerSecurity = ServerSecurity(),
        observer: CallObserver | None = None,
        limits: ServerLimits = ServerLimits(),
    ) -> None:
        """Take ``host:port``, port 0 for any that is free. Constructing it binds nothing."""
        self._address = address
        self._callers = Callers(identity.tokens, security.service_credential)
        self._service = AuthService(identity, self._callers)
        self._around = AroundCalls(SERVICE, ids, clock, observer or Unobserved(), max_call_s=limits.max_call_s)
        self._tls = security.tls
        self._limits = limits
        self._server: grpc.aio.Server | None = None
        self._health = CredentialedHealth(self._callers)
        self._port = 0

    @property
    def port(self) -> int:
        """The port that is listened on, 0 before the start."""
        return self._port

    async def start(self) -> None:
        """Listen and serve, in this event loop. Raises ``OSError`` if the address cannot be had."""
        server = grpc.aio.server(
            interceptors=(self._around,), options=_OPTIONS, maximum_concurrent_rpcs=self._limits.max_calls
        )
        auth_pb2_grpc.add_AuthServiceServicer_to_server(self._service, server)
        self._health = CredentialedHealth(self._callers)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            if self._tls is None:
                self._port = server.add_insecure_port(self._address)
            else:
                self._port = server.add_secure_port(self._address, self._tls.credentials())
        except RuntimeError:
            await server.stop(None)
            raise OSError(f"cannot listen on {self._address}") from None
        await server.start()
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        self._server = server

    async def stop(self) -> None:
        """Take no new calls, let those under way finish within the grace, then cancel them. Again: does nothing."""
        server, self._server = self._server, None
        if server is not None:
            await self._health.enter_graceful_shutdown()
            await server.stop(self._limits.stop_grace_s)

    async def wait(self) -> None:
        """Return once the server has stopped."""
        if self._server is not None:
            await self._server.wait_for_termination()
