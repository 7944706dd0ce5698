"""`make bench-streams`: the overhead and memory of streaming through IBEX, and how soon it closes upstream connections.

A production stack on loopback. Each event of the provider contains the monotonic time of its writing, so the delay of
every event is known; the same streams directly from the provider show the machine's share. Streams of the Responses API
are measured beside those of chat completions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import uvloop

from harness.request_load import chat_request, responses_request
from harness.servers import fast_provider
from harness.stack import production_stack
from harness.stream_load import run_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.stack import Stack

EVENTS_A_SECOND: Final = 50


def _request(stack: Stack, model: str, *, content: str = "hi", stream: bool = True) -> bytes:
    bearer = {"authorization": f"Bearer {stack.token}"}
    return chat_request(stack.address, model, bearer, content=content, stream=stream)


def _told(delays: Sequence[int]) -> str:
    ms = sorted(delay / 1e6 for delay in delays)
    p99 = ms[min(len(ms) - 1, int(len(ms) * 0.99))]
    return f"p50 {statistics.median(ms):.2f} ms, p99 {p99:.2f} ms"


def _measure_delays(counts: Sequence[int], seconds: float, workers: int) -> None:
    events = int(seconds * EVENTS_A_SECOND)
    pace = ("--events", str(events), "--events-a-second", str(EVENTS_A_SECOND), "--processes", "2")
    with (
        fast_provider(*pace, "--first-s", "0.25", "--give-or-take-s", "0.1") as upstream,
        production_stack(upstream, workers) as stack,
    ):
        bearer = {"authorization": f"Bearer {stack.token}"}
        requests = {
            "chat completions": _request(stack, "gpt-stream"),
            "responses": responses_request(stack.address, "gpt-stream", bearer, stream=True),
        }
        for request in requests.values():
            run_streams(stack.address, request, 20)
        for count in counts:
            for name, request in requests.items():
                direct, through = (run_streams(url, request, count) for url in (upstream, stack.address))
                _say(f"{name}: {count} streams, {events} events at {EVENTS_A_SECOND}/s, {workers} workers")
                for server, delays in (("the provider alone", direct), ("through IBEX", through)):
                    told = f"first event {_told(delays.first)}; others {_told(delays.later)}; {delays.whole} whole"
                    _say(f"  {server}: {told}")
            _say(f"  memory of the workers: {_memory(stack)}")


def _memory(stack: Stack) -> str:
    sizes = []
    for pid in stack.worker_pids():
        status = Path(f"/proc/{pid}/status").read_text()
        now, peak = (int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) for name in ("VmRSS", "VmHWM"))  # type: ignore[index]  # the kernel always says it
        sizes.append(f"{now / 1024:.0f} MB (at most {peak / 1024:.0f} MB)")
    return ", ".join(sizes)


async def _stop_reading(stack: Stack, count: int, seconds: float) -> None:
    parts = urlsplit(stack.address)
    request = _request(stack, "gpt-stream")
    open_ones = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1)
        writer.write(request)
        open_ones.append((reader, writer))
    await asyncio.sleep(seconds)
    _say(f"{count} clients that read nothing for {seconds:.0f} s of 1.3 MB/s each: memory {_memory(stack)}")
    for _, writer in open_ones:
        writer.transport.abort()


async def _lost(upstream: str) -> dict[str, int]:
    parts = urlsplit(upstream)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(b"GET /lost HTTP/1.1\r\nhost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]  # it says so
    lost: dict[str, int] = json.loads(await reader.readexactly(length))
    writer.close()
    return lost


async def _warm_up(stack: Stack) -> None:
    """Complete one response first: a worker's first request may take longer than the clients below stay."""
    parts = urlsplit(stack.address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(_request(stack, "gpt-instant", stream=False))
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def _disconnects(stack: Stack, upstream: str, tries: int) -> None:
    parts = urlsplit(stack.address)
    await _warm_up(stack)
    cases = {
        "before headers": ("gpt-silent", True),
        "mid-stream": ("gpt-begins", True),
        "buffered": ("gpt-silent", False),
    }
    for case, (model, stream) in cases.items():
        took = []
        for number in range(tries):
            name = f"{case} {number}"
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(_request(stack, model, content=name, stream=stream))
            if model == "gpt-begins":
                await reader.readuntil(b"data: ")
            else:
                await asyncio.sleep(0.2)  # by then the request has reached the provider, which stays silent
            writer.close()
            left = time.monotonic_ns()
            while name not in (lost := await _lost(upstream)):
                pass
            took.append((lost[name] - left) / 1e6)
        _say(
            f"client gone {case}: upstream closed after p50 {statistics.median(took):.1f} ms, worst {max(took):.1f} ms"
        )


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 100, 500])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tries", type=int, default=50)
    options = parser.parse_args()
    _measure_delays(options.streams, options.seconds, options.workers)
    flood = ("--first-s", "0", "--give-or-take-s", "0", "--events", "100000", "--events-a-second", "20")
    with fast_provider(*flood, "--padding", "65536") as upstream, production_stack(upstream, 1) as stack:
        _say(f"a worker at rest: memory {_memory(stack)}")
        uvloop.run(_stop_reading(stack, 100, 10))
    with fast_provider() as upstream, production_stack(upstream, 1) as stack:
        uvloop.run(_disconnects(stack, upstream, options.tries))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
