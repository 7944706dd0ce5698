"""The load generators of the benchmarks: they count every request, and charge a server with what it delays."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from harness.cpu_time import machine_used_s, memory_mb, metered, tree
from harness.nginx import nginx, nginx_program
from harness.request_load import as_fast_as_answered, at_a_rate, chat_request, responses_request
from harness.servers import fast_provider, fast_provider_process, free_port
from harness.stream_load import run_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.integration

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@contextmanager
def _server(answer: Callable[[int], bytes | None]) -> Iterator[str]:
    """Answer the n-th request with these bytes; hold back those with None until there is an answer, then all."""
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


def test_open_loop_charges_a_stall_with_all_that_was_due_meanwhile() -> None:
    """A server that answers nothing for 20 requests delays each of them from when it was due, the first the most."""
    with _server(lambda number: None if number < 20 else _ANSWER) as url:
        load = at_a_rate(url, [_request(url)], a_second=200, seconds=0.2, warm_up_s=0)
    waited = sorted(load.answers)[:15]
    assert [answer.status for answer in load.answers] == [200] * 40
    assert [one.due_ns for one in waited] == [waited[0].due_ns + number * 5_000_000 for number in range(15)]
    assert all(one.answered_ns >= waited[0].due_ns + 20 * 5_000_000 for one in waited)


def test_open_loop_counts_what_is_refused_as_failed() -> None:
    """An answer other than 200 counts as an answer and as a failure."""
    refusal = _ANSWER.replace(b"200 OK", b"503 Service Unavailable")
    with _server(lambda number: refusal if number % 2 else _ANSWER) as url:
        load = at_a_rate(url, [_request(url)], a_second=200, seconds=0.1, warm_up_s=0)
    assert (len(load.answers), load.failed) == (20, 10)


def test_closed_loop_sends_each_request_once_and_no_more_than_asked() -> None:
    """So many requests are sent, in turn, and all of them are answered."""
    seen: list[int] = []

    def answer(number: int) -> bytes:
        seen.append(number)
        return _ANSWER

    with _server(answer) as url:
        load = as_fast_as_answered(url, [_request(url)], connections=4, most=50)
    assert (len(load.answers), load.failed, len(seen)) == (50, 0, 50)


def test_overhead_is_what_the_provider_did_not_spend_itself() -> None:
    """Of a paced provider's answer, what it says it took is taken off: the rest is above zero, and less than it."""
    with fast_provider("--first-s", "0.2", "--give-or-take-s", "0") as url:
        load = at_a_rate(url, [_request(url, "gpt-paced")], a_second=20, seconds=0.5, warm_up_s=0)
    assert len(load.answers) == 10
    assert all(answer.provider_ns >= 199_000_000 for answer in load.answers)
    assert all(0 < answer.overhead_ns < answer.answered_ns - answer.due_ns for answer in load.answers)


def test_large_requests_are_answered_however_they_are_cut() -> None:
    """The provider takes a request of a megabyte, and the next on the same connection."""
    with fast_provider() as url:
        large = chat_request(url, "gpt-instant", {}, content="x" * 1_000_000)
        load = as_fast_as_answered(url, [large, _request(url)], connections=1, most=4)
    assert [answer.status for answer in load.answers] == [200] * 4


@pytest.mark.parametrize("make", [chat_request, responses_request])
def test_each_event_of_each_stream_is_timed_once(make: Callable[..., bytes]) -> None:
    """Of three streams of five events, three are first events and twelve are not; all streams are whole."""
    with fast_provider("--first-s", "0", "--give-or-take-s", "0", "--events", "5") as url:
        request = make(url, "gpt-stream", {"authorization": "Bearer x"}, stream=True)
        delays = run_streams(url, request, 3)
    assert (delays.streams, delays.whole, len(delays.first), len(delays.later)) == (3, 3, 3, 12)
    assert min(delays.first + delays.later) > 0


@pytest.mark.skipif(nginx_program() is None, reason="there is no nginx")
def test_nginx_passes_on_what_the_provider_answers() -> None:
    """Requests through nginx reach the provider and are answered."""
    with fast_provider() as upstream, nginx(upstream) as (url, _):
        load = as_fast_as_answered(url, [_request(url)], connections=2, most=10)
    assert (len(load.answers), load.failed) == (10, 0)


def test_processor_time_is_accounted_to_the_processes_that_used_it() -> None:
    """A provider that works is charged for it, with its children; the machine with at least that."""
    with fast_provider_process("--processes", "2") as (url, pid):
        with metered({"provider": [pid], "this": [os.getpid()]}) as use:
            as_fast_as_answered(url, [_request(url)], connections=20, most=20_000)
        assert len(tree(pid)) == 2
        assert memory_mb(pid) > 1
    assert use.by_group["provider"] > 0
    assert use.by_group["this"] > 0
    assert machine_used_s() > use.machine_s > 0
