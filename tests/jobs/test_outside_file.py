"""The file that describes an outside source: the example in the docs is one, with every key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gifdex.index.queries.hybrid import Outside
from gifdex.index.sources.results_cache import CachedSource
from gifdex.jobs.outside import _KEYS, _described, outside_of
from gifdex.schemas.errors import ConfigError, GifdexError
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


BASE = 'name = "n"\nurl = "http://x.example/$SOME_KEY?k=$SOME_KEY&q={query}"\n'
KEYS = '[keys]\nitems = "d[*]"\nurl = "u"\n'


def described(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "source.toml"
    path.write_text(text)
    return _described(path)[0]


def test_secrets_stay_one_value_of_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "a&b#c{d}/")
    url, params = described(tmp_path, BASE + KEYS)._filled("x", 1, 0)
    assert url == "http://x.example/a%26b%23c%7Bd%7D%2F"
    assert params == [("k", "a&b#c{d}/"), ("q", "x")]
    monkeypatch.setenv("SOME_HOST", "http://x.example:80")
    text = BASE.replace("http://x.example", "$SOME_HOST") + KEYS
    assert described(tmp_path, text)._filled("x", 1, 0)[0].startswith("http://x.example:80/a%26")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            BASE + KEYS + '[headers]\nAuthorization = "Bearer SECRET"\nRetries = 3\n',
            "Retries of .* is a int; expected a text",
        ),
        (BASE + 'headers = "Bearer SECRET"\n' + KEYS, "headers of .* is a str; expected a table of texts"),
        (BASE + 'keys = "x"\n', r"keys of .* is a str; expected the table \[keys\]"),
        ("a = " + "[" * 5000 + "]" * 5000, "too deep in each other"),
        (BASE + "count = 0\n" + KEYS, "count of .* is 0; expected at least 1"),
        (BASE + "seconds = nan\n" + KEYS, "seconds of .* is nan; expected more than 0"),
        (BASE + 'private_hosts = ["http://media/"]\n' + KEYS, "expected the name of a host, without http://"),
        (BASE + "page_size = 0\n" + KEYS, "page_size of n is 0"),
    ],
    ids=range(8),
)
def test_a_mistake_in_the_file_gives_one_sentence_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("SOME_KEY", "k")
    with pytest.raises(GifdexError, match=message) as caught:
        described(tmp_path, text)
    assert "SECRET" not in str(caught.value)


def test_a_path_that_no_system_can_have_gives_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        _described(tmp_path / "a\0b.toml")
