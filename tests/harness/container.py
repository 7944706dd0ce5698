"""A container engine for tests: it builds and runs the image of a Containerfile with bubblewrap.

The base image is this machine's ``/usr``, with the interpreter of the tests before it in the path. The directories that
the image adds to are directories of the test.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.bubblewrap import bubblewrap, setpriv
from harness.containerfile import Instruction, Stage, expanded, parse_containerfile
from harness.process import IbexProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BUILD_TIMEOUT_S: Final = 120
IMAGE_DIRECTORIES: Final = ("opt", "src", "var")
"""The directories that an image can add to. All others are those of the base image."""
BASE_PYTHON: Final = "/python"
"""The folder of the tests' interpreter, whose installation may be in a home that only its owner can read."""
BASE_PROGRAMS: Final = "/programs"
"""The folder of ``python``, if that installation has it only under a name with the version."""
_BASE_PATH: Final = f"{BASE_PYTHON}/bin:{BASE_PROGRAMS}:/usr/bin:/bin"
_PASSED_ON: Final = ("PIP_", "SSL_", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class ContainerProcess(IbexProcess):
    """A program that runs in a container."""

    def following(self) -> ContainerProcess:
        """Begin to read its output, and return itself."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def terminate(self) -> int:
        """Send SIGTERM to process 1 of the container, as an engine does, and return the exit code."""
        pid = self.process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        return self.wait()


@dataclass(slots=True)
class Container:
    """An image that is being built in a folder, and then runs."""

    context: Path
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    final: Stage | None = None

    @classmethod
    def build(cls, context: Path, containerfile: Path, folder: Path) -> Container:
        """Carry out every instruction of a Containerfile in order. Skips the test if there is no bubblewrap."""
        bubblewrap()
        built: dict[str, Container] = {}
        container = cls(context, folder)
        for stage in parse_containerfile(containerfile.read_text()):
            container = cls(context, folder / (stage.name or "final"), {"PATH": _BASE_PATH})
            container.final = stage
            for directory in IMAGE_DIRECTORIES:
                (container.folder / directory).mkdir(parents=True)
            known: dict[str, str] = {}
            for instruction in stage.instructions:
                container._carry_out(instruction, known, built)
            built[stage.name] = container
        return container

    def _carry_out(self, instruction: Instruction, known: dict[str, str], built: Mapping[str, Container]) -> None:
        match instruction.name:
            case "ARG":
                known |= instruction.pairs(known)
            case "ENV":
                self.environ |= instruction.pairs({**self.environ, **known})
            case "WORKDIR":
                self.workdir = expanded(instruction.text, known)
            case "COPY":
                self._copy(instruction.words(), built)
            case "RUN":
                self._run(expanded(instruction.text, known))
            case _:  # what only describes the image, or how it is started
                pass

    def _copy(self, words: list[str], built: Mapping[str, Container]) -> None:
        source = self.context
        if words[0].startswith("--from="):
            source = built[words.pop(0).removeprefix("--from=")].folder
        *froms, to = words
        target = self._inside(to)
        for name in froms:
            origin = source / name.lstrip("/")
            into = target / origin.name if to.endswith("/") else target
            into.parent.mkdir(parents=True, exist_ok=True)
            if origin.is_dir():
                ignored = shutil.ignore_patterns("__pycache__") if source == self.context else None
                shutil.copytree(origin, into, symlinks=True, dirs_exist_ok=True, ignore=ignored)
            else:
                shutil.copy2(origin, into)

    def _inside(self, path: str) -> Path:
        return self.folder / os.path.normpath(Path(self.workdir) / path).lstrip("/")

    def _run(self, command: str) -> None:
        cache_folder = Path(os.environ.get("PIP_CACHE_DIR", Path.home() / ".cache" / "pip"))
        cache_folder.mkdir(parents=True, exist_ok=True)
        passed_on = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        done = subprocess.run(
            [
                *self._sandbox(writable=True),
                *("--bind", str(cache_folder), "/cache", "--dir", self.workdir, "--chdir", self.workdir),
                *("/bin/sh", "-c", command),
            ],
            env={**passed_on, "PIP_CACHE_DIR": "/cache", "HOME": "/tmp", **self.environ},  # noqa: S108 - in the sandbox
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"RUN {command}\n{done.stdout}\n{done.stderr}"

    def start(
        self, arguments: Sequence[str], environ: Mapping[str, str], volume: Path, *, uid: int
    ) -> ContainerProcess:
        """Start the image's entry point on a read-only root, as this user id, as process 1 of its own.

        ``volume`` is mounted at the work directory, and is the only place where the program can write. The user must be
        able to write there. The program shares the network of the tests.
        """
        assert self.final is not None
        entry = self.final.last("ENTRYPOINT").words()
        become: Sequence[str]
        if os.geteuid() == 0:
            volume.chmod(0o1777)
            become = ("--cap-add", "ALL", setpriv(), f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
            become = (*become, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
        else:
            become = ("--unshare-user", "--uid", str(uid), "--gid", str(uid))
        command = [
            *self._sandbox(writable=False),
            *("--bind", str(volume), self.workdir, "--chdir", self.workdir, "--unshare-pid", "--as-pid-1"),
            *become,
            *(entry if arguments else [*entry, *self.final.last("CMD").words()]),
            *arguments,
        ]
        process = subprocess.Popen(
            command,
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        return ContainerProcess(process).following()

    def _sandbox(self, *, writable: bool) -> list[str]:
        """Return the command that mounts the base image and the image's directories."""
        command = [bubblewrap(), "--die-with-parent", "--perms", "0755", "--tmpfs", "/"]
        for entry in ("usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32"):
            path = Path("/") / entry
            if path.is_symlink():
                command += ["--symlink", str(path.readlink()), str(path)]
            elif path.is_dir():
                command += ["--ro-bind", str(path), str(path)]
        command += ["--ro-bind", sys.base_prefix, BASE_PYTHON, "--perms", "0755", "--dir", BASE_PROGRAMS]
        command += ["--setenv", "LD_LIBRARY_PATH", f"{BASE_PYTHON}/lib"]  # for its shared library, if it has one
        command += ["--symlink", f"{BASE_PYTHON}/bin/python3.{sys.version_info.minor}", f"{BASE_PROGRAMS}/python"]
        for directory in IMAGE_DIRECTORIES:
            command += ["--bind" if writable else "--ro-bind", str(self.folder / directory), f"/{directory}"]
        command += ["--dev", "/dev", "--proc", "/proc"]
        return [*command, "--tmpfs", "/tmp"] if writable else [*command, "--remount-ro", "/"]  # noqa: S108 - a mount
