"""The gRPC server of auth: ``ibex.auth.v1`` and ``grpc.health.v1`` on one port."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import grpc

from ibex.adapters.grpc.call_limits import CallLimits
from ibex.adapters.grpc.callers import Callers
from ibex.adapters.grpc.calls import MAX_CALL_S, CallInterceptor, NullCallObserver
from ibex.adapters.grpc.gate import Gate
from ibex.adapters.grpc.generated import auth_pb2_grpc
from ibex.adapters.grpc.health import Health
from ibex.adapters.grpc.pauses import PauseDetector
from ibex.adapters.grpc.relay import Relay, bind
from ibex.adapters.grpc.service import SERVICE, AuthService
from ibex.adapters.grpc.tls import RotatingServerTls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibex.adapters.grpc.calls import CallObserver
    from ibex.adapters.grpc.service import IdentityUseCases
    from ibex.adapters.grpc.tls import ServerTls
    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource

MAX_MESSAGE_BYTES: Final = 64 << 10
MAX_CONNECTIONS: Final = 1_000
MAX_STREAMS: Final = 256
"""Concurrent calls on one connection, twice as many as a proxy makes. A gRPC client queues further calls itself."""
DESCRIPTORS_PER_CONNECTION: Final = 3
"""The client's socket, and both ends of the Unix connection to gRPC."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    # Clients ping every second. By default gRPC regards that as too often, and would close their connections.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.keepalive_permit_without_calls", 1),
    # Detect clients that have disappeared without closing the connection.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
)


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits of calls and connections. Durations are in seconds.

    A caller must authenticate on each connection within ``authentication_timeout_s``. After ``max_connection_age_s``,
    give or take a tenth, the server asks the client to reconnect; running calls finish.
    """

    calls: CallLimits = field(default_factory=CallLimits)
    max_call_s: float = MAX_CALL_S
    stop_grace_s: float = 10.0
    max_connections: int = MAX_CONNECTIONS
    authentication_timeout_s: float = 10.0
    max_connection_age_s: float = 1_800.0


def connections_within(descriptors: int, others: int) -> int:
    """Return the maximum number of connections for a limit of open files, of which ``others`` are reserved.

    At least 1, at most ``MAX_CONNECTIONS``.
    """
    return max(1, min(MAX_CONNECTIONS, (descriptors - others) // DESCRIPTORS_PER_CONNECTION))


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """The service credential that validation requires (None: no credential), and TLS (None: plaintext)."""

    service_credential: str | None = field(default=None, repr=False)
    tls: ServerTls | None = None


class AuthServer:
    """``ibex.auth.v1.AuthService`` on a port. Health is SERVING from the start until the drain begins.

    Health stays SERVING while the database is unavailable: calls report that. The ops port reports the database's
    health.
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
        """Set the address as ``host:port``; port 0 means any free port. The constructor binds nothing."""
        self._address = address
        callers = self._callers = Callers(identity.administrators, security.service_credential, clock)
        self._pauses = PauseDetector()
        self._service = AuthService(identity, callers, self._pauses)
        self._watch = identity.watch
        self._relay = Relay(limits.max_connections, limits.authentication_timeout_s)
        gate = Gate(callers, self._relay.table, limits.calls)
        self._interceptor = CallInterceptor(
            gate, ids, clock, observer or NullCallObserver(), max_call_s=limits.max_call_s
        )
        self._tls = None if security.tls is None else RotatingServerTls(security.tls)
        self._limits = limits
        self._server: grpc.aio.Server | None = None
        self._health = Health(SERVICE)
        self._port = 0

    @property
    def port(self) -> int:
        """The port that the server listens on; 0 before ``start``."""
        return self._port

    def accept_credentials(self, credentials: Sequence[str]) -> None:
        """Accept each of these service credentials from now on. Running watches continue.

        Raises ``ValueError`` if the list or a credential is empty. The former credentials then stay in use.
        """
        self._callers.accept(credentials)

    def change_tls(self, tls: ServerTls) -> bool:
        """Use this certificate for new connections; open ones stay. Return False if it is in use already.

        The certificate and its key must match. Raises ``ValueError`` if this would turn TLS or client certificates on.
        """
        if self._tls is None or (tls.client_ca is None) is not (self._tls.current.client_ca is None):
            raise ValueError("TLS and client certificates cannot be turned on or off without a restart")
        is_new = tls != self._tls.current
        if is_new:
            self._tls.current = tls
        return is_new

    async def start(self) -> None:
        """Listen and serve, in this event loop.

        Raises ``OSError`` if it cannot listen on the address, and if certificate or key are invalid.
        """
        try:
            listeners = bind(self._address)
        except OSError as error:
            raise OSError(f"cannot listen on {self._address} ({error.strerror or error})") from None
        age_ms = int(self._limits.max_connection_age_s * 1_000)
        grace_ms = int(self._limits.max_call_s * 1_000) + 1_000
        options = (*_OPTIONS, ("grpc.max_connection_age_ms", age_ms), ("grpc.max_connection_age_grace_ms", grace_ms))
        server = grpc.aio.server(interceptors=(self._interceptor,), options=options)
        auth_pb2_grpc.add_AuthServiceServicer_to_server(self._service, server)
        server.add_generic_rpc_handlers((self._health.handler(),))
        try:
            inner = self._relay.prepare()
            if self._tls is None:
                server.add_insecure_port(inner)
            else:
                server.add_secure_port(inner, self._tls.credentials())
            await server.start()
        except (OSError, RuntimeError) as error:
            for listener in listeners:
                listener.close()
            await server.stop(None)
            await self._relay.close()
            reason = str(error) if isinstance(error, OSError) else "certificate and key must be PEM, and match"
            raise OSError(f"cannot serve on {self._address}: {reason}") from None
        self._port = listeners[0].getsockname()[1]
        self._server = server
        self._pauses.start()
        await self._relay.start(listeners)

    def begin_to_drain(self) -> None:
        """Report NOT_SERVING, and end the streams of the watch, so that workers open them on another replica.

        Calls are answered until ``stop``, so that a proxy that has not moved to another replica yet loses none.
        """
        self._health.stop_serving()
        self._watch.end_all()

    async def stop(self) -> None:
        """Refuse new calls, wait ``stop_grace_s`` for running ones, then cancel them. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            self._pauses.stop()
            self._health.stop_serving()
            self._relay.stop_accepting()
            self._watch.end_all()
            await server.stop(self._limits.stop_grace_s)
            await self._relay.close()

    async def wait(self) -> None:
        """Wait until the server has stopped. Return at once if it does not run."""
        if self._server is not None:
            await self._server.wait_for_termination()
