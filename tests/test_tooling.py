"""The GitHub workflow and the pre-commit hooks run Makefile targets, on the Pythons in pyproject.toml."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
HOOKS = ROOT / ".pre-commit-config.yaml"


def targets() -> set[str]:
    """The phony targets of the Makefile."""
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.M)
    found = set(re.findall(r"^([a-z][a-z0-9-]*):", text, re.M))
    assert set(phony.split()) - {"FORCE"} == found
    return found


def make_targets(command: str) -> Iterator[str]:
    for line in command.splitlines():
        program, *words = line.split()
        assert program == "make", f"{line}: expected only make commands, so that everyone can run them locally"
        yield from (word for word in words if "=" not in word and not word.startswith("-"))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_only_targets_of_the_makefile(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    used = {target for step in steps if "run" in step for target in make_targets(step["run"])}
    assert "test" in used
    assert used <= targets()
    for step in steps:
        assert ("run" in step) != bool(re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", ""))), step


def test_the_workflow_tests_every_supported_python() -> None:
    (path,) = WORKFLOWS
    matrix = yaml.safe_load(path.read_text())["jobs"]["test"]["strategy"]["matrix"]
    prefix = "Programming Language :: Python :: "
    classified = [name.removeprefix(prefix) for name in project()["classifiers"] if name.startswith(f"{prefix}3.")]
    assert matrix["python"] == classified
    assert project()["requires-python"] == f">={classified[0]}"
    assert matrix["os"] == ["ubuntu-latest", "macos-latest"]


def test_each_hook_is_a_target_of_the_makefile() -> None:
    (repository,) = yaml.safe_load(HOOKS.read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert list(make_targets(hook["entry"])) == [hook["id"]]
        assert (hook["language"], hook["pass_filenames"]) == ("system", False)
    assert {hook["id"] for hook in repository["hooks"]} <= targets()


@pytest.mark.parametrize("target", ["test", "quick", "lint", "types", "test-slow"])
def test_make_has_the_documented_targets(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
