"""`pytest --quick`: the tests that import neither TensorFlow nor Beam, for the daily loop (`make quick`).

No test needs a mark for that. A quick run skips any test, fixture or test module at the line that imports one of
these packages. Child processes find stub modules that raise an error, and a test that fails after a child imported a
stub is skipped. So every test that passes ran without the packages, and a test joins the quick run as soon as it no
longer needs them. The marker `heavy` is for tests that take seconds for other reasons.
"""

from __future__ import annotations

import importlib.abc
import os
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest

from tests.commands import QUICK

HEAVY = ("apache_beam", "keras", "tensorflow", "tensorflow_hub", "tensorflow_text", "tf_keras")
TOUCHED = "touched.txt"
STUB = f"""
from pathlib import Path
Path(__file__).with_name({TOUCHED!r}).write_text(__name__)
raise ImportError(f"{{__name__}} is left out of a quick run of the tests")
"""


class SkipHeavyImports(importlib.abc.MetaPathFinder):
    """Skips the test that imports one of `HEAVY`."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Skip the test on a heavy import; find nothing otherwise, so that the next finder is tried."""
        top = fullname.partition(".")[0]
        if top in HEAVY:
            pytest.skip(f"needs {top}: not in a quick run", allow_module_level=True)


class QuickRun:
    """Keeps the packages in `HEAVY` out of this process and its children until the session ends."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="gifdex-quick-")
        self._touched = Path(self._folder.name, TOUCHED)
        self._failures: list[BaseException] = []  # from children; a fixture raises its failure in later tests again
        self._finder = SkipHeavyImports()
        self._path = os.environ.get("PYTHONPATH")

    def pytest_configure(self) -> None:
        for name in HEAVY:
            Path(self._folder.name, f"{name}.py").write_text(STUB)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [self._folder.name, self._path]))
        os.environ[QUICK] = "yes"
        sys.meta_path.insert(0, self._finder)

    def pytest_unconfigure(self) -> None:
        sys.meta_path.remove(self._finder)
        os.environ.pop(QUICK)
        os.environ.pop("PYTHONPATH")
        if self._path is not None:
            os.environ["PYTHONPATH"] = self._path
        self._folder.cleanup()

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if item.get_closest_marker("heavy"):
            pytest.skip("marked as heavy: not in a quick run")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and call.excinfo is not None:
            failure = call.excinfo.value
            if self._touched.exists():
                self._failures.append(failure)
            if any(failure is known for known in self._failures):
                report.outcome = "skipped"
                report.longrepr = (str(item.path), 0, "a child process needs a heavy package: not in a quick run")
        if call.when == "teardown":
            self._touched.unlink(missing_ok=True)
            if found := sorted(set(HEAVY) & set(sys.modules)):
                report.outcome = "failed"
                report.longrepr = f"a quick run must not import {', '.join(HEAVY)}, but {found} are in sys.modules"
        return report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="skip tests that import TensorFlow or Beam")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--quick"):
        config.pluginmanager.register(QuickRun(), "quick-run")
