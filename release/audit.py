"""Ask the Python advisory database about every package of a lock file, and report what it could not answer.

pip-audit ends with exit code 0 for packages that the database does not know, so that an audit of nothing looks like a
clean one. Here that is a failure of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

VULNERABLE, NOT_AUDITED = 1, 2
_SHOWN: Final = 5


def summary_of(report: dict[str, Any], source: str) -> tuple[int, list[str]]:
    """Return the exit code and the lines for pip-audit's report: 1 for vulnerabilities, 2 for unaudited packages."""
    packages = report["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}"
        f" (fixed in {', '.join(found['fix_versions']) or 'no version yet'})"
        for package in packages
        for found in package.get("vulns", [])
    ]
    code = VULNERABLE if lines else NOT_AUDITED if skipped or not packages else 0
    lines.append(f"{source}: {len(packages) - len(skipped)} packages audited, {len(lines)} vulnerabilities")
    if skipped:
        more = ", ..." if len(skipped) > _SHOWN else ""
        names = ", ".join(skipped[:_SHOWN]) + more
        lines.append(
            f"{len(skipped)} packages were NOT audited, because the database of advisories does not know them: {names}."
            " A mirror of a package index often has no advisories; make audit ARGS='--vulnerability-service osv' asks"
            " another database."
        )
    return code, lines


def main(source: str, *arguments: str) -> int:
    """Audit the packages of a requirements file; the arguments are pip-audit's. Return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off"]
    ran = subprocess.run(
        [*command, "--format", "json", "--requirement", source, *arguments], capture_output=True, text=True, check=False
    )
    try:
        report = json.loads(ran.stdout)
    except ValueError:
        reason = (ran.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        sys.stderr.write(
            f"{source} was NOT audited: pip-audit could not ask the database of advisories, which needs a network.\n"
            f"{reason}\n"
        )
        return NOT_AUDITED
    code, lines = summary_of(report, source)
    sys.stdout.write("\n".join(lines) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
