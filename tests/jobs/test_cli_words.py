"""`gifdex words`, `gifdex tags` and `gifdex build --tags` as users see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from click.testing import CliRunner

from gifdex.jobs.cli import gifdex
from tests.commands import run

GLOVE = "the 1 0 0\nocean 0 1 0.2\nsea 0 1 0.1\nstreet 0.1 0 1\navenue 0.2 0 1\nlake 0 0.5 0\n"


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    (folder / "vectors.txt").write_text(GLOVE)
    done = run("words", "build", "words", "--glove", "vectors.txt", "--max-words", 5, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (summary,) = lines(done.stdout)
    assert (summary["words"], summary["dimensions"], summary["space"]) == (5, 3, "glove")
    return folder / "words"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of two GIFs with tags."""
    corpus = tmp_path_factory.mktemp("gifs")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (3, 32, 48, 3), np.uint8)
        iio.imwrite(corpus / f"g{number}.gif", pixels, duration=100)
    workspace = tmp_path_factory.mktemp("tags") / "ws"
    options = ["--tags", 2, "--min-tag-probability", 0, "--keep-features"]
    done = run("build", corpus, "--workspace", workspace, *options)
    assert done.returncode == 0, done.stderr
    return workspace / "index"


def test_words_near_a_word_are_a_table_or_json(words: Path) -> None:
    table = run("words", "near", words, "ocean", "-k", 1)
    assert [line.split() for line in table.stdout.splitlines()] == [["rank", "score", "word"], ["1", "0.995", "sea"]]
    found = lines(run("words", "near", words, "Street", "--json", "--max-rank", 5).stdout)
    assert [(one["rank"], one["word"]) for one in found] == [(1, "avenue"), (2, "ocean"), (3, "the"), (4, "sea")]


def test_a_words_index_is_a_store_like_any_other(words: Path, tmp_path: Path) -> None:
    assert "field word" in run("inspect", words).stdout
    assert "image encoder" not in run("inspect", words).stdout
    for arguments in (
        ["inspect", words, "--json", "--measure"],
        ["verify", words],
        ["versions", words],
        ["export", words, tmp_path / "out", "--format", "parquet"],
        ["push", words, tmp_path / "copy"],
        ["words", "near", tmp_path / "copy", "sea"],
        ["prune", words, "--keep", 1],
    ):
        done = run(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["words", "near", "{words}", "oceann"], "has no word 'oceann'; did you mean ocean?"),
        (["search", "{words}", "a cat"], "is a words index, which has no GIFs and only answers words near a word"),
        (["tags", "{words}", "--id", "sea"], "is a words index, which has no GIFs"),
        (["words", "build", "{words}", "--glove", "nowhere.txt"], "there is no file"),
        (["words", "build", "other", "--index", "{words}", "--words", "{words}/CURRENT"], "is a words index"),
    ],
)
def test_a_mistake_is_one_sentence(words: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(*(argument.format(words=words) for argument in arguments), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("gifdex: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tags", "ws"], "give one of --gif, --image and --id"),
        (["tags", "ws", "--id", "a", "--gif", "b.gif"], "give one of --gif, --image and --id"),
        (["words", "build", "out", "--words", "list.txt"], "--words is for words in the space of an index"),
        (["words", "build", "out", "--index", "ws", "--glove", "f"], "--glove gives words vectors of its own"),
        (["words", "near", "out"], "Missing argument 'WORD'"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(gifdex, arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_tags_of_an_item_are_those_that_the_build_wrote(store: Path) -> None:
    tags = [one["word"] for one in lines(run("tags", store, "--id", "g0", "-k", 2, "--json").stdout)]
    (hit,) = lines(run("search", store, "a cat", "--where", "id=g0", "--json").stdout)
    assert hit["metadata"] == {"tags": tags}
    found = lines(run("search", store, "a cat", "--where", f"tags={tags[0]}", "--json").stdout)
    assert "g0" in {one["id"] for one in found}


def test_tags_are_words_of_a_list_in_the_space_of_the_index(store: Path, make_gif: Callable[..., Path]) -> None:
    folder = store.parent
    (folder / "list.txt").write_text("the\nocean\n\ncarpet\n  street  \n")
    done = run("words", "build", folder / "near", "--index", store, "--words", folder / "list.txt")
    assert done.returncode == 0, done.stderr
    gif = make_gif("query.gif", seed=0)
    for example in (["--id", "g0"], ["--gif", gif], ["--image", gif]):
        done = run("tags", store, *example, "--words", folder / "near", "--json")
        assert {one["word"] for one in lines(done.stdout)} == {"ocean", "carpet", "street"}, done.stderr


def test_a_gif_of_a_cat_is_tagged_with_kinds_of_cats(store: Path, data: Path) -> None:
    for gif in ("cat_piano", "sad_cat"):
        found = lines(run("tags", store, "--gif", data / "clips" / f"{gif}.gif", "-k", 3, "--json").stdout)
        assert any("cat" in str(one["word"]) for one in found), found
