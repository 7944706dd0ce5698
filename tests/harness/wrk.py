"""Run wrk and parse its output."""

from __future__ import annotations

import math
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from typing import Final

_LATENCY = re.compile(r"^percentile ([\d.]+) (\d+)$", re.MULTILINE)
_DONE: Final = """
function done(summary, latency, requests)
  for _, p in ipairs({%s}) do
    io.write(string.format("percentile %%g %%d\\n", p, p == 0 and latency.min or latency:percentile(p)))
  end
end
"""
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_REQUESTS = re.compile(r"(\d+) requests in")
_BAD = re.compile(
    r"Non-2xx or 3xx responses: (\d+)|Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)"
)


PERCENTILES: Final = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99)
"""Those that a curve is drawn of."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A run: requests per second, latencies in milliseconds by percentile, and numbers of all and of failed requests.

    ``cpu_s`` is the processor time of the generator itself.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    requests: int
    failed: int
    curve: dict[float, float] = field(default_factory=dict)
    cpu_s: float = 0.0


def require_wrk() -> None:
    """Exit with a message if wrk is not installed."""
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk (Debian: apt-get install wrk): nothing in Python generates load fast enough")


def run_wrk(url: str, body: str, headers: dict[str, str], *, connections: int, seconds: float) -> Measured:
    """Load a URL with a closed loop of connections for some seconds."""
    lines = ['wrk.method = "POST"', f"wrk.body = [==[{body}]==]"]
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    lines.append(_DONE % ", ".join(map(str, PERCENTILES)))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write("\n".join(lines))
        script.flush()
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "--timeout",
            "20s",
            "-s",
            script.name,
        ]
        said = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    curve = {float(percent): int(us) / 1_000 for percent, us in _LATENCY.findall(said)}
    rate, requests = _RATE.search(said), _REQUESTS.search(said)
    failed = sum(int(number) for found in _BAD.findall(said) for number in found if number)
    if rate is None or requests is None:
        raise RuntimeError(f"wrk said something else: {said}")
    p50_ms, p99_ms = curve.get(50, math.nan), curve.get(99, math.nan)
    cpu_used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(float(rate[1]), p50_ms, p99_ms, int(requests[1]), failed, curve, cpu_used_s)
