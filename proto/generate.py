"""Generates the Python code of the protocol's definition: ``python proto/generate.py [--check]``.

``--check`` writes nothing and exits 1 if the code in the source tree is not what would be written.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PROTO = ROOT / "proto"
SOURCE = Path("ibex/auth/v1/auth.proto")
GENERATED = ROOT / "src/ibex/adapters/grpc/generated"
# protoc takes the folders of the definition for Python packages.
IMPORT = f"from {'.'.join(SOURCE.parent.parts)} import "
OWN_IMPORT = "from ibex.adapters.grpc.generated import "


def generate(source: Path = PROTO / SOURCE) -> dict[str, str]:
    """Return the texts by file name. Raises ``ValueError`` if protoc refuses the definition, having said why itself."""
    with TemporaryDirectory() as folder:
        (Path(folder) / SOURCE.parent).mkdir(parents=True)
        (Path(folder) / SOURCE).write_bytes(source.read_bytes())
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        known = files("grpc_tools") / "_proto"
        if protoc.main(["protoc", f"-I{folder}", f"-I{known}", *outputs, SOURCE.as_posix()]) != 0:
            raise ValueError(f"protoc refuses {SOURCE}")
        written = sorted((Path(folder) / SOURCE.parent).glob("*.py*"))
        return {path.name: path.read_text(encoding="utf-8").replace(IMPORT, OWN_IMPORT) for path in written}


def stale(texts: dict[str, str], folder: Path = GENERATED) -> list[str]:
    """Return the names of files that are not there or not as they should be, and of those that should not be there."""
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*_pb2*") if path.is_file()}
    return sorted(name for name in texts.keys() | there.keys() if texts.get(name) != there.get(name))


def main(arguments: list[str]) -> int:
    """Write or check, and return the exit code."""
    texts = generate()
    if "--check" in arguments:
        names = stale(texts)
        if names:
            sys.stderr.write(f"not current, run make proto: {', '.join(names)}\n")
        return 1 if names else 0
    for name, text in texts.items():
        (GENERATED / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
