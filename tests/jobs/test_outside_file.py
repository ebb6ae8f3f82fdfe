"""The file that describes an outside source: the example in the docs is one, with every key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from gifdex.index.queries.hybrid import Outside
from gifdex.index.sources.results_cache import CachedSource
from gifdex.jobs.outside import _KEYS, outside_of
from gifdex.schemas.progress import QUIET

PAGE = Path(__file__).resolve().parents[2] / "docs" / "outside-sources.md"


def test_the_example_in_the_docs_describes_a_source_with_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIFS_KEY", "k")
    monkeypatch.setenv("GIFS_TOKEN", "t")
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path = tmp_path / "source.toml"
    path.write_text(text)
    made = outside_of(str(path), "below", 0.4, tmp_path / "inbox", QUIET)
    assert isinstance(made, Outside)
    assert isinstance(made.source, CachedSource)
    assert (made.source.name, made.below, made.count, made.seconds) == ("gifs", 0.4, 100, 20)
    assert made.budget is not None
    assert made.budget.connections == 16
    tables = {"": {}, **tomllib.loads(text)}
    assert {name for name, value in tables.items() if not isinstance(value, dict)} == set(_KEYS[""])
    assert {name: set(tables[name]) for name in _KEYS if name} == {name: set(_KEYS[name]) for name in _KEYS if name}
