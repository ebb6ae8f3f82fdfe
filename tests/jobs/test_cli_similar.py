"""`gifdex similar` as users see it: examples, classes, stdin and every mistake."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import gifdex
from gifdex.jobs.demo_corpus import make_corpus
from tests.commands import Finished, run, run_cold

IDS = ("cat-pan", "coffee-pan", "motorcycle-zoom", "flower-zoom")


@dataclass(frozen=True)
class Built:
    corpus: Path
    store: Path
    plain: Path  # without features


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Four photographs in motion, with and without their features."""
    root = tmp_path_factory.mktemp("similar")
    make_corpus(root / "gifs", set(IDS))
    for options in (["--keep-features"], []):
        done = run("build", root / "gifs", "--workspace", root / "ws", *options, "--json")
        assert done.returncode == 0, done.stderr
        version = root / "ws" / "index" / json.loads(done.stdout)["build_id"]
        if options:
            store = version
    return Built(root / "gifs", store, version)


def hits(done: Finished) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def sentences(done: Finished) -> list[str]:
    """Return the lines of stderr, but for the notice of a slow machine."""
    return [line for line in done.stderr.splitlines() if ": loading the image encoder" not in line]


def path_of(built: Built, key: str) -> Path:
    (path,) = built.corpus.rglob(f"{key}.gif")
    return path


def test_a_gif_a_picture_and_an_item_find_what_they_show(built: Built, tmp_path: Path) -> None:
    gif = path_of(built, "cat-pan")
    with Image.open(gif) as animation:
        animation.convert("RGB").save(tmp_path / "cat.png")
    (key,) = {hit["id"] for hit in hits(run("similar", built.store, "--gif", gif, "-k", "1", "--json"))}
    assert key.endswith("cat-pan")
    assert hits(run("similar", built.store, "--image", tmp_path / "cat.png", "-k", "1", "--json"))[0]["id"] == key
    others = hits(run("similar", built.store, "--id", key, "--json"))
    assert [hit["rank"] for hit in others] == [1, 2, 3]
    assert key not in {hit["id"] for hit in others}
    table = run("similar", built.store, "--id", key, "-k", "1")
    assert table.stdout.splitlines()[0].split() == ["rank", "score", "id", "uri"]
    assert others[0]["id"] in table.stdout


def test_a_gif_is_read_from_stdin(built: Built) -> None:
    done = run_cold("similar", built.store, "--gif", "-", "-k", "1", "--json", stdin=path_of(built, "cat-pan"))
    assert hits(done)[0]["id"].endswith("cat-pan")
    assert hits(done)[0]["score"] == pytest.approx(1, abs=1e-4)


def test_examples_are_subtracted_and_one_named_twice_counts_twice(built: Built) -> None:
    ids = [hit["id"] for hit in hits(run("similar", built.store, "--gif", path_of(built, "cat-pan"), "--json"))]
    plus, less = ids[0], ids[1]
    once = hits(run("similar", built.store, "--id", plus, "--minus-id", less, "--json"))
    twice = hits(run("similar", built.store, "--id", plus, "--id", plus, "--minus-id", less, "--json"))
    assert {hit["id"] for hit in once} == {hit["id"] for hit in twice} == set(ids) - {plus, less}
    assert [hit["score"] for hit in once] != [hit["score"] for hit in twice]
    by_file = run("similar", built.store, "--id", plus, "--minus-gif", path_of(built, "coffee-pan"), "--json")
    assert hits(by_file)[-1]["id"].endswith("coffee-pan")


@pytest.mark.parametrize("options", [("--towards", "Tabby Cat"), ("--towards", "281"), ("--fields", "features")])
def test_features_answer_too(built: Built, options: tuple[str, str]) -> None:
    found = hits(run("similar", built.store, "--gif", path_of(built, "cat-pan"), *options, "--json", "-k", "4"))
    assert len(found) == len(IDS)
    assert found[0]["id"].endswith("cat-pan")


def test_a_class_moves_its_own_subject_up_where_a_picture_shows_two(built: Built, tmp_path: Path) -> None:
    """Real photographs: half of the picture is a cup of coffee, the other half a motorcycle."""
    both = Image.new("RGB", (400, 200))
    for number, key in enumerate(("coffee-pan", "motorcycle-zoom")):
        with Image.open(path_of(built, key)) as animation:
            both.paste(animation.convert("RGB").resize((200, 200)), (200 * number, 0))
    both.save(tmp_path / "both.png")
    first = {
        towards: hits(run("similar", built.store, "--image", tmp_path / "both.png", "--towards", towards, "--json"))[0]
        for towards in ("espresso", "moped")
    }
    assert first["espresso"]["id"].endswith("coffee-pan")
    assert first["moped"]["id"].endswith("motorcycle-zoom")


