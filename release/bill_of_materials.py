"""Write the bill of materials of an installation of IBEX, as CycloneDX, into dist/."""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from release.check import DIST, ROOT, build
from release.installed import CheckError, install, run

SPECIFICATION: Final = "1.6"


def chosen_extras(extras: str, pyproject: str) -> str:
    """Return a list of extras, separated by commas, without spaces. Raises ``CheckError`` for one that is unknown.

    pip only warns about an unknown extra. The list would lack its packages, but have it in the name of its file.
    """
    known = tomllib.loads(pyproject)["project"]["optional-dependencies"]
    chosen = [name for part in extras.split(",") if (name := part.strip())]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise CheckError(f"pyproject.toml has no extra {', '.join(unknown)}; EXTRAS can contain {', '.join(known)}")
    return ",".join(chosen)


def write(extras: str, constraints: Path) -> str:
    """Install the wheel with extras into an empty environment, list it, and return a line about the list."""
    wheel, _ = build()
    target = DIST / f"{'-'.join(wheel.name.split('-')[:2])}{'-' + extras.replace(',', '-') if extras else ''}.cdx.json"
    with tempfile.TemporaryDirectory(prefix="ibex-sbom-") as folder:
        python = install(wheel, Path(folder), constraints, extras)
        project = ["--pyproject", str(ROOT / "pyproject.toml")]
        output = ["--spec-version", SPECIFICATION, "--output-reproducible", "--output-file", str(target)]
        run([sys.executable, "-m", "cyclonedx_py", "environment", str(python), *project, *output])
    components = json.loads(target.read_text())["components"]
    return f"{target.relative_to(ROOT)}: {len(components)} components"


def main(extras: str = "", constraints: str = str(ROOT / "constraints.txt")) -> int:
    """Write the list, and return the exit code."""
    try:
        chosen = chosen_extras(extras, (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        sys.stdout.write(write(chosen, Path(constraints)) + "\n")
    except CheckError as failed:
        sys.stderr.write(f"{failed}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
