"""promtool, Prometheus' own check of rule files: from the PATH, else from Debian's package."""

from __future__ import annotations

import shutil

from harness.debian import program_of_package


def promtool_program() -> str | None:
    """Return the path of promtool, after fetching Debian's package if necessary; None if that is not possible."""
    return shutil.which("promtool") or program_of_package("prometheus", "usr/bin/promtool")
