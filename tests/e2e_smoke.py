"""`make e2e-smoke`: a buffered and a streamed completion by the OpenAI SDK through IBEX, with your key, end to end.

Needs OPENAI_API_KEY; honours OPENAI_BASE_URL and IBEX_SMOKE_MODEL (default gpt-4o-mini). Exit code 0: both answered
and both are on record; 1: not; 2: there is no key.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import openai

from harness.dev import IbexDev

PROMPT = "Answer with the one word: pong"
RECORD_TIMEOUT_S = 10
EXPECTED_TURNS = 2


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _complete(client: openai.OpenAI, model: str) -> list[str]:
    buffered = client.chat.completions.create(model=model, messages=[{"role": "user", "content": PROMPT}])
    _say(f"buffered: {model} answered, {buffered.usage.total_tokens if buffered.usage else '?'} tokens")
    chunks = 0
    with client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": PROMPT}], stream=True
    ) as stream:
        for _ in stream:
            chunks += 1
    _say(f"streamed: {chunks} chunks")
    return [] if buffered.choices and chunks else ["an answer was empty"]


def _recorded(dev: IbexDev) -> list[str]:
    deadline = time.monotonic() + RECORD_TIMEOUT_S
    while True:  # delivery takes its 200 ms; each look connects anew
        turns = sum(session["turn_count"] for session in dev.ibex_json("sessions", "list"))
        traces = dev.ibex_json("traces", "tail")
        complete = [trace for trace in traces if trace["is_complete"] and trace["total_tokens"] > 0]
        if turns == len(complete) == EXPECTED_TURNS or time.monotonic() > deadline:
            break
    _say(f"on record: {turns} checkpoints, {len(complete)} complete traces with usage")
    return [] if turns == len(complete) == EXPECTED_TURNS else ["a checkpoint or a trace is missing"]


def main() -> int:
    """Run the smoke test and return its exit code."""
    if not os.environ.get("OPENAI_API_KEY"):
        sys.stderr.write("e2e-smoke: set OPENAI_API_KEY (and OPENAI_BASE_URL for another server) to run it.\n")
        return 2
    environ = {name: os.environ[name] for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL") if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="ibex-smoke-") as folder:
        dev = IbexDev.start(Path(folder) / "home", environ)
        try:
            token = dev.installation["agent_token"]
            client = openai.OpenAI(base_url=f"{dev.address}/v1", api_key=token, max_retries=0)
            problems = _complete(client, os.environ.get("IBEX_SMOKE_MODEL", "gpt-4o-mini"))
        except openai.OpenAIError as error:
            problems = [f"{type(error).__name__}: {error}"]
        else:
            problems += _recorded(dev)
        finally:
            dev.stop()
    for problem in problems:
        sys.stderr.write(f"e2e-smoke: {problem}\n")
    _say("e2e-smoke: " + ("failed" if problems else "passed"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
