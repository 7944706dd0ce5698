"""The settings of the HTTP API towards proxies in front of IBEX, a part of ``Settings``."""

from __future__ import annotations

from dataclasses import dataclass

from ibex.entrypoints.limit_settings import LimitSettings
from ibex.entrypoints.setting_values import Variable, base_path, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings(LimitSettings):
    """The prefix of all paths."""

    base_path: str = setting(
        "",
        Variable(
            "IBEX_BASE_PATH",
            base_path,
            "a path such as /gateway",
            "The prefix of every path of the proxy, such as /gateway/v1/chat/completions. IBEX_URL includes it.",
        ),
    )
