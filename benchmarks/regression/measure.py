"""Measure both trees in turns: one proxy worker of each, with all parts on, under the same load."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from benchmarks.proxy.generator import Generator, percentile
from benchmarks.proxy.installation import find_installation
from benchmarks.proxy.targets import DIRECT, PROVIDER, Scene, Target
from benchmarks.proxy.turns import say
from benchmarks.regression.comparison import Comparison, baseline_first
from benchmarks.regression.counters import CALLS_FOLDER, PROBE, count_calls, wait_until_idle
from benchmarks.regression.trees import require_importable

from harness.request_load import as_fast_as_answered, at_a_rate
from harness.servers import fast_provider_process
from harness.stack import stack_without_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from benchmarks.regression.counters import Count, Counter

T = TypeVar("T")
BASELINE: Final = "baseline"
THIS: Final = "this tree"
EVENTS: Final = 20
_PACE: Final = ("--first-s", "0", "--give-or-take-s", "0", "--events", str(EVENTS), "--events-a-second", "400")
_NEVER_REACHED: Final = "1000000000"  # requests a minute, counted in Redis
_LOAD_TIMEOUT_S: Final = 60


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of request: the number of requests in a measurement, and when they are sent.

    Each of ``connections`` sends its next request after each response; or all together send ``a_second``.
    """

    name: str
    model: str
    is_stream: bool
    requests: int
    connections: int = 10
    a_second: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The measurements and their number.

    The proxies restart after ``pairs_a_start`` pairs: two starts of one program differ in their memory layout, and
    therefore in the cost of a request.
    """

    scenarios: tuple[Scenario, ...]
    pairs: int = 10
    pairs_a_start: int = 2


_CHAT: Final = Scenario("buffered chat", "gpt-instant", is_stream=False, requests=1_500)
_STREAM: Final = Scenario(f"stream of {EVENTS} events", "gpt-stream", is_stream=True, requests=120)
FULL: Final = Plan((_CHAT, _STREAM))
# A fixed rate, because a batch covers a fixed time, so the calls per request depend on the rate.
COUNTED: Final = Plan(
    (replace(_CHAT, requests=200, a_second=150), replace(_STREAM, requests=20, a_second=15)), pairs=5, pairs_a_start=5
)


@dataclass(frozen=True, slots=True)
class Tree:
    """A source tree: its ``src``, and auth and databases that run for it alone."""

    source: Path
    scene: Scene


@dataclass(slots=True)
class Figures:
    """The results of one scenario, pair by pair, for each tree by its name."""

    per_request: dict[str, list[float]] = field(default_factory=lambda: {BASELINE: [], THIS: []})
    p50_ms: dict[str, list[float]] = field(default_factory=lambda: {BASELINE: [], THIS: []})
    p99_ms: dict[str, list[float]] = field(default_factory=lambda: {BASELINE: [], THIS: []})


def with_share(plan: Plan, share: float, pairs: int) -> Plan:
    """Return a plan with this many pairs, each with a share of the requests, on one start of the proxies."""
    scenarios = (replace(one, requests=max(1, round(one.requests * share))) for one in plan.scenarios)
    return Plan(tuple(scenarios), pairs, pairs)


@contextmanager
def running(sources: Mapping[str, Path]) -> Iterator[dict[str, Tree]]:
    """Start what the proxies of these trees need, with one provider and one load generator for both."""
    installation = find_installation()
    for source in sources.values():
        require_importable(installation.python, source)
    with ExitStack() as stack:
        url, pid = stack.enter_context(fast_provider_process(*_PACE))
        generator = stack.enter_context(Generator())
        provider = Target(DIRECT, url, {}, {PROVIDER: [pid]})
        limit = {"IBEX_RATE_LIMIT_DEFAULT_RPM": _NEVER_REACHED}
        stacks = {
            name: stack_without_proxy(url, python=installation.python, source=str(source), **limit)
            for name, source in sources.items()
        }
        say("starting auth and databases of both trees")
        servers = _enter_together(stack, stacks)
        yield {
            name: Tree(source, Scene(servers[name], provider, generator, installation))
            for name, source in sources.items()
        }


def compare_cpu(trees: Mapping[str, Tree], plan: Plan, counter: Counter) -> list[Comparison]:
    """Return a comparison of the processor's work for each scenario, then of the latencies, which are not judged."""
    measured = _measure(trees, plan, counter.over, lambda tree: {"PYTHONPATH": str(tree.source)})
    judged, shown = [], []
    for scenario, figures in measured.items():
        judged.append(_comparison(f"{scenario}: {counter.name}", counter.unit, figures.per_request, counter.scale))
        for name, values in (("p50", figures.p50_ms), ("p99", figures.p99_ms)):
            shown.append(replace(_comparison(f"{scenario}: latency {name}", "ms", values), limit=None))
    return [*judged, *shown]


