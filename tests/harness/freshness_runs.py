"""Run many simulated worlds on all processors and report the worst.

PYTHONPATH=tests python -m harness.freshness_runs [worlds [seconds of each [first seed [kind of fault [at a time]]]]]
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from harness.freshness_world import ViolatedError, World
from harness.simulated_time import run_simulated

WORLDS_A_TASK = 25


@dataclass(slots=True)
class Report:
    """The results of several worlds: how late requests were served, by fault; their outcomes; the violations."""

    steps: int = 0
    worst: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Merge another report into this one."""
        self.steps += other.steps
        self.outcomes.update(other.outcomes)
        self.wrong += other.wrong
        for fault, late in other.worst.items():
            self.worst[fault] = max(self.worst[fault], late)


def run(task: tuple[range, float, str, int]) -> Report:
    """Run the worlds of some seeds."""
    seeds, seconds, only, at_a_time = task
    report = Report(worst=defaultdict(float))
    for seed in seeds:
        world = World(seed, only=only, at_a_time=at_a_time)
        try:
            run_simulated(world.live(seconds))
        except ViolatedError as violated:
            report.wrong.append(str(violated))
        report.add(Report(world.steps, world.worst, Counter(world.outcomes)))
    report.worst.default_factory = None  # the default factory cannot be sent to another process
    return report


def main(worlds: int = 1_000, seconds: float = 40.0, first: int = 0, only: str = "", at_a_time: int = 1) -> None:
    """Run all worlds and print the report, with the shortest log of each kind of violation."""
    began, report = time.monotonic(), Report()
    starts = range(first, first + worlds, WORLDS_A_TASK)
    tasks = [(range(start, min(start + WORLDS_A_TASK, first + worlds)), seconds, only, at_a_time) for start in starts]
    with ProcessPoolExecutor() as pool:
        for some in pool.map(run, tasks):
            report.add(some)
    took = time.monotonic() - began
    print(f"{worlds} worlds of {seconds:g} s, {report.steps} steps, {took:.0f} s: {dict(report.outcomes)}")  # noqa: T201
    for fault, late in sorted(report.worst.items()):
        print(f"  {fault:28} {late:.3f} s")  # noqa: T201
    shortest: dict[str, str] = {}
    for story in sorted(report.wrong, key=len):
        shortest.setdefault(re.sub(r"[\d.]+", "#", story.partition("\n")[0]), story)
    print(f"{len(report.wrong)} violations", *shortest.values(), sep="\n\n")  # noqa: T201


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*(kind(text) for kind, text in zip((int, float, int, str, int), given, strict=False)))
