"""`make bench-embedded`: starts and sequential requests of the embedded default, with a scripted provider on loopback.

The machine also runs other programs, so the figures show what to expect, not the optimum.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from harness.dev import IbexDev
from harness.openai import ScriptedOpenAI
from ibex.adapters.clickhouse.connection import ClickHouseAddress, disconnect

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

REQUESTS = 50
WARM_UP = 5
_TRACE = "SELECT 1 FROM {database:Identifier}.llm_traces WHERE request_id = {request_id:UUID}"


def main() -> None:
    """Measure and print the figures."""
    with tempfile.TemporaryDirectory(prefix="ibex-bench-") as folder, ScriptedOpenAI.in_thread() as provider:
        home = Path(folder) / "home"
        environ = {"OPENAI_API_KEY": "sk-scripted", "OPENAI_BASE_URL": provider.base_url}
        first, dev = _start(home, environ)
        dev.stop()
        again, dev = _start(home, environ)
        try:
            _say(f"start to ready: {first:.2f} s on a new folder, {again:.2f} s on an old one")
            for stream in (False, True):
                _requests(dev, stream=stream)
        finally:
            dev.stop()


def _start(home: Path, environ: dict[str, str]) -> tuple[float, IbexDev]:
    started = time.monotonic()
    dev = IbexDev.start(home, environ)
    return time.monotonic() - started, dev


def _requests(dev: IbexDev, *, stream: bool) -> None:
    address = ClickHouseAddress.parse(
        json.loads((dev.home / "running.json").read_text())["environ"]["IBEX_CLICKHOUSE_URL"]
    )
    clickhouse = address.connect()
    body = {"model": "gpt-4o", "stream": stream, "messages": [{"role": "user", "content": "What is an ibex?"}]}
    bearer = {"Authorization": f"Bearer {dev.installation['agent_token']}"}
    own_ms, visible_ms = [], []
    with httpx.Client(base_url=dev.address, headers=bearer, trust_env=False) as client:
        for _ in range(WARM_UP + REQUESTS):
            answer = client.post("/v1/chat/completions", json=body)
            answered = time.monotonic()
            _wait_until_visible(clickhouse, address.database, answer.headers["x-request-id"])
            visible_ms.append((time.monotonic() - answered) * 1_000)
            stages = dict(stage.split(";dur=") for stage in answer.headers["server-timing"].split(", "))
            own_ms.append(sum(float(ms) for stage, ms in stages.items() if stage != "provider"))
    disconnect(clickhouse)
    _say(
        f"{'streamed' if stream else 'buffered'}, one at a time: stages before the provider {_told(own_ms)};"
        f" trace can be queried after {_told(visible_ms)}"
    )


def _wait_until_visible(clickhouse: Client, database: str, request_id: str) -> None:
    parameters = {"database": database, "request_id": request_id}
    while not clickhouse.query(_TRACE, parameters=parameters).result_rows:
        pass


def _told(values: list[float]) -> str:
    measured = values[WARM_UP:]
    return f"p50 {statistics.median(measured):.1f} ms, worst {max(measured):.1f} ms"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
