"""The settings for load balancers in front of IBEX and for web pages, a part of ``Settings``."""

from __future__ import annotations

from dataclasses import dataclass

from ibex.entrypoints.limit_settings import LimitSettings
from ibex.entrypoints.setting_values import (
    SECONDS,
    Variable,
    base_path,
    delay,
    host_and_port,
    origins,
    seconds,
    setting,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings(LimitSettings):
    """The prefix of all paths, the web pages that can call the API, the operations address, and the drain's times."""

    base_path: str = setting(
        "",
        Variable(
            "IBEX_BASE_PATH",
            base_path,
            "a path such as /gateway",
            "The prefix of every path of the proxy, such as /gateway/v1/chat/completions. IBEX_URL includes it.",
        ),
    )
    cors_origins: tuple[str, ...] = setting(
        (),
        Variable(
            "IBEX_CORS_ORIGINS",
            origins,
            "origins such as https://app.example.com, separated by commas, or * alone",
            "The origins whose web pages can call the API (CORS). `*` allows every page; each request still needs a "
            "token.",
        ),
    )
    ops_listen: str | None = setting(
        None,
        Variable(
            "IBEX_OPS_LISTEN",
            host_and_port,
            "host:port, port 0 for any free port",
            "The operations address of the proxy: /health, /ready and /metrics. With it, the proxy's own address has "
            "no /metrics. Paths there have no base path.",
        ),
    )
    drain_delay_s: float = setting(
        5.0,
        Variable(
            "IBEX_DRAIN_DELAY",
            delay,
            "seconds, 0 to 86400",
            "How long a stopping process, which is no longer ready, still accepts connections. Load "
            "balancers must notice within this time. The default of `ibex dev` is 0.",
        ),
    )
    shutdown_timeout_s: float = setting(
        30.0,
        Variable(
            "IBEX_SHUTDOWN_TIMEOUT",
            seconds,
            SECONDS,
            "The time for running requests to finish after a stopping process no longer accepts connections.",
        ),
    )
