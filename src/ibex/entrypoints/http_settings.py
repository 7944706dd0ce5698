"""The settings of the HTTP API towards proxies in front of IBEX and web pages, a part of ``Settings``."""

from __future__ import annotations

from dataclasses import dataclass

from ibex.entrypoints.limit_settings import LimitSettings
from ibex.entrypoints.setting_values import Variable, base_path, origins, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings(LimitSettings):
    """The prefix of all paths, and the web pages that may call the API. By default there are none."""

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
