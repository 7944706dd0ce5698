"""The service ``grpc.health.v1.Health`` with its method ``Check``.

``Watch`` is left out, because its streams have no time limit and need no credential (ADR 0038).
"""

from __future__ import annotations

from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

from ibex.adapters.grpc.statuses import UnknownServiceError

_NAME: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health:
    """The health of the server (the empty name) and of one service."""

    def __init__(self, service: str) -> None:
        self._services = ("", service)
        self._status = health_pb2.HealthCheckResponse.SERVING

    def stop_serving(self) -> None:
        """Report NOT_SERVING from now on."""
        self._status = health_pb2.HealthCheckResponse.NOT_SERVING

    async def check(self, request: health_pb2.HealthCheckRequest, _context: Any) -> health_pb2.HealthCheckResponse:
        """Return the health of a service. Raises ``UnknownServiceError`` for any other name."""
        if request.service not in self._services:
            raise UnknownServiceError
        return health_pb2.HealthCheckResponse(status=self._status)

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the gRPC handler of the service."""
        check = grpc.unary_unary_rpc_method_handler(
            self.check,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(_NAME, {"Check": check})
