"""A proxy that has just started: whether it reaches auth during an attack.

The workers that serve the victim do not show that: they were connected before.
"""

from __future__ import annotations

from typing import Any, Final

import grpc
from benchmarks.attacks.attacking import LOOPBACK
from grpc_health.v1 import health_pb2, health_pb2_grpc

TRIES: Final = 5
_PATIENCE_S: Final = 1.0
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


def served_newcomers(port: int) -> int:
    """Return how many of ``TRIES`` new connections to auth get an answer within a second."""
    return sum(_is_served(port) for _ in range(TRIES))


def _is_served(port: int) -> bool:
    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=_OPTIONS) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=_PATIENCE_S, wait_for_ready=True)
        except grpc.RpcError:
            return False
    return True