def test_a_build_calibrates_its_scores(built: Built) -> None:
    found = hits(run("search", built.store, "a cup of coffee", "--json"))
    assert found[0]["id"].endswith("coffee-pan")
    assert found[0]["percentile"] > 0.9 > found[-1]["percentile"]
    kept = hits(run("search", built.store, "a cup of coffee", "--min-percentile", "0.9", "--json"))
    assert kept == [hit for hit in found if hit["percentile"] >= 0.9]
    table = run("search", built.store, "a cup of coffee", "--min-percentile", 0).stdout.splitlines()
    assert table[0].split() == ["rank", "score", "percentile", "id", "uri"]
    assert f"{found[0]['percentile']:.3f}" in table[1]
    assert hits(run("search", built.store, "the annual report of a bank", "--min-percentile", "0.9", "--json")) == []


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (("--min-percentile", "99"), 2, "99.0 is not in the range 0<=x<=1"),
        (("--min-percentile", "0.9", "--fields", "features"), 1, "the search is in features: use min_score"),
    ],
)
def test_a_lowest_percentile_that_cannot_be_is_refused(
    built: Built, options: tuple[str, ...], code: int, complaint: str
) -> None:
    done = run("search", built.store, "a cat", *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert complaint in done.stderr.splitlines()[-1]


def test_the_options_of_a_search_hold(built: Built) -> None:
    ids = [hit["id"] for hit in hits(run("similar", built.store, "--gif", path_of(built, "cat-pan"), "--json"))]
    where = f"id={ids[2]}"
    assert [hit["id"] for hit in hits(run("similar", built.store, "--id", ids[0], "--where", where, "--json"))] == ids[
        2:3
    ]
    assert hits(run("similar", built.store, "--id", ids[0], "--min-score", "0.99", "--json")) == []


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        ((), 2, "there is no example; expected --gif, --image or --id"),
        (("--gif", "-", "--minus-gif", "-"), 2, "several examples are -, but stdin holds one file"),
        (("--gif", ""), 2, "the path is empty; expected a file"),
        (("--gif", "nowhere.gif"), 1, "cannot read the example nowhere.gif: No such file or directory"),
        (("--gif", __file__), 1, f"cannot use the GIF {__file__}: the file begins with"),
        (("--image", __file__), 1, f"cannot use the picture {__file__}: the file begins with"),
        (("--id", "nobody"), 1, "has no item 'nobody'; expected one of its ids"),
        (("--id", "ID", "--minus-id", "ID"), 1, "the examples cancel out"),
        (("--id", "ID", "--towards", "siamees cat"), 1, "did you mean Persian cat (283), Siamese cat (284)"),
        (("--id", "ID", "--towards", "1000"), 1, "there is no class 1000; expected a number from 0 to 999"),
        (("--id", "ID", "--towards", "tabby cat", "--fields", "image"), 1, "towards searches the field features"),
        (("--id", "ID", "--fields", "text2"), 1, "has no field 'text2', only image"),
        (("--gif", "GIF", "--image-encoder", "efficientnet-lite9"), 1, "no image encoder 'efficientnet-lite9'"),
    ],
)
def test_a_mistake_gives_one_sentence(built: Built, options: tuple[str, ...], code: int, complaint: str) -> None:
    gif = path_of(built, "cat-pan")
    key = gif.relative_to(built.corpus).with_suffix("").as_posix()
    given = [{"ID": key, "GIF": gif}.get(option, option) for option in options]
    done = run("similar", built.store, *given)
    assert done.returncode == code
    assert done.stdout == ""
    assert complaint in done.stderr.splitlines()[-1]
    assert len(sentences(done)) == 1 or code == 2


@pytest.mark.parametrize("options", [("--towards", "tabby cat"), ("--fields", "features")])
def test_an_index_without_features_says_how_to_get_them(built: Built, options: tuple[str, ...]) -> None:
    key = path_of(built, "cat-pan").relative_to(built.corpus).with_suffix("").as_posix()
    done = run("similar", built.plain, "--id", key, *options)
    assert done.returncode == 1
    (sentence,) = sentences(done)
    assert "build it with --keep-features" in sentence


def test_a_file_is_read_once_though_two_spaces_are_compared(built: Built) -> None:
    index, (path, *_) = gifdex.open(built.store), sorted(built.corpus.glob("*.gif"))
    with path.open("rb") as stream:
        assert index.similar(2, gif=stream, towards="espresso") == index.similar(2, gif=path, towards="espresso")


def test_without_tensorflow_items_answer_and_gifs_name_the_extra(built: Built, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tensorflow'] = None\n")
    paths = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    gif = path_of(built, "cat-pan")
    key = gif.relative_to(built.corpus).with_suffix("").as_posix()
    assert len(hits(run_cold("similar", built.store, "--id", key, "--towards", "tabby cat", "--json", env=paths))) == 3
    done = run_cold("similar", built.store, "--gif", gif, env=paths)
    assert done.returncode == 1
    (sentence,) = sentences(done)
    assert "needs the module tensorflow, which is not installed: run pip install 'gifdex[pipeline]'" in sentence
