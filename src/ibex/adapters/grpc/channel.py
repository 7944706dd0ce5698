"""The one connection to auth: kept warm, watched, bounded in time and number (spec 4)."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ibex.adapters.grpc.generated import auth_pb2_grpc
from ibex.adapters.grpc.metadata import AUTHORIZATION_KEY, REQUEST_ID_KEY
from ibex.adapters.grpc.service import SERVICE
from ibex.adapters.grpc.statuses import REASON_KEY, CallFailedError, Reason
from ibex.domain.errors import ServiceDegradedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from ibex.adapters.grpc.generated import auth_pb2
    from ibex.adapters.grpc.tls import ClientTls

T = TypeVar("T")

TIMEOUT_S: Final = 0.050
PING_TIMEOUT_S: Final = 0.5
LOOK_INTERVAL_S: Final = 0.05
# One event loop makes some 5,000 calls a second: so many take 25 ms, and more would all miss the deadline.
MAX_IN_FLIGHT: Final = 128
_LOG: Final = logging.getLogger(__name__)
_OPTIONS: Final = (
    # Whoever shares a process must not share a connection: closing one would leave the other's backoff behind.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy that the environment names is for the provider.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # This is also how long one attempt to connect may take; by default 20 s, all lost if the server hangs meanwhile.
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # By default a name is not looked up again for 30 s, however often connecting fails.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # A connection that hangs is closed after 2 s, with or without calls on it. The ping's own timeout, 60 s by default,
    # is what counts while the other end says nothing at all.
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 1_000),
    ("grpc.http2.ping_timeout_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 256 << 10),
)


@dataclass(frozen=True, slots=True)
class ChannelSecurity:
    """What is presented to auth, None for nothing, and TLS, None for plaintext."""

    service_credential: str | None = field(default=None, repr=False)
    tls: ClientTls | None = None


class CredentialRefusedError(ServiceDegradedError):
    """Auth answers, but not to who presents this service credential, or none."""


class GrpcAuthChannel:
    """Makes calls on one connection. Nothing in it is retried: there is no time for that within the deadline."""

    def __init__(
        self,
        address: str,
        request_id: Callable[[], UUID],
        *,
        security: ChannelSecurity = ChannelSecurity(),
        timeout_s: float = TIMEOUT_S,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        """Take ``host:port``, where the current request's id comes from, and seconds and calls at once at most.

        Constructing it connects to nothing. Raises ``ValueError`` for a bound that is not positive.
        """
        if timeout_s <= 0 or max_in_flight <= 0:
            raise ValueError("a channel's timeout and number of calls are positive")
        self._address = address
        self._request_id = request_id
        self._tls = security.tls
        credential = security.service_credential
        self._authorization = () if credential is None else ((AUTHORIZATION_KEY, f"Bearer {credential.strip()}"),)
        self._timeout_s = timeout_s
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._credential_refused = False
        self._connected = asyncio.Event()
        self._channel: grpc.aio.Channel | None = None
        self._warm: asyncio.Task[None] | None = None
        self._service: Any = None
        self._health: Any = None

    async def open(self) -> None:
        """Begin to connect, in this event loop, and stay connected. Waits for nothing: auth may come later."""
        if self._channel is not None:
            return
        if self._tls is None:
            self._channel = grpc.aio.insecure_channel(self._address, options=_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(self._address, self._tls.credentials(), options=_OPTIONS)
        self._service = auth_pb2_grpc.AuthServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._warm = asyncio.create_task(self._keep_warm(self._channel))

    async def close(self) -> None:
        """Disconnect; calls under way fail. Doing it again does nothing."""
        channel, self._channel = self._channel, None
        warm, self._warm = self._warm, None
        self._service = self._health = None
        self._connected.clear()
        if warm is not None:
            warm.cancel()
            with suppress(asyncio.CancelledError):
                await warm
        if channel is not None:
            await channel.close()

    async def ping(self) -> None:
        """Ask the service for its health. Raises ``ServiceDegradedError`` if it says nothing good within 0.5 s.

        It serves while it can answer, be it that its own store is lost. A service credential that it refuses is an
        error, too.
        """
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        try:
            response = await self._run(self._health and self._health.Check, request, PING_TIMEOUT_S)
        except CallFailedError as error:
            if error.reason == Reason.SERVICE_CREDENTIAL:
                raise CredentialRefusedError("Auth refuses the service credential.") from error
            raise ServiceDegradedError("Auth cannot be reached.") from error
        if response.status != health_pb2.HealthCheckResponse.SERVING:
            raise ServiceDegradedError("Auth is not serving.")

    async def connected(self) -> None:
        """Return once there is a connection, which may be never."""
        await self._connected.wait()

    async def validate_token(self, request: auth_pb2.ValidateTokenRequest) -> auth_pb2.ValidateTokenResponse:
        """Call ValidateToken. Raises ``CallFailedError``, at once if there are too many calls under way."""
        response: auth_pb2.ValidateTokenResponse = await self._bounded(
            self._service and self._service.ValidateToken, request
        )
        return response

    async def validate_agent(self, request: auth_pb2.ValidateAgentRequest) -> auth_pb2.ValidateAgentResponse:
        """Call ValidateAgent. Raises ``CallFailedError``, at once if there are too many calls under way."""
        response: auth_pb2.ValidateAgentResponse = await self._bounded(
            self._service and self._service.ValidateAgent, request
        )
        return response

    async def _bounded(self, method: Any, request: Any) -> Any:
        if self._in_flight >= self._max_in_flight:
            raise CallFailedError(grpc.StatusCode.RESOURCE_EXHAUSTED)
        self._in_flight += 1
        try:
            response = await self._run(method, request, self._timeout_s)
        except CallFailedError as error:
            self._note(error.reason)
            raise
        else:
            self._note(None)
            return response
        finally:
            self._in_flight -= 1

    async def _keep_warm(self, channel: grpc.aio.Channel) -> None:
        """Reconnect when the connection is lost, log it, and authenticate on each new connection.

        Auth closes connections that do not present the service credential in time, and closes them first under an
        attack. So each new connection makes a health check at once.

        This polls. The library can report changes, but a cancelled wait for one leaves an
        event behind that later disturbs another event loop.
        """
        seen = None
        while True:
            state = channel.get_state(try_to_connect=True)
            if state is not seen:
                seen = state
                self._see(state)
                if state is grpc.ChannelConnectivity.READY:
                    with suppress(ServiceDegradedError):
                        await self.ping()
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _see(self, state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            self._connected.set()
            _LOG.info("connected to auth")
        else:
            self._connected.clear()
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            _LOG.warning("auth cannot be reached at %s", self._address)

    def _note(self, reason: str | None) -> None:
        """Say it once when auth begins to refuse the credential: every request fails, and no client can tell why."""
        refused = reason == Reason.SERVICE_CREDENTIAL
        if refused and not self._credential_refused:
            _LOG.error("auth refuses the service credential")
        self._credential_refused = refused

    async def _run(self, method: Any, request: Any, timeout_s: float) -> Any:
        if method is None:
            raise CallFailedError(grpc.StatusCode.UNAVAILABLE)
        metadata = (*self._authorization, (REQUEST_ID_KEY, str(self._request_id())))
        try:
            response = await method(request, timeout=timeout_s, metadata=metadata, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            raise CallFailedError(error.code(), _reason(error)) from None
        except grpc.aio.UsageError:  # closed meanwhile
            raise CallFailedError(grpc.StatusCode.UNAVAILABLE) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise CallFailedError(grpc.StatusCode.CANCELLED) from None  # the channel was closed under the call
        if response is None:  # so the library says that it could not be read
            raise CallFailedError(grpc.StatusCode.INTERNAL)
        return response


def _reason(error: grpc.aio.AioRpcError) -> str | None:
    reason = (error.trailing_metadata() or {}).get(REASON_KEY)
    return reason if isinstance(reason, str) else None
