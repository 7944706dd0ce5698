"""One attack, in a process of its own: ``python -m benchmarks.attacks.attacker NAME NICENESS``.

The first line on stdin is a ``Target`` as JSON; the attack begins with it. Each further line is answered with the
tally so far, as one line of JSON. The attack ends with stdin.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from contextlib import suppress

import uvloop
from benchmarks.attacks.attacking import Target
from benchmarks.attacks.catalogue import BY_NAME
from benchmarks.attacks.tally import Tally


async def _attack(name: str) -> None:
    loop = asyncio.get_running_loop()
    target = Target(**json.loads(await loop.run_in_executor(None, sys.stdin.readline)))
    tally = Tally()
    attack = asyncio.ensure_future(BY_NAME[name].run(target, tally))
    while await loop.run_in_executor(None, sys.stdin.readline):
        told = {**tally.told(), "failed": repr(attack.exception()) if attack.done() else None}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
    attack.cancel()
    with suppress(asyncio.CancelledError):
        await attack


def main() -> None:
    """Run the attack that the command line names, with a lower priority."""
    name, niceness = sys.argv[1:]
    os.nice(int(niceness))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if name.startswith("grpc"):  # its client has an event loop of asyncio's own
        asyncio.run(_attack(name))
    else:
        uvloop.run(_attack(name))


if __name__ == "__main__":
    main()