def compare_calls(trees: Mapping[str, Tree], plan: Plan) -> list[Comparison]:
    """Return a comparison of the calls that Python code makes for each scenario."""
    with tempfile.TemporaryDirectory(prefix="ibex-calls-") as folder:

        def environ(tree: Tree) -> dict[str, str]:
            return {"PYTHONPATH": os.pathsep.join((str(tree.source), str(PROBE))), CALLS_FOLDER: folder}

        measured = _measure(trees, plan, partial(count_calls, Path(folder)), environ)
    return [_comparison(f"{name}: Python calls", "calls", figures.per_request) for name, figures in measured.items()]


def _measure(
    trees: Mapping[str, Tree],
    plan: Plan,
    count: Callable[[int], AbstractContextManager[Count]],
    environ: Callable[[Tree], Mapping[str, str]],
) -> dict[str, Figures]:
    """Return the results of the scenarios by name. ``environ`` is for the proxy of a tree."""
    measured = {scenario.name: Figures() for scenario in plan.scenarios}
    for start in range(0, plan.pairs, plan.pairs_a_start):
        with ExitStack() as stack:
            targets = _enter_together(
                stack, {name: tree.scene.ibex(1, **environ(tree)) for name, tree in trees.items()}
            )
            for name, target in targets.items():
                _warm_up(trees[name].scene, target, plan.scenarios)
            for pair in range(start, min(start + plan.pairs_a_start, plan.pairs)):
                order = (BASELINE, THIS) if baseline_first(pair) else (THIS, BASELINE)
                for scenario in plan.scenarios:
                    for name in order:
                        _measure_one(trees[name].scene, targets[name], scenario, count, name, measured[scenario.name])
                say(f"pair {pair + 1} of {plan.pairs}")
    return measured


def _enter_together(stack: ExitStack, managers: Mapping[str, AbstractContextManager[T]]) -> dict[str, T]:
    """Enter context managers concurrently, since starting programs is mostly waiting; the stack exits them all."""
    with ThreadPoolExecutor(len(managers)) as threads:
        entered = {name: threads.submit(stack.enter_context, manager) for name, manager in managers.items()}
    return {name: value.result() for name, value in entered.items()}


def _measure_one(
    scene: Scene,
    target: Target,
    scenario: Scenario,
    count: Callable[[int], AbstractContextManager[Count]],
    name: str,
    figures: Figures,
) -> None:
    (worker,) = target.workers
    with count(worker) as counted:
        ms = _load(scene, target, scenario, scenario.requests)
        wait_until_idle(worker)  # the delivery after the responses is included in the count
    figures.per_request[name].append(counted.amount / scenario.requests)
    figures.p50_ms[name].append(percentile(ms, 50))
    figures.p99_ms[name].append(percentile(ms, 99))


def _warm_up(scene: Scene, target: Target, scenarios: Sequence[Scenario]) -> None:
    for scenario in scenarios:
        _load(scene, target, scenario, max(1, scenario.requests // 5))
    for worker in target.workers:
        wait_until_idle(worker)


def _load(scene: Scene, target: Target, scenario: Scenario, requests: int) -> list[float]:
    """Send requests and return their latencies in ms. Raises ``RuntimeError`` unless all succeed."""
    request = target.request(scenario.model, stream=scenario.is_stream)
    run, url, rate = scene.generator.run, target.base_url, scenario.a_second
    if rate is not None:
        load = run(at_a_rate, url, [request], a_second=rate, seconds=requests / rate, warm_up_s=0)
    else:
        connections = min(scenario.connections, requests)
        load = run(as_fast_as_answered, url, [request], connections=connections, seconds=_LOAD_TIMEOUT_S, most=requests)
    if load.failed or len(load.answers) != requests:
        answered = len(load.answers) - load.failed
        raise RuntimeError(f"{scenario.name}: {answered} of {requests} requests were answered with 200")
    return [(answer.answered_ns - answer.sent_ns) / 1e6 for answer in load.answers]


def _comparison(what: str, unit: str, values: Mapping[str, Sequence[float]], scale: float = 1.0) -> Comparison:
    baseline, tree = (tuple(value / scale for value in values[name]) for name in (BASELINE, THIS))
    return Comparison(what, unit, baseline, tree)
