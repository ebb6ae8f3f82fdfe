"""The tree of errors: documented, one base class, exit codes, and able to cross between processes."""

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


def drawn_tree() -> dict[str, str]:
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


def test_the_docstring_draws_exactly_the_tree_that_exists() -> None:
    assert drawn_tree() == {kind.__name__: kind.__bases__[0].__name__ for kind in CLASSES}


def test_a_caller_catches_every_error_with_one_class() -> None:
    assert all(issubclass(kind, GifdexError) for kind in CLASSES)
    assert not any(issubclass(kind, (OSError, ValueError)) for kind in CLASSES)


def test_the_command_line_exits_with_1_but_for_usage_and_a_workspace_in_use() -> None:
    assert {kind.__name__: kind.exit_code for kind in CLASSES if kind.exit_code != 1} == {
        "BeamOptionsError": 2,
        "ConfigError": 2,
        "GateError": 3,
        "WorkspaceBusyError": 75,
    }


def test_a_missing_extra_names_what_needs_it_and_the_command_that_helps() -> None:
    message = str(MissingExtraError("the image encoder x", "tensorflow", "pipeline"))
    assert message.startswith("the image encoder x needs the module tensorflow")
    assert message.endswith("pip install 'gifdex[pipeline]'")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))
def test_an_error_from_a_worker_process_arrives_as_it_was(kind: type[GifdexError]) -> None:
    error = kind("a", "b", "c") if kind is MissingExtraError else kind("one sentence")
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301  # its own bytes
    assert type(arrived) is kind
    assert str(arrived) == str(error)
