"""Goal 9: from the start of the command to the first completion, embedded and in production."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import httpx
from benchmarks.proxy.turns import say

from harness.dev import IbexDev, folder_of_its_own

if TYPE_CHECKING:
    from benchmarks.proxy.options import Options
    from benchmarks.proxy.targets import Scene

_TIMEOUT_S: Final = 30.0
_QUESTION: Final = [{"role": "user", "content": "What is an ibex?"}]


def measure_starts(scene: Scene, options: Options) -> dict[str, Any]:
    """Return seconds from start to response: embedded in a new and in an existing folder, and production's proxy."""
    found: dict[str, Any] = {"embedded_s": [], "production_s": []}
    with folder_of_its_own() as folder:
        for number in range(options.starts + 1):
            took = _embedded(folder)
            if number == 0:
                found["embedded_new_s"] = took
            else:
                found["embedded_s"].append(took)
    found["production_s"] = [_production(scene) for _ in range(options.starts)]
    say(
        f"start to first answer: embedded {found['embedded_new_s']:.2f} s on a new folder,"
        f" {_list(found['embedded_s'])} on an old one; production {_list(found['production_s'])}"
    )
    return found


def _list(seconds: list[float]) -> str:
    return ", ".join(f"{one:.2f} s" for one in seconds)


def _embedded(folder: Any) -> float:
    began = time.monotonic()
    dev = IbexDev.start(folder / "home", {})  # without a key, the built-in echo provider answers
    try:
        _ask(dev.address, dev.installation["agent_token"], "gpt-4o")
        return time.monotonic() - began
    finally:
        dev.stop()


def _production(scene: Scene) -> float:
    began = time.monotonic()
    with scene.ibex(1) as ibex:
        _ask(ibex.base_url.removesuffix("/v1"), scene.stack.token, "gpt-instant")
        return time.monotonic() - began


def _ask(address: str, token: str, model: str) -> None:
    """Request until there is a response: refusals while parts still start count as start time."""
    body = {"model": model, "messages": _QUESTION}
    deadline = time.monotonic() + _TIMEOUT_S
    with httpx.Client(trust_env=False, headers={"authorization": f"Bearer {token}"}) as client:
        while client.post(f"{address}/v1/chat/completions", json=body).status_code != httpx.codes.OK:
            if time.monotonic() > deadline:
                raise TimeoutError("no completion was answered")
            time.sleep(0.01)  # the process does not report when it could answer
