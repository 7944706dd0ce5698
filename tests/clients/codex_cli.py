"""The Codex CLI: `codex exec`, with IBEX as its model provider. It always streams, with the Responses API."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from clients.protocol import BAD_TOKEN, INTERRUPTED_MODEL, MODEL, QUESTION, REFUSED_MODEL, UNKNOWN_MODEL, serve

CODEX = Path(__file__).parents[2] / ".clients" / "node_modules" / ".bin" / "codex"
TIMEOUT_S = 120
SHAPE: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "legs": {"type": "integer"}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}
QUIET = """
check_for_update_on_startup = false
analytics.enabled = false
"""
BUILT_IN = """
openai_base_url = "{base_url}"
"""
"""The least configuration: Codex's own provider at another address."""
OWN_PROVIDER = """
model_provider = "ibex"

[model_providers.ibex]
name = "IBEX"
base_url = "{base_url}"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
supports_websockets = true
"""
OUT_OF_ROOM = "ran out of room in the model's context window"
"""What Codex says of the code ``context_length_exceeded``, and of nothing else."""


def _run(
    prompt: str, *arguments: str, model: str = MODEL, configuration: str = OWN_PROVIDER, **environ: str
) -> list[dict[str, Any]]:
    """Run `codex exec` in an empty folder; return the events that it prints. ``{home}`` is its settings folder."""
    with tempfile.TemporaryDirectory(prefix="codex-") as name:
        home, folder = Path(name) / "home", Path(name) / "folder"
        home.mkdir()
        folder.mkdir()
        settings = configuration.format(base_url=os.environ["OPENAI_BASE_URL"])
        (home / "config.toml").write_text(QUIET + settings)
        (home / "shape.json").write_text(json.dumps(SHAPE))
        options = ["--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--model", model]
        done = subprocess.run(
            [CODEX, "exec", *options, *(argument.format(home=home) for argument in arguments), prompt],
            cwd=folder,
            env=os.environ | {"CODEX_HOME": str(home), "CODEX_API_KEY": os.environ["OPENAI_API_KEY"]} | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not events:
        raise RuntimeError(f"codex printed no event: {done.stderr[-2000:]}")
    return events


def _items(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item for item in items if item["type"] == kind]


def _text(events: list[dict[str, Any]]) -> str:
    messages = _items(events, "agent_message")
    if not messages:
        raise RuntimeError(f"codex got no answer: {events}")
    return str(messages[-1]["text"])


def streaming() -> tuple[str, object]:
    """A turn."""
    return "codex exec", {"text": _text(_run(QUESTION))}


def tools(configuration: str, call: str = "codex exec") -> tuple[str, object]:
    """A turn in which the model has Codex run the command of the prompt, and Codex sends the output back."""
    events = _run("Run this command: echo ibex-$((40 + 2))", configuration=configuration)
    (command,) = _items(events, "command_execution")
    return call, {"output": command["aggregated_output"].strip(), "answered": "ibex-42" in _text(events)}


def structured() -> tuple[str, object]:
    """A turn whose response matches a given schema."""
    return "codex exec --output-schema", {
        "parsed": json.loads(_text(_run(QUESTION, "--output-schema", "{home}/shape.json")))
    }


def error(phrase: str, model: str = MODEL, **environ: str) -> tuple[str, object]:
    """A turn that fails. Returns whether Codex ends with a message that contains the phrase."""
    events = _run(QUESTION, model=model, **environ)
    messages = [event["error"]["message"] for event in events if event["type"] == "turn.failed"]
    return "codex exec", {"told": any(phrase in message for message in messages), "messages": messages}


if __name__ == "__main__":
    serve(
        responses={
            "streaming": streaming,
            "tools": partial(tools, OWN_PROVIDER),
            "structured output": structured,
            "interrupted": partial(error, "The provider is not available", INTERRUPTED_MODEL),
            "bad token": partial(error, "401 Unauthorized", OPENAI_API_KEY=BAD_TOKEN),
            "unknown model": partial(error, "No provider is configured for this model", UNKNOWN_MODEL),
            "refused": partial(error, OUT_OF_ROOM, REFUSED_MODEL),
        },
        built_in={"tools": partial(tools, BUILT_IN, "codex exec, openai_base_url")},
    )
