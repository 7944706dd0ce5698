"""Restrictions of containers, really applied to a program: another user, a read-only root, little of everything.

A restriction is a prefix of a command line, such as a sandbox (see ``harness.bubblewrap``). If a restriction
cannot be applied on this machine, the test is skipped with the reason.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from harness.bubblewrap import bubblewrap, setpriv

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.process import IbexProcess

ROOT: Final = Path(__file__).parents[2]
VOLUME: Final = "/mnt"
"""Where ``sandbox`` mounts the volume."""
NAMELESS_UID: Final = 54_321
"""A user id without an entry in the password file."""
GROUP: Final = 54_322
_LIMIT: Final = (
    "import os, resource, sys\n"
    "for pair in sys.argv[1].split(','):\n"
    "    name, value = pair.split('=')\n"
    "    resource.setrlimit(getattr(resource, 'RLIMIT_' + name), (int(value), int(value)))\n"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def limits(**values: int) -> Sequence[str]:
    """Return the prefix that sets resource limits, such as ``NOFILE=256``, soft and hard."""
    return (sys.executable, "-c", _LIMIT, ",".join(f"{name}={value}" for name, value in values.items()))


def sandbox(
    volume: Path, *, uid: int | None = None, gid: int | None = None, read_only: bool = False, shm_bytes: int = 0
) -> Sequence[str]:
    """Return the prefix that mounts a folder at ``VOLUME`` and changes the user. ``uid`` defaults to the current one.

    With ``read_only``, only the volume and a /tmp of 1 MiB can be written to. ``shm_bytes`` is the size of /dev/shm.
    """
    as_root = os.geteuid() == 0
    root = ("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc") if read_only else ("--dev-bind", "/", "/")
    command = [bubblewrap(), "--die-with-parent", *root, *_readable_interpreter()]
    if read_only:
        command += ["--perms", "1777", "--size", str(1 << 20), "--tmpfs", "/tmp"]  # noqa: S108 - of the sandbox
        if ROOT.is_relative_to("/tmp"):  # noqa: S108 - a checkout there would disappear
            command += ["--ro-bind", str(ROOT), str(ROOT)]
    if shm_bytes:
        command += ["--perms", "1777", "--size", str(shm_bytes), "--tmpfs", "/dev/shm"]  # noqa: S108 - of the sandbox
    command += ["--bind", str(volume), VOLUME, "--chdir", VOLUME]
    if not as_root:
        return (*command, "--unshare-user", *(("--uid", str(uid)) if uid is not None else ()))
    command += ["--cap-add", "ALL"]
    if uid is None:
        return command
    groups = f"--groups={gid}" if gid is not None else "--clear-groups"
    drop = ("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    return (*command, setpriv(), f"--reuid={uid}", f"--regid={gid or uid}", groups, *drop)


def terminate(process: IbexProcess) -> int:
    """Send SIGTERM to the program inside a sandbox, which ``bwrap`` does not forward, and return the exit code."""
    outer = process.process.pid
    (pid,) = Path(f"/proc/{outer}/task/{outer}/children").read_text().split() or [str(outer)]
    os.kill(int(pid), signal.SIGTERM)
    return process.wait()


def needs_root(why: str) -> None:
    """Skip the test unless it runs as root."""
    if os.geteuid() != 0:
        pytest.skip(f"only root can {why}")


def _readable_interpreter() -> Sequence[str]:
    """Return the mounts that show the interpreter to other users, if it is in a home that only its owner can read."""
    base = Path(sys.base_prefix).resolve()
    hidden = [parent for parent in reversed(base.parents) if not parent.stat().st_mode & stat.S_IXOTH]
    if not hidden:
        return ()
    between = [parent for parent in reversed(base.parents) if hidden[0] in parent.parents]
    folders = [option for parent in between for option in ("--perms", "0755", "--dir", str(parent))]
    return ("--perms", "0755", "--tmpfs", str(hidden[0]), *folders, "--ro-bind", str(base), str(base))
