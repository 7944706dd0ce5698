"""Goal 7: large requests, and whether idle agents and sessions slow down the active ones."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy.gateways import NGINX
from benchmarks.proxy.generator import percentile
from benchmarks.proxy.targets import DIRECT, WORKERS, ibex_name
from benchmarks.proxy.turns import accounted, in_turns, say

from harness.request_load import as_fast_as_answered, at_a_rate, chat_request
from ibex.domain.identity.management import TokenGrant
from ibex.domain.identity.permissions import AGENT_DEFAULT
from ibex.domain.proxying.capacity import BODY_BURST_BYTES, BODY_BYTES_PER_S
from ibex.entrypoints.administration import administration
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from benchmarks.proxy.options import Options
    from benchmarks.proxy.targets import Scene, Target

    from harness.request_load import Load

SIZES: Final = {"1 MB": 1_000_000, "10 MB": 10_000_000}
_WARM_UP: Final = 2
_AT_ONCE: Final = 50


def measure_sizes(scene: Scene, options: Options) -> dict[str, Any]:
    """Return p50 and worst in milliseconds by target and size of request.

    They come one after the other, without a pause if the burst of an organization's bodies allows that, else at half of
    the rate at which IBEX reads them (ADR 0042).
    """

    def measure(name: str) -> dict[str, dict[str, float]]:
        found = {}
        with scene.target(name) as target:
            for size, length in SIZES.items():
                request = [target.request("gpt-instant", content="x" * length)]
                load = _large(scene, target.base_url, request, length, options.large_tries)
                ms = [(answer.answered_ns - answer.sent_ns) / 1e6 for answer in load.answers]
                found[size] = {"p50_ms": percentile(ms, 50), "worst_ms": max(ms, default=0.0), "failed": load.failed}
        told = ", ".join(f"{size} {one['p50_ms']:.1f} ms" for size, one in found.items())
        say(f"large requests: {name}: {told}")
        return found

    names = [DIRECT, *(name for name in (NGINX,) if name in scene.others), ibex_name(1)]
    return {"runs": in_turns(names, options.rounds, measure)}


def _large(scene: Scene, base_url: str, request: Sequence[bytes], length: int, tries: int) -> Load:
    if length * (_WARM_UP + tries) <= BODY_BURST_BYTES:
        scene.generator.run(as_fast_as_answered, base_url, request, connections=1, most=_WARM_UP)
        return scene.generator.run(as_fast_as_answered, base_url, request, connections=1, most=tries)
    a_second = BODY_BYTES_PER_S / 2 / length
    return scene.generator.run(
        at_a_rate, base_url, request, a_second=a_second, seconds=tries / a_second, warm_up_s=_WARM_UP / a_second
    )


def measure_idle(scene: Scene, options: Options) -> dict[str, Any]:
    """Return the cost of one token's requests before and after many others, each with its own agent and session.

    Then measure at once a fresh worker, which has served none of them, to show changes of the machine.
    """
    with scene.ibex(1) as ibex:
        before = _cost(scene, ibex, options)
        began = time.monotonic()
        tokens = asyncio.run(_create(scene.stack.production.environ, options.idle))
        created_s = time.monotonic() - began
        requests = [
            chat_request(
                ibex.base_url,
                "gpt-instant",
                {"authorization": f"Bearer {token}", "x-ibex-session-id": f"idle-{number}"},
            )
            for number, token in enumerate(tokens)
        ]
        load = scene.generator.run(as_fast_as_answered, ibex.base_url, requests, connections=20, most=len(requests))
        after = _cost(scene, ibex, options)
    with scene.ibex(1) as ibex:
        afresh = _cost(scene, ibex, options)
    say(
        f"{options.idle} idle tokens, agents and sessions (made in {created_s:.0f} s, {load.failed} failed):"
        f" {before['cpu_us']:.0f} µs a request before, {after['cpu_us']:.0f} µs after, {afresh['cpu_us']:.0f} µs afresh"
    )
    return {"idle": options.idle, "failed": load.failed, "before": before, "after": after, "afresh": afresh}


def _cost(scene: Scene, ibex: Target, options: Options) -> dict[str, float]:
    scene.generator.closed_loop(ibex, connections=20, seconds=1)
    costs = []
    for _ in range(options.rounds):
        with accounted(ibex) as cpu:
            found = scene.generator.closed_loop(ibex, connections=20, seconds=options.seconds)
            cpu["cpu_s"] = found.cpu_s
        costs.append({"p50_ms": found.p50_ms, "cpu_us": cpu["groups"][WORKERS] / found.requests * 1e6})
    return {key: statistics.median(cost[key] for cost in costs) for key in costs[0]}


async def _create(environ: Mapping[str, str], count: int) -> list[str]:
    """Create agents, each with a token that is bound to it, and return the tokens."""
    async with administration(Settings.load(environ)) as admin:
        (organization,) = await admin.identity.organizations()
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int, org_id: UUID) -> str:
            async with turn:
                agent = await admin.identity.create_agent(org_id, f"idle {number}")
                grant = TokenGrant(f"idle {number}", AGENT_DEFAULT, agent_id=agent.id)
                return (await admin.identity.create_token(org_id, grant)).reveal()

        return await asyncio.gather(*(one(number, organization.id) for number in range(count)))
