"""Generator of the pages about settings: ``python -m ibex.entrypoints.settings_reference [--check]``.

The pages are generated so that they always match the code. ``--check`` writes nothing and exits with 1 if a page is
out of date.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from enum import Enum
from pathlib import Path

from ibex.entrypoints.settings import Settings, variables

ENV_EXAMPLE = Path(".env.example")
REFERENCE = Path("docs/configuration.md")
COMMAND_LINE = {
    "IBEX_HOME": "the folder of the embedded instance (`--home`)",
    "IBEX_ORG": "the organization that commands work on (`--org`)",
    "IBEX_URL": "the URL of the proxy, for `ibex chat` and `ibex doctor` (`--url`)",
    "IBEX_TOKEN": "the token that `ibex chat` sends (`--token`)",
}
_COMMAND_LINE = "Commands also read these variables, each in place of an option. All but the first can be in `.env`:"


def _default(name: str) -> str:
    value = next(f.default for f in fields(Settings) if f.name == name)
    match value:
        case None:
            return ""
        case bool():
            return "on" if value else "off"
        case tuple():
            return ",".join(value)
        case float():
            return f"{value:g}"
        case Enum():
            return str(value.value)
        case _:
            return str(value)


def env_example() -> str:
    """Return the text of ``.env.example``: every variable with its meaning, commented out, at its default value."""
    lines = ["# In development IBEX reads these settings from a file named .env. `make run` requires none of them.", ""]
    for name, variable in variables():
        meaning = f"# {variable.meaning} Allowed: {variable.allowed}."
        lines += [meaning, f"#{variable.name}={_default(name)}", ""]
    return "\n".join(lines)


def reference() -> str:
    """Return the text of ``docs/configuration.md``."""
    lines = [
        "# Configuration",
        "",
        "IBEX reads its settings from environment variables, once at start; in development also from the file `.env`.",
        "For an invalid value, a command prints the variable, the value and the allowed values, and exits with code 2.",
        "Variables that Kubernetes sets for a Service named `ibex`, and `OTEL_*` variables that IBEX cannot use, count",
        "as not set and cause a warning at the start.",
        "",
        "A variable `X` can be given as `X_FILE`, the path of a file with its value. The exceptions are `IBEX_ENV` and",
        "variables that name files anyway. Setting both is an error, and `.env` cannot set `X_FILE`. IBEX ignores a",
        "newline at the end of the file. It reads files of secrets and certificates again when they change",
        "([rotating secrets](tasks.md#rotating-secrets)).",
        "",
        "This page is generated from `src/ibex/entrypoints/settings.py`.",
        "",
        "| variable | default | allowed | meaning |",
        "|---|---|---|---|",
    ]
    for name, variable in variables():
        default = _default(name)
        shown = f"`{default}`" if default else "not set"
        lines.append(f"| `{variable.name}` | {shown} | {variable.allowed} | {variable.meaning} |")
    lines += ["", _COMMAND_LINE, ""]
    lines += [f"* `{name}`: {meaning}" for name, meaning in COMMAND_LINE.items()]
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> int:
    """Write the pages and return 0. With ``--check``, write nothing and return 1 if a page is out of date."""
    stale = []
    for path, text in ((ENV_EXAMPLE, env_example()), (REFERENCE, reference())):
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path))
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in arguments:
        sys.stderr.write(f"Out of date: {', '.join(stale)}. Run `make settings-reference`.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
