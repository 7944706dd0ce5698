"""`make peers`: servers that implement OpenAI's API, called directly and through IBEX with the OpenAI SDK, as a table.

Its cells: `ok`: both calls had the same result. `400`: both were refused with this status. `401>503`: IBEX correctly
returns the second status for the first. `peer`: the SDK cannot read the direct response. `-`: not supported by the
peer. `IBEX`: a difference that IBEX causes, with exit code 1. ARGS selects some of the peers; -v prints the results.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import openai

from harness.dev import IbexDev, folder_of_its_own
from peers.peers import KEY, PEERS
from peers.scenes import SCENES, UNKNOWN_MODEL, buffered, leave, streamed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peers.peers import Peer
    from peers.scenes import Scene

    Outcome = tuple[object, int | None]
    Column = dict[str, tuple[str, object]]

RECORD_TIMEOUT_S = 10
IBEX_S_FAULT = "IBEX"
_UNREADABLE = 0
_UNAVAILABLE = 503
_PASSED_ON = {400, 404, 409, 413, 422, 429}


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _outcome(ask: Callable[[], object]) -> Outcome:
    """Return the result, and the status if it is an error."""
    try:
        return ask(), None
    except openai.APIStatusError as error:
        return error.message, error.status_code
    except Exception as error:  # noqa: BLE001 - whatever the SDK makes of such an answer is the outcome
        return repr(error), _UNREADABLE


def _verdict(direct: Outcome, through: Outcome) -> str:
    if direct[1] == _UNREADABLE:
        return "peer"
    if direct[1] is None:
        return "ok" if direct == through else IBEX_S_FAULT
    if through[1] != (direct[1] if direct[1] in _PASSED_ON else _UNAVAILABLE):
        return IBEX_S_FAULT
    return f"{direct[1]}" if direct[1] == through[1] else f"{direct[1]}>{through[1]}"


class Stage:
    """A peer behind IBEX, for an agent without a directive, so that requests are forwarded unchanged."""

    def __init__(self, peer: Peer, base_url: str, folder: Path, key: str = KEY) -> None:
        models = {peer.model, peer.tools, peer.slow, peer.limited, UNKNOWN_MODEL} - {None}
        environ = {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": base_url, "IBEX_OPENAI_MODELS": ",".join(map(str, models))}
        self._peer = peer
        self._direct = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
        self.dev = IbexDev.start(folder / key, environ | {"OPENAI_RETRY_BASE_DELAY": "0.1", **peer.ibex})
        self.dev.ibex_json("agent", "create", "bare")
        token = self.dev.ibex_json("token", "create", "--name", "peers", "--agent", "bare")["token"]
        self._through = openai.OpenAI(base_url=f"{self.dev.address}/v1", api_key=token, max_retries=0)

    def compared(self, name: str, scene: Scene) -> tuple[str, object]:
        """Return the cell of a scene, and the results of both calls."""
        of_its_own = {"tools": self._peer.tools, "unknown model": UNKNOWN_MODEL, "rate limited": self._peer.limited}
        model = of_its_own.get(name.partition(",")[0]) or self._peer.model
        if name == "rate limited" and not self._peer.limited:
            return "-", None
        direct, through = (_outcome(lambda to=to: scene(to, model)) for to in (self._direct, self._through))  # type: ignore[misc]
        return _verdict(direct, through), (direct, through)

    def recorded(self, name: str, scene: Scene, model: str) -> tuple[str, object]:
        """Return a cell for the record of a turn: its tokens, which the client did not request, and its end."""
        client = self._through.with_options(default_headers={"X-IBEX-Session-ID": name})
        refused = _outcome(lambda: scene(client, model))[1]
        turn = self._turn(name)
        tokens = "no" if turn["output_tokens"] is None else turn["output_tokens"]
        end = "complete" if turn["is_complete"] else "incomplete"
        return "refused" if refused is not None else f"{end}, {tokens} tokens", turn

    def _turn(self, session: str) -> dict[str, object]:
        deadline = time.monotonic() + RECORD_TIMEOUT_S
        while time.monotonic() < deadline:  # delivery takes 200 ms, and each query opens a connection
            done = self.dev.ibex("sessions", "show", session, "--json")
            if done.returncode == 0:
                return dict(json.loads(done.stdout)["turns"][0])
        raise TimeoutError(f"the turn of session {session} is not on record")


def _play(peer: Peer) -> Column:
    """Return the column of a peer: the cell and the results of each scene."""
    with ExitStack() as stack:
        headers, url = {}, ""
        if peer.behind:
            PEERS[peer.behind].install()
            url = stack.enter_context(PEERS[peer.behind].running({}))
            headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": url}
        peer.install()
        base_url = stack.enter_context(peer.running(headers, url))
        folder = stack.enter_context(folder_of_its_own())
        stage = Stage(peer, base_url, folder)
        stack.callback(stage.dev.stop)
        column = {name: stage.compared(name, scene) for name, scene in SCENES.items()}
        column["record: buffered"] = stage.recorded("buffered", buffered, peer.model)
        column["record: streamed"] = stage.recorded("streamed", streamed, peer.model)
        column["record: left mid-stream"] = stage.recorded("left", leave, peer.slow or peer.model)
        stage = Stage(peer, base_url, folder, "sk-wrong")
        stack.callback(stage.dev.stop)
        return column | {"wrong key": stage.compared("wrong key", buffered)}


def main(arguments: list[str]) -> int:
    """Run all scenes with the named peers, by default with all; return the exit code."""
    names = [name for name in arguments if name != "-v"]
    names = names or [name for name, peer in PEERS.items() if not peer.only_bench]
    table: dict[str, Column] = {}
    for name in names:
        _say(f"{PEERS[name].package} ...")
        table[name] = _play(PEERS[name])
        for scene, (cell, story) in table[name].items():
            if "-v" in arguments or cell == IBEX_S_FAULT:
                _say(f"  {scene}: {cell}: {story}")
    rows = [["", *names], ["---"] * (len(names) + 1)]
    rows += [[scene, *(column[scene][0] for column in table.values())] for scene in table[names[0]]]
    _say("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return int(any(cell == IBEX_S_FAULT for column in table.values() for cell, _ in column.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
