"""The settings for load balancers in front of IBEX and for web pages, a part of ``Settings``."""

from __future__ import annotations

from dataclasses import dataclass

from ibex.entrypoints.limit_settings import LimitSettings
from ibex.entrypoints.setting_values import Variable, base_path, origins, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings(LimitSettings):
    """The prefix of all paths, and the web pages that can call the API. By default, both are empty."""

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
