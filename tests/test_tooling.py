"""GitHub's workflow and the hooks of pre-commit run what the Makefile has, on what pyproject.toml says."""

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
    """The targets that the Makefile declares as names of what to do."""
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.M)
    found = set(re.findall(r"^([a-z][a-z0-9-]*):", text, re.M))
    assert set(phony.split()) - {"FORCE"} == found
    return found


def asked_of_make(command: str) -> Iterator[str]:
    for line in command.splitlines():
        program, *words = line.split()
        assert program == "make", f"{line}: another command than make is not what people run at home"
        yield from (word for word in words if "=" not in word and not word.startswith("-"))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_nothing_but_targets_of_the_makefile(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    asked = {target for step in steps if "run" in step for target in asked_of_make(step["run"])}
    assert "test" in asked
    assert asked <= targets()
    for step in steps:
        assert ("run" in step) != bool(re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", ""))), step


def test_the_workflow_runs_every_python_that_the_package_is_said_to_run_on() -> None:
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
        assert list(asked_of_make(hook["entry"])) == [hook["id"]]
        assert (hook["language"], hook["pass_filenames"]) == ("system", False)
    assert {hook["id"] for hook in repository["hooks"]} <= targets()


@pytest.mark.parametrize("target", ["test", "quick", "lint", "types", "test-slow"])
def test_make_knows_how_to_do_it(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
