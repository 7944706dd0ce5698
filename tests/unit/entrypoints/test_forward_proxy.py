"""The warning about a forward proxy that the direct transport does not use."""

from __future__ import annotations

import pytest

from harness.logs import logged
from ibex.entrypoints.forward_proxy import ignored_proxy
from ibex.entrypoints.settings import Settings
from ibex.entrypoints.start_warnings import warn_of_environment

PROXY = "http://canary-user:canary-password@proxy.example:3128"
KEY = {"OPENAI_API_KEY": "sk-x"}


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, "HTTPS_PROXY"),
        ({"https_proxy": PROXY}, "https_proxy"),
        ({"ALL_PROXY": PROXY}, "ALL_PROXY"),
        ({"all_proxy": PROXY, "HTTPS_PROXY": PROXY}, "HTTPS_PROXY"),
        ({"https_proxy": "", "HTTPS_PROXY": PROXY}, None),
        ({"HTTP_PROXY": PROXY}, None),
        ({"HTTP_PROXY": PROXY, "OPENAI_BASE_URL": "http://llm.example/v1"}, "HTTP_PROXY"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "other.example"}, "HTTPS_PROXY"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "other.example, openai.com"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": ".OpenAI.com"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "api.openai.com"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "ai.com,,"}, "HTTPS_PROXY"),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "*"}, None),
        ({"HTTPS_PROXY": PROXY, "IBEX_OPENAI_TRANSPORT": "httpx"}, None),
        ({"HTTPS_PROXY": PROXY, "OPENAI_API_KEY": ""}, None),
    ],
)
def test_the_warning_requires_a_proxy_that_a_client_would_use(environ: dict[str, str], named: str | None) -> None:
    """The message omits the value, which may contain a password."""
    message = ignored_proxy(Settings.load(KEY | environ), environ)

    assert (message is None) is (named is None)
    if message is not None:
        assert message.startswith(f"{named} is set, but IBEX_OPENAI_TRANSPORT=direct connects to ")
        assert "canary" not in message
        assert "proxy.example" not in message


def test_the_warning_is_one_line_of_the_log() -> None:
    """It is logged as a warning at start."""
    with logged() as lines:
        warn_of_environment(Settings.load(KEY), {"HTTPS_PROXY": PROXY})
        warn_of_environment(Settings.load(KEY), {})

    (line,) = lines
    assert (line["level"], line["source"]) == ("warning", "ibex.settings")
    assert line["event"].endswith("or add api.openai.com to NO_PROXY.")
