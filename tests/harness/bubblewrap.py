"""The programs that make sandboxes: ``bwrap`` (bubblewrap) makes the mounts, ``setpriv`` changes the user.

``bwrap`` runs as root or in a user namespace. A test that needs a program which is missing, or cannot make a sandbox on
this machine, is skipped with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

import pytest

from harness.debian import program_of_package


@cache
def bubblewrap() -> str:
    """Return the path of ``bwrap``, from the PATH or Debian's package. Skips the test if it cannot make a sandbox."""
    found = shutil.which("bwrap") or program_of_package("bubblewrap", "usr/bin/bwrap")
    if found is None:
        pytest.skip("bubblewrap is neither installed nor available as a Debian package")
    namespace = () if os.geteuid() == 0 else ("--unshare-user",)
    tried = subprocess.run([found, *namespace, "--ro-bind", "/", "/", "true"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"bubblewrap cannot make a sandbox here: {tried.stderr.decode().strip()}")
    return found


def setpriv() -> str:
    """Return the path of ``setpriv``. Skips the test if it is not installed."""
    found = shutil.which("setpriv")
    if found is None:
        pytest.skip("setpriv (util-linux) is not installed")
    return found
