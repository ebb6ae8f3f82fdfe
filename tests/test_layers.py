"""Imports point one way (schemas <- encoders <- index <- pipeline <- jobs), without cycles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ORDER = ("schemas", "encoders", "index", "pipeline", "jobs")
ROOT = Path(__file__).resolve().parents[1]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("gifdex", *(part for part in parts if part != "__init__")))


MODULES = {module_name(path): path for part in ORDER for path in sorted((ROOT / part).rglob("*.py"))}


def imports(tree: ast.AST, anywhere: bool) -> Iterator[str]:
    """Yield the names that a module imports anywhere, or only those that it imports when loaded."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif anywhere or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.If)):
            yield from imports(node, anywhere)


def imported(name: str, anywhere: bool = True) -> set[str]:
    """Return the modules of gifdex that a module imports."""
    found = imports(ast.parse(MODULES[name].read_text()), anywhere)
    return {other if other in MODULES else other.rpartition(".")[0] for other in found} & set(MODULES) - {name}


def part_of(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("part", ORDER)
def test_a_folder_imports_only_folders_before_it(part: str) -> None:
    allowed = set(ORDER[: ORDER.index(part) + 1])
    names = [name for name in MODULES if part_of(name) == part]
    assert names
    stray = {name: {other for other in imported(name) if part_of(other) not in allowed} for name in names}
    assert {name: others for name, others in stray.items() if others} == {}


def test_imports_form_no_cycle() -> None:
    try:
        TopologicalSorter({name: imported(name, anywhere=False) for name in MODULES}).prepare()
    except CycleError as err:
        pytest.fail(f"imports form a cycle: {' <- '.join(err.args[1])}")


@pytest.mark.parametrize("part", ["schemas", "encoders", "index"])
def test_code_left_of_the_pipeline_never_names_beam(part: str) -> None:
    for path in (ROOT / part).rglob("*.py"):
        assert "apache_beam" not in path.read_text(), path


def test_importing_code_left_of_the_pipeline_imports_neither_tensorflow_nor_beam() -> None:
    names = [name for name in MODULES if part_of(name) in ("schemas", "encoders", "index")]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'apache_beam', 'keras', 'tensorflow', 'tensorflow_hub', 'tf_keras'} & set(sys.modules)\n"
        "    assert not heavy, (name, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
