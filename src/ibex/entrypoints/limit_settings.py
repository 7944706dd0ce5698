"""The settings that limit what clients may take of a worker (docs/limits.md); a part of ``Settings``."""

from __future__ import annotations

from dataclasses import dataclass

from ibex.entrypoints.setting_values import SECONDS, Variable, int_between, seconds, setting
from ibex.entrypoints.tracing_settings import TracingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings(TracingSettings):
    """Sizes are in bytes, times in seconds. Each limit is for one worker."""

    max_request_body_bytes: int = setting(
        10 * 1024 * 1024,
        Variable(
            "IBEX_MAX_REQUEST_BODY_BYTES",
            int_between(1_024, 1 << 30),
            "1024 to 1073741824 bytes",
            "Larger request bodies are refused with 413.",
        ),
    )
    max_concurrency: int = setting(
        2_000,
        Variable(
            "IBEX_MAX_CONCURRENCY",
            int_between(1, 1_000_000),
            "1 to 1000000",
            "Chat requests at a time, for each worker; one organization alone gets three quarters (docs/limits.md).",
        ),
    )
    body_budget_bytes: int = setting(
        256 * 1024 * 1024,
        Variable(
            "IBEX_BODY_BUDGET_BYTES",
            int_between(4_096, 1 << 40),
            "4096 to 2^40 bytes, and 4 times IBEX_MAX_REQUEST_BODY_BYTES at least",
            "Bytes of request bodies in flight, for each worker; one organization alone gets three quarters.",
        ),
    )
    header_timeout_s: float = setting(
        10.0,
        Variable(
            "IBEX_HEADER_TIMEOUT",
            seconds,
            SECONDS,
            "How long a head or trailers may take, and a new connection may be silent. A body that stands still for so "
            "long is refused with 408.",
        ),
    )
    keep_alive_s: float = setting(
        75.0,
        Variable("IBEX_KEEP_ALIVE", seconds, SECONDS, "How long a connection is kept open for another request."),
    )
    max_connections: int = setting(
        10_000,
        Variable(
            "IBEX_MAX_CONNECTIONS",
            int_between(1, 1_000_000),
            "1 to 1000000",
            "Client connections at a time, for each worker; fewer where the limit of open files is low. Beyond it, "
            "connections without a request are closed, the ones that never had one first.",
        ),
    )
    client_stall_timeout_s: float = setting(
        60.0,
        Variable("IBEX_CLIENT_STALL_TIMEOUT", seconds, SECONDS, "A client that reads nothing for so long is cut off."),
    )
