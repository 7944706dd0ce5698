"""The protocol of the Python programs of `make clients`: cases on standard input, outcomes on standard output.

A line of input is ``{"api": ..., "case": ...}``, and the line of output for it ``{"call": ..., "outcome": ...}`` or
``{"failure": ...}``. ``call`` is the function that the program called. The settings are those of OpenAI's SDKs:
OPENAI_BASE_URL and OPENAI_API_KEY.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Case = Callable[[], tuple[str, object]]

MODEL = "gpt-5"
UNKNOWN_MODEL = "no-such-model"
REFUSED_MODEL = "gpt-refused"
INTERRUPTED_MODEL = "gpt-interrupted"
BAD_TOKEN = "ibex_pat_bad"
QUESTION = "What is an ibex?"
NEXT_QUESTION = "And a chamois?"
TOOL = "weather"
TOOL_DESCRIPTION = "Return the weather in a city."
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"7 degrees in {city}"


def serve(**apis: Mapping[str, Case]) -> None:
    """Run each case from standard input, until its end."""
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            call, outcome = apis[asked["api"]][asked["case"]]()
            said: dict[str, object] = {"call": call, "outcome": outcome}
        except Exception as error:  # noqa: BLE001 - whatever a client raises is a failure of its case
            said = {"failure": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
