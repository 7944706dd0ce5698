"""Regenerate the pictures of the documentation: ``python -m tools.pictures``.

Each picture is the output of a command on a terminal, as SVG. Ids, times and durations differ from run to run. The port
is shown as the default one, and tokens are shortened.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURES: Final = Path("docs/pictures")
_COMMANDS: Final = Path(sys.executable).parent
_COLUMNS: Final = 120
_ROWS: Final = 60
_READ_BYTES: Final = 1 << 16
_READY: Final = "Ctrl-C stops IBEX"
_PROMPTS: Final = ("Hello", "What is an ibex?", "Where does an ibex live, and what does it eat in winter?")
_SHORTENED: Final = (
    (re.compile(r"ibex_pat_[0-9a-f-]{36}_[\w-]+"), "ibex_pat_..."),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:8080"),
    (re.compile(rf"{re.escape(str(_COMMANDS))}/"), ".venv/bin/"),
    (re.compile(r"\r\n"), "\n"),
)
"""Replacements in the output: tokens, the port and the path of this run, and the ends of lines on a terminal."""
# Like rich's own format, but with the browser's fonts: rich's loads one from another host.
_SVG: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; \
font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-family: system-ui, sans-serif; font-size: 18px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def picture(output: str, command: str) -> str:
    """Return the output of a command as SVG, without the spaces at the ends of lines."""
    for pattern, replacement in _SHORTENED:
        output = pattern.sub(replacement, output)
    text = Text.from_ansi(output.strip("\r\n"))
    width = max(line.cell_len for line in text.split("\n"))
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=width, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(text, soft_wrap=True)
    name = re.sub(r"\W+", "-", command)
    svg = console.export_svg(title=command, code_format=_SVG, unique_id=name)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


class PicturesError(Exception):
    """A command failed, so that there is nothing to show. The message has its output."""


def main() -> int:
    """Start IBEX in a new folder, run the commands, and write the pictures. If one fails, write nothing."""
    try:
        outputs = _outputs()
    except PicturesError as failed:
        sys.stderr.write(f"{failed}\n")
        return 1
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, (command, output) in outputs.items():
        (PICTURES / f"{name}.svg").write_text(picture(output, command), encoding="utf-8")
    return 0


def _outputs() -> dict[str, tuple[str, str]]:
    """Return the command of each picture, and what it prints. Raises ``PicturesError``."""
    with TemporaryDirectory() as folder, _ibex(folder) as started:
        for prompt in _PROMPTS:
            _output(folder, "chat", prompt)
        return {
            "dev": ("ibex dev", started),
            "traces-slow": ("ibex traces slow", _output(folder, "traces", "slow")),
            "doctor": ("ibex doctor", _output(folder, "doctor")),
        }


@contextmanager
def _ibex(folder: str) -> Iterator[str]:
    """Run ``ibex dev`` in a folder. Yields what it prints until it is ready. Raises ``PicturesError``."""
    terminal, its_end = _terminal()
    command = ["ibex", "dev", "--port", "0", "--echo-delay", "0.4"]
    with subprocess.Popen(command, cwd=folder, env=_environ(), stdout=its_end, stderr=its_end) as process:
        os.close(its_end)
        try:
            started = _read(terminal, until=_READY)
            if _READY not in started:
                raise PicturesError(f"ibex dev did not start:\n{started}")
            yield started
        finally:
            process.terminate()
            _read(terminal)


def _output(folder: str, *arguments: str) -> str:
    """Return what a command prints on a terminal. Raises ``PicturesError`` if it fails."""
    terminal, its_end = _terminal()
    with subprocess.Popen(["ibex", *arguments], cwd=folder, env=_environ(), stdout=its_end, stderr=its_end) as process:
        os.close(its_end)
        output = _read(terminal)
    if process.returncode:
        raise PicturesError(f"ibex {' '.join(arguments)} ended with exit code {process.returncode}:\n{output}")
    return output


def _terminal() -> tuple[int, int]:
    terminal, its_end = os.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    return terminal, its_end


def _read(terminal: int, until: str | None = None) -> str:
    """Return what arrives until the text ``until``, else until the other end closes."""
    text = ""
    while until is None or until not in text:
        try:
            text += os.read(terminal, _READ_BYTES).decode("utf-8", "replace")
        except OSError:  # Linux reports the end of a terminal as an error
            break
    return text


def _environ() -> dict[str, str]:
    """Return an environment without settings of IBEX, in which ``ibex`` is this one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IBEX", "OPENAI", "NO_COLOR"))}
    return {
        **kept,
        "PATH": f"{_COMMANDS}{os.pathsep}{os.environ.get('PATH', '')}",
        "TERM": "xterm-256color",
        "TZ": "UTC",
    }


if __name__ == "__main__":
    sys.exit(main())
