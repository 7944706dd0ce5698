"""The settings of the limits on clients, a part of ``Settings`` (docs/limits.md)."""

from __future__ import annotations

from dataclasses import dataclass

from ibex.entrypoints.setting_values import SECONDS, Variable, int_between, seconds, setting
from ibex.entrypoints.tracing_settings import TracingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings(TracingSettings):
    """Limits on the clients of one worker. Sizes are in bytes, times in seconds."""

    max_request_body_bytes: int = setting(
        10 * 1024 * 1024,
        Variable(
            "IBEX_MAX_REQUEST_BODY_BYTES",
            int_between(1_024, 1 << 30),
            "1024 to 1073741824 bytes",
            "The maximum size of a request body. Larger ones are refused with 413.",
        ),
    )
    max_concurrency: int = setting(
        2_000,
        Variable(
            "IBEX_MAX_CONCURRENCY",
            int_between(1, 1_000_000),
            "1 to 1000000",
            "Concurrent requests per worker. One organization can use at most three quarters (docs/limits.md).",
        ),
    )
    body_budget_bytes: int = setting(
        256 * 1024 * 1024,
        Variable(
            "IBEX_BODY_BUDGET_BYTES",
            int_between(4_096, 1 << 40),
            "4096 to 2^40 bytes, at least 4 times IBEX_MAX_REQUEST_BODY_BYTES",
            "Bytes of request bodies in flight per worker. One organization can use at most three quarters.",
        ),
    )
    header_timeout_s: float = setting(
        10.0,
        Variable(
            "IBEX_HEADER_TIMEOUT",
            seconds,
            SECONDS,
            "The time limit for a request's head, for its trailers, and for the first byte of a new connection. A body "
            "without progress for this long is refused with 408.",
        ),
    )
    keep_alive_s: float = setting(
        75.0,
        Variable("IBEX_KEEP_ALIVE", seconds, SECONDS, "How long an idle connection stays open for the next request."),
    )
    max_connections: int = setting(
        10_000,
        Variable(
            "IBEX_MAX_CONNECTIONS",
            int_between(1, 1_000_000),
            "1 to 1000000",
            "Concurrent client connections per worker, fewer if the limit of open files is low. Beyond it, IBEX closes "
            "connections without a request, first those that never had one.",
        ),
    )
    refusal_delay_s: float = setting(
        0.25,
        Variable(
            "IBEX_REFUSAL_DELAY",
            seconds,
            SECONDS,
            "The delay of refusals for an organization beyond its limit of refused requests, and for guessed secrets.",
        ),
    )
    client_stall_timeout_s: float = setting(
        60.0,
        Variable(
            "IBEX_CLIENT_STALL_TIMEOUT", seconds, SECONDS, "A client that reads nothing for this long is disconnected."
        ),
    )
