"""The generated code matches the protocol definition, and the check detects a difference."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "proto" / "generate.py"
FILES = ["auth_pb2.py", "auth_pb2.pyi", "auth_pb2_grpc.py"]


@pytest.fixture(scope="module")
def program() -> Any:
    """The program as a module."""
    return _load(PROGRAM)


def _load(path: Path) -> ModuleType:
    spec = spec_from_file_location("generate", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_code_is_current() -> None:
    """``generate.py --check`` reports no difference."""
    result = subprocess.run([sys.executable, PROGRAM, "--check"], capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")


def test_a_changed_definition_makes_the_generated_code_stale(program: Any, tmp_path: Path) -> None:
    """An added field changes the files with message definitions."""
    definition = (program.PROTO / program.SOURCE).read_text(encoding="utf-8")
    changed = tmp_path / "auth.proto"
    changed.write_text(definition.replace("string org_id = 1;", "string org_id = 1; bool more = 99;", 1))

    assert program.stale(program.generate()) == []
    assert program.stale(program.generate(changed)) == FILES[:2]


def test_files_that_are_missing_or_left_over_are_stale(program: Any, tmp_path: Path) -> None:
    """The check names missing files and leftover files."""
    (tmp_path / "old_pb2.py").write_text("")

    assert program.stale(program.generate(), tmp_path) == [*FILES, "old_pb2.py"]


def test_the_generated_code_imports_the_package_of_ibex(program: Any) -> None:
    """The compiler would use a package named after the definition."""
    text = program.generate()["auth_pb2_grpc.py"]

    assert "from ibex.adapters.grpc.generated import auth_pb2" in text
    assert "from ibex.auth" not in text
