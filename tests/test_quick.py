"""A quick run of the tests (`make quick`) skips tests that import TensorFlow or Beam, also in child processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
from tests.quick import pytest_addoption, pytest_configure  # hooks
"""
TESTS = """
import subprocess
import sys

import pytest


def test_light():
    import json


def test_that_imports():
    import tensorflow


@pytest.fixture(scope="module")
def imported():
    import apache_beam.pipeline


def test_whose_fixture_imports(imported):
    pass


@pytest.fixture(scope="module")
def started():
    subprocess.run([sys.executable, "-c", "import keras"], check=True)


def test_whose_fixture_starts_a_process(started):
    pass


def test_with_the_same_fixture(started):
    pass


def test_that_expects_a_failure():
    done = subprocess.run([sys.executable, "-c", "import tensorflow"], capture_output=True, text=True)
    assert "is left out of a quick run" in done.stderr


def test_that_fails():
    assert 1 == 2


@pytest.mark.heavy
def test_that_is_marked_heavy():
    raise AssertionError("it ran")
"""
MODULE = """
import tf_keras


def test_nothing():
    pass
"""
SMUGGLER = """
import sys


def test_smuggler():
    sys.modules["tensorflow"] = sys
"""


def run_quick(folder: Path, *options: str, **files: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = heavy: x\n")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    root = Path(__file__).resolve().parents[1]
    return subprocess.run([*command, *options], cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("options", [(), ("-n", "1")])
def test_only_tests_that_import_heavy_packages_are_skipped(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run_quick(tmp_path, "--quick", "-v", *options, test_some=TESTS, test_module=MODULE)
    outcomes = {}
    for line in done.stdout.splitlines():
        words = line.replace("[gw0]", "").split()
        for name in (word.partition("::")[2] for word in words if "::" in word):
            for outcome in ("PASSED", "FAILED", "SKIPPED"):
                if outcome in words:
                    outcomes[name] = outcome
    assert outcomes == {
        "test_light": "PASSED",
        "test_that_imports": "SKIPPED",
        "test_whose_fixture_imports": "SKIPPED",
        "test_whose_fixture_starts_a_process": "SKIPPED",
        "test_with_the_same_fixture": "SKIPPED",
        "test_that_expects_a_failure": "PASSED",
        "test_that_fails": "FAILED",
        "test_that_is_marked_heavy": "SKIPPED",
    }, done.stdout + done.stderr
    assert "1 failed, 2 passed, 6 skipped" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize("options", [(), ("-n", "1")])
def test_a_quick_run_fails_when_a_heavy_package_was_imported_unnoticed(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = run_quick(tmp_path, "--quick", *options, test_smuggler=SMUGGLER)
    assert done.returncode != 0
    assert "but ['tensorflow'] are in sys.modules" in done.stdout


def test_without_the_option_nothing_is_skipped(tmp_path: Path) -> None:
    done = run_quick(
        tmp_path, test_one="import sys\n\n\ndef test_one():\n    assert 'quick' not in str(sys.meta_path)\n"
    )
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout
