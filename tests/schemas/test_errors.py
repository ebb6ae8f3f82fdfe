"""The tree of errors: its documentation, base class, exit codes, and pickling between processes."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest

from gifdex.schemas import errors
from gifdex.schemas.errors import GifdexError, MissingExtraError

CLASSES: list[Any] = sorted(
    (value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BaseException)),
    key=lambda kind: kind.__name__,
)


def documented_tree() -> dict[str, str]:
    """The docstring's tree as child -> parent, read from its indentation."""
    parents: dict[str, str] = {}
    line_of_ancestors: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)(\w+Error)\s{2,}\S", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        line_of_ancestors = [(d, n) for d, n in line_of_ancestors if d < depth]
        parents[name] = line_of_ancestors[-1][1] if line_of_ancestors else "Exception"
        line_of_ancestors.append((depth, name))
    return parents


def test_the_docstring_shows_the_actual_tree() -> None:
    assert documented_tree() == {kind.__name__: kind.__bases__[0].__name__ for kind in CLASSES}


def test_one_base_class_catches_every_error() -> None:
    assert all(issubclass(kind, GifdexError) for kind in CLASSES)
    assert not any(issubclass(kind, (OSError, ValueError)) for kind in CLASSES)


def test_the_exit_code_is_1_except_for_usage_and_a_busy_workspace() -> None:
    assert {kind.__name__: kind.exit_code for kind in CLASSES if kind.exit_code != 1} == {
        "BeamOptionsError": 2,
        "ConfigError": 2,
        "GateError": 3,
        "WorkspaceBusyError": 75,
    }


def test_a_missing_extra_names_its_user_and_the_install_command() -> None:
    message = str(MissingExtraError("the image encoder x", "tensorflow", "pipeline"))
    assert message.startswith("the image encoder x needs the module tensorflow")
    assert message.endswith("pip install 'gifdex[pipeline]'")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))
def test_an_error_from_a_worker_process_arrives_unchanged(kind: type[GifdexError]) -> None:
    error = kind("a", "b", "c") if kind is MissingExtraError else kind("one sentence")
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301  # pickled by this test
    assert type(arrived) is kind
    assert str(arrived) == str(error)
