"""The load generator: wrk, or a process with this project's generator, which is also measured without a proxy."""

from __future__ import annotations

import math
import multiprocessing
import shutil
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from harness.request_load import as_fast_as_answered
from harness.wrk import PERCENTILES, Measured, run_wrk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from benchmarks.proxy.targets import Target

    from harness.request_load import Load

P = ParamSpec("P")
R = TypeVar("R")
_SETTLED: Final = 5
HAS_WRK: Final = shutil.which("wrk") is not None


class Generator(AbstractContextManager["Generator"]):
    """A process that generates load, separate from the rest of the benchmark."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """Run a function of a module in the process and return its result."""
        return self.begin(function, *arguments, **options).result()

    def begin(self, function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> Future[R]:
        """Start a function in the process and return the future of its result."""
        return self._pool.submit(function, *arguments, **options)

    def settle(self, target: Target) -> None:
        """Wait until a target answers promptly again: some continue requests whose clients have left."""
        request = target.request("gpt-instant")
        self.run(as_fast_as_answered, target.base_url, [request], connections=1, most=_SETTLED)

    def closed_loop(self, target: Target, *, connections: int, seconds: float) -> Measured:
        """Request instant responses in a closed loop, with wrk if it is installed."""
        request = target.request("gpt-instant")
        if not HAS_WRK:
            load = self.run(as_fast_as_answered, target.base_url, [request], connections=connections, seconds=seconds)
            return _measured(load)
        body = request.partition(b"\r\n\r\n")[2].decode()
        headers = {**target.headers, "content-type": "application/json"}
        return run_wrk(f"{target.base_url}/chat/completions", body, headers, connections=connections, seconds=seconds)


def curve(values: Sequence[float]) -> dict[float, float]:
    """Return values by percentile, for those percentiles of a curve that the number of values supports."""
    ordered = sorted(values)
    enough = [percent for percent in PERCENTILES if len(ordered) * (100 - percent) >= 100]  # noqa: PLR2004 - one value
    return {percent: ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] for percent in enough}


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile by nearest rank; NaN if there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else math.nan


def _measured(load: Load) -> Measured:
    ms = [(answer.answered_ns - answer.sent_ns) / 1e6 for answer in load.answers]
    found: dict[str, Any] = {"p50_ms": percentile(ms, 50), "p99_ms": percentile(ms, 99)}
    return Measured(
        rate=len(ms) / load.seconds, requests=len(ms), failed=load.failed, curve=curve(ms), cpu_s=load.cpu_s, **found
    )
