"""The load generators of the benchmarks: they count every request and attribute delays to the server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.cpu_time import machine_used_s, memory_mb, metered, tree, used_s
from harness.nginx import nginx, nginx_program
from harness.request_load import as_fast_as_answered, at_a_rate, chat_request, responses_request
from harness.servers import fast_provider, fast_provider_process, free_port
from harness.stream_load import run_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.integration

_WORK = """
import sys, time
print(flush=True)
for _ in sys.stdin:
    began = time.process_time()
    while time.process_time() - began < 0.002:
        pass
    print(flush=True)
"""
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@contextmanager
def _server(answer: Callable[[int], bytes | None]) -> Iterator[str]:
    """Send these bytes for the n-th request. Hold responses that are None until the next bytes, then send all."""
    loop, listening = asyncio.new_event_loop(), threading.Event()
    port = free_port()
    numbers = iter(range(1_000_000))
    held: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
            held.append(writer)
            data = answer(next(numbers))
            while data is not None and held:
                held.pop().write(data)

    async def listen() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", port):
            listening.set()
            await stopping.wait()

    stopping = asyncio.Event()
    loop.set_exception_handler(lambda *_: None)  # connections that the generator has closed
    thread = threading.Thread(target=lambda: loop.run_until_complete(listen()), daemon=True)
    thread.start()
    listening.wait(10)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def _request(url: str, model: str = "gpt-instant", *, stream: bool = False) -> bytes:
    return chat_request(url, model, {"authorization": "Bearer x"}, stream=stream)


def test_open_loop_counts_a_stall_for_every_due_request() -> None:
    """The latency of a request starts when it is due, so a stall of 20 requests delays the first one the most."""
    with _server(lambda number: None if number < 20 else _ANSWER) as url:
        load = at_a_rate(url, [_request(url)], a_second=200, seconds=0.2, warm_up_s=0)
    waited = sorted(load.answers)[:15]
    assert [answer.status for answer in load.answers] == [200] * 40
    assert [one.due_ns for one in waited] == [waited[0].due_ns + number * 5_000_000 for number in range(15)]
    assert all(one.answered_ns >= waited[0].due_ns + 20 * 5_000_000 for one in waited)


def test_open_loop_counts_refused_requests_as_failed() -> None:
    """A response with another status than 200 counts as both a response and a failure."""
    refusal = _ANSWER.replace(b"200 OK", b"503 Service Unavailable")
    with _server(lambda number: refusal if number % 2 else _ANSWER) as url:
        load = at_a_rate(url, [_request(url)], a_second=200, seconds=0.1, warm_up_s=0)
    assert (len(load.answers), load.failed) == (20, 10)


def test_closed_loop_sends_exactly_the_requested_number() -> None:
    """Each of the requests is sent once and gets a response."""
    seen: list[int] = []

    def answer(number: int) -> bytes:
        seen.append(number)
        return _ANSWER

    with _server(answer) as url:
        load = as_fast_as_answered(url, [_request(url)], connections=4, most=50)
    assert (len(load.answers), load.failed, len(seen)) == (50, 0, 50)


def test_overhead_excludes_the_time_of_the_provider() -> None:
    """The provider reports its own time. The overhead is above zero and less than the whole latency."""
    with fast_provider("--first-s", "0.2", "--give-or-take-s", "0") as url:
        load = at_a_rate(url, [_request(url, "gpt-paced")], a_second=20, seconds=0.5, warm_up_s=0)
    assert len(load.answers) == 10
    assert all(answer.provider_ns >= 199_000_000 for answer in load.answers)
    assert all(0 < answer.overhead_ns < answer.answered_ns - answer.due_ns for answer in load.answers)


def test_large_requests_get_a_response() -> None:
    """The provider reads a request of a megabyte, and the next one on the same connection."""
    with fast_provider() as url:
        large = chat_request(url, "gpt-instant", {}, content="x" * 1_000_000)
        load = as_fast_as_answered(url, [large, _request(url)], connections=1, most=4)
    assert [answer.status for answer in load.answers] == [200] * 4


@pytest.mark.parametrize("make", [chat_request, responses_request])
def test_each_event_of_each_stream_is_timed_once(make: Callable[..., bytes]) -> None:
    """Three streams of five events have three first events and twelve later ones. All streams are complete."""
    with fast_provider("--first-s", "0", "--give-or-take-s", "0", "--events", "5") as url:
        request = make(url, "gpt-stream", {"authorization": "Bearer x"}, stream=True)
        delays = run_streams(url, request, 3)
    assert (delays.streams, delays.whole, len(delays.first), len(delays.later)) == (3, 3, 3, 12)
    assert min(delays.first + delays.later) > 0


@pytest.mark.skipif(nginx_program() is None, reason="there is no nginx")
def test_nginx_forwards_responses_of_the_provider() -> None:
    """Requests through nginx reach the provider and succeed."""
    with fast_provider() as upstream, nginx(upstream) as (url, _):
        load = as_fast_as_answered(url, [_request(url)], connections=2, most=10)
    assert (len(load.answers), load.failed) == (10, 0)


def test_cpu_time_is_attributed_to_the_processes_that_used_it() -> None:
    """The provider and its child processes are one group. The machine's time is above zero."""
    with fast_provider_process("--processes", "2") as (url, pid):
        with metered({"provider": [pid], "this": [os.getpid()]}) as use:
            as_fast_as_answered(url, [_request(url)], connections=20, most=20_000)
        assert len(tree(pid)) == 2
        assert memory_mb(pid) > 1
    assert use.by_group["provider"] > 0
    assert use.by_group["this"] > 0
    assert machine_used_s() > use.machine_s > 0


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel counts ticks only")
def test_cpu_time_is_finer_than_a_tick() -> None:
    """A small proxy uses some ticks in a whole measurement. A process that waits is told exactly."""
    command = [sys.executable, "-c", _WORK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        used = []
        for _ in range(5):
            before = used_s([process.pid])
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            used.append(used_s([process.pid]) - before)
        process.stdin.close()
    assert 0.0005 < sorted(used)[2] < 0.009
