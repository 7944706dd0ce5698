"""`make bench-transport`: the throughput of a forwarder over several HTTP clients, beside nginx, in one run.

One process each; 100 connections in a closed loop; an upstream that answers at once. The rows take turns, so that
other load of the machine affects all of them; the table shows the median of the rounds, and their range.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.cpu_time import metered
from harness.http_clients import CLIENTS
from harness.nginx import nginx, nginx_program
from harness.servers import fast_provider, free_port, listening
from harness.wrk import require_wrk, run_wrk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.wrk import Measured

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results"
BODY: Final = json.dumps(
    {"model": "gpt-instant", "messages": [{"role": "user", "content": "What is an ibex? " * 10}], "temperature": 0.2}
)
HEADERS: Final = {"content-type": "application/json", "authorization": "Bearer " + "x" * 100}
NGINX: Final = "nginx proxy_pass"
_ENVIRON: Final = {**os.environ, "PYTHONPATH": str(HERE.parent / "tests")}
_PACKAGES: Final = {"httpx2.AsyncClient": "httpx2", "httpx-aiohttp": "httpx_aiohttp"}


def main() -> None:
    """Measure, print the table, and write it with all other figures to ``results``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--only", nargs="*", help="names of rows")
    options = parser.parse_args()
    require_wrk()
    rows = [name for name in (NGINX, *CLIENTS) if not options.only or name in options.only]
    missing = {name for name in rows if not _is_there(name)}
    measured: dict[str, list[Measured]] = {name: [] for name in rows if name not in missing}
    cpu_us: dict[str, list[float]] = {name: [] for name in measured}
    with fast_provider() as upstream:
        for number in range(options.rounds):
            for name, so_far in measured.items():
                found, cpu = _measure(name, upstream, options.seconds)
                so_far.append(found)
                cpu_us[name].append(cpu)
                _say(
                    f"round {number + 1}: {name}: {found.rate:,.0f}/s, p99 {found.p99_ms:.1f} ms, {found.failed} failed"
                )
    table = _table(measured, cpu_us)
    if missing:
        table += f"\nNot installed: {', '.join(sorted(missing))}.\n"
    _say("\n" + table)
    _keep(table, {name: [asdict(one) for one in found] for name, found in measured.items()}, cpu_us)


def _is_there(name: str) -> bool:
    if name == NGINX:
        return nginx_program() is not None
    package = _PACKAGES.get(name, name)
    return not package.isidentifier() or importlib.util.find_spec(package) is not None


def _measure(name: str, upstream: str, seconds: float) -> tuple[Measured, float]:
    with nginx(upstream) if name == NGINX else _forwarder(name, upstream) as (base_url, pid):
        url = base_url + "/chat/completions"
        run_wrk(url, BODY, HEADERS, connections=100, seconds=1)
        with metered({name: [pid]}) as use:
            found = run_wrk(url, BODY, HEADERS, connections=100, seconds=seconds)
        return found, use.by_group[name] / found.requests * 1e6


@contextmanager
def _forwarder(name: str, upstream: str) -> Iterator[tuple[str, int]]:
    port = free_port()
    command = [sys.executable, "-m", "harness.http_clients", name, str(port), f"{upstream}/chat/completions"]
    with listening(command, port, env=_ENVIRON) as pid:
        yield f"http://127.0.0.1:{port}/v1", pid


def _table(measured: dict[str, list[Measured]], cpu_us: dict[str, list[float]]) -> str:
    best = statistics.median(one.rate for one in measured[NGINX]) if NGINX in measured else None
    lines = [
        "| one process | requests/s | range | of nginx | p50 | p99 | CPU a request | failed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in measured.items():
        rates = sorted(one.rate for one in found)
        rate = statistics.median(rates)
        share = f"{rate / best:.2f}" if best else ""
        p50, p99 = (statistics.median(getattr(one, key) for one in found) for key in ("p50_ms", "p99_ms"))
        cpu = statistics.median(cpu_us[name])
        failed = sum(one.failed for one in found)
        lines.append(
            f"| {name} | {rate:,.0f} | {rates[0]:,.0f}-{rates[-1]:,.0f} | {share} | {p50:.1f} ms | {p99:.1f} ms"
            f" | {cpu:.0f} µs | {failed} |"
        )
    return "\n".join(lines) + "\n"


def _keep(table: str, runs: dict[str, Any], cpu_us: dict[str, list[float]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    about = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "commit": git.stdout.strip(),
        "versions": {dist.name: dist.version for dist in importlib.metadata.distributions()},
    }
    (RESULTS / "transport.json").write_text(json.dumps({"about": about, "runs": runs, "cpu_us": cpu_us}, indent=1))
    head = f"{about['machine']}, Python {about['python']}, commit {str(about['commit'])[:8]}\n\n"
    (RESULTS / "transport.md").write_text(head + table)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
