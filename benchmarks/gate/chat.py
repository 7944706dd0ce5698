"""Completions through the proxy: by OpenAI's SDK, streamed beside the provider's own clock, and 100 concurrently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

import openai
from benchmarks.gate.scene import FIRST_BYTE_S, others_in
from benchmarks.gate.verdict import Line, at_most
from benchmarks.proxy.generator import percentile

from harness.cpu_time import metered
from harness.request_load import at_a_rate, chat_request
from harness.stream_load import run_streams

if TYPE_CHECKING:
    from benchmarks.gate.scene import Scene

    from harness.request_load import Load

IN_FLIGHT: Final = 100
A_SECOND: Final = IN_FLIGHT / FIRST_BYTE_S
STREAMS: Final = 50
_SECONDS: Final = 10.0
_DIRECT_SECONDS: Final = 3.0
_WARM_UP_S: Final = 2.0
_PATIENCE_S: Final = 30.0
_QUESTION: Final = "What is an ibex?"


def by_the_sdk(scene: Scene) -> list[Line]:
    """Ask for a buffered and a streamed completion with PAT and directive, as a user would."""
    with openai.OpenAI(
        base_url=scene.base_url, api_key=scene.stack.token, max_retries=0, timeout=_PATIENCE_S
    ) as client:
        create = client.chat.completions.with_raw_response.create
        raw = create(model="gpt-paced", messages=[{"role": "user", "content": _QUESTION}])
        buffered = raw.parse()
        streamed = create(model="gpt-stream", messages=[{"role": "user", "content": _QUESTION}], stream=True)
        chunks = [chunk for chunk in streamed.parse() if chunk.choices]
    scene.sent |= {UUID(answer.headers["x-request-id"]) for answer in (raw, streamed)}
    directive = raw.headers.get("x-ibex-directive", "")
    flaws = [] if buffered.choices[0].message.content else ["the answer was empty"]
    flaws += [] if chunks and chunks[-1].choices[0].finish_reason == "stop" else ["the stream had no end"]
    flaws += [] if directive else ["no directive was injected"]
    figure = f"200, {len(chunks)} chunks"
    note = "; ".join([*flaws, f"directive {directive}"])
    return [Line("completion through the proxy, PAT and directive, OpenAI SDK", figure, "both", not flaws, note)]


def first_streamed_byte(scene: Scene) -> list[Line]:
    """Time the first event of streams from its writing by the provider to its receipt by the client."""
    request = chat_request(scene.base_url, "gpt-stream", scene.headers, content=_QUESTION, stream=True)
    delays = scene.generator.run(run_streams, scene.base_url, request, STREAMS)
    ms = [delay / 1e6 for delay in delays.first]
    flaws = [f"{STREAMS - delays.whole} streams not whole"] if delays.whole < STREAMS else []
    note = f"worst of {len(ms)} streams at once, p50 {percentile(ms, 50):.2f} ms"
    worst = max(ms, default=float("nan"))
    return [at_most("first streamed byte after the provider's", worst, "100 ms", note=note, flaws=flaws)]


def overhead(scene: Scene) -> list[Line]:
    """Send requests at a rate that keeps a hundred in flight; subtract the provider's time from each.

    First measure without a proxy, which shows the share of the machine and the generator.
    """
    run = scene.generator.run
    direct = [chat_request(scene.upstream, "gpt-paced", {})]
    floor = run(at_a_rate, scene.upstream, direct, a_second=A_SECOND, seconds=_DIRECT_SECONDS)
    scene.forget_received()
    _, requests = scene.numbered(round(A_SECOND * (_SECONDS + _WARM_UP_S)))
    with metered(scene.processes()) as use:
        through = run(at_a_rate, scene.base_url, requests, a_second=A_SECOND, seconds=_SECONDS, warm_up_s=_WARM_UP_S)
    return [judge_overhead(through, floor, _SECONDS, others_in(use))]


def judge_overhead(through: Load, floor: Load, seconds: float, others: str = "") -> Line:
    """Return the line for a load of some seconds through the proxy, and the same load without one."""
    ms, floor_ms = ([answer.overhead_ns / 1e6 for answer in load.answers] for load in (through, floor))
    in_flight = sum(answer.answered_ns - answer.due_ns for answer in through.answers) / 1e9 / seconds
    note = (
        f"p50 {percentile(ms, 50):.2f} ms, {len(ms):,} requests, {in_flight:.0f} in flight;"
        f" p99 without a proxy {percentile(floor_ms, 99):.2f} ms{others}"
    )
    flaws = [f"{through.failed} failed"] if through.failed else []
    flaws += [] if in_flight >= IN_FLIGHT * 0.9 else ["not a hundred in flight"]
    what = f"overhead p99 at {IN_FLIGHT} concurrent"
    return at_most(what, percentile(ms, 99), "20 ms", note=note, flaws=flaws)


def directive_first(scene: Scene) -> list[Line]:
    """Check the messages that the provider received."""
    return [judge_received(scene.received(), "system: Be brief.")]


def judge_received(received: dict[str, int], directive: str) -> Line:
    """Return the line for received requests, by their first message."""
    good, of = received.get(directive, 0), sum(received.values())
    what = "the directive first in what the provider received"
    return Line(what, f"{good:,} of {of:,}", "all", passed=good == of > 0, value=good)
