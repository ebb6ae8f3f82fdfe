"""Imports between the folders point one way: schemas <- encoders <- index <- pipeline <- jobs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ORDER = ("schemas", "encoders", "index", "pipeline", "jobs")
ROOT = Path(__file__).resolve().parents[1]


def imported_parts(path: Path) -> set[str]:
    """Return the folders of gifdex that a module imports from, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("gifdex.")} & set(ORDER)


@pytest.mark.parametrize("part", ORDER)
def test_a_folder_imports_only_those_before_it(part: str) -> None:
    allowed = set(ORDER[: ORDER.index(part) + 1])
    modules = sorted((ROOT / part).rglob("*.py"))
    assert modules
    assert {str(path): imported_parts(path) - allowed for path in modules if imported_parts(path) - allowed} == {}


@pytest.mark.parametrize("part", ["schemas", "encoders", "index"])
def test_lookup_never_names_beam(part: str) -> None:
    for path in (ROOT / part).rglob("*.py"):
        assert "apache_beam" not in path.read_text(), path
