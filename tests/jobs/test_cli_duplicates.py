"""`gifdex duplicates`, `--group` and `--dedupe` as users see them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from gifdex.jobs.demo_corpus import make_corpus
from tests.commands import run

NAMES = {"cat-pan", "coffee-pan"}


@pytest.fixture(scope="module")
def gifs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two GIFs, one of them also cropped by a pixel, and a copy of the other."""
    folder = tmp_path_factory.mktemp("cli-duplicates") / "gifs"
    folder.mkdir()
    for path in make_corpus(folder.parent / "made", NAMES):
        shutil.copy(path, folder / path.name)
    with Image.open(folder / "cat-pan.gif") as animation:
        inner = 1, 1, animation.width - 1, animation.height - 1
        frames = [frame.convert("RGB").crop(inner) for frame in ImageSequence.Iterator(animation)]
    frames[0].save(folder / "cat-cropped.gif", save_all=True, append_images=frames[1:], duration=100, loop=0)
    shutil.copy(folder / "coffee-pan.gif", folder / "coffee-copy.gif")
    return folder


@pytest.fixture(scope="module")
def workspace(gifs: Path) -> Path:
    done = run("build", gifs, "--workspace", gifs.parent / "ws", "--keep-features")
    assert done.returncode == 0, done.stderr
    return gifs.parent / "ws"


@pytest.mark.parametrize("options", [(), ("--field", "features"), ("--exact",), ("--engine", "annoy")])
def test_groups_are_listed(workspace: Path, options: tuple[str, ...]) -> None:
    done = run("duplicates", workspace / "index", "--min-score", "0.97", *options, "--json")
    assert done.returncode == 0, done.stderr
    groups = [json.loads(line) for line in done.stdout.splitlines()]
    assert [group["group"] for group in groups] == [1, 2]
    assert [group["size"] for group in groups] == [2, 2]
    ids = [{item["id"] for item in group["items"]} for group in groups]
    assert sorted(map(sorted, ids)) == [["cat-cropped", "cat-pan"], ["coffee-copy", "coffee-pan"]]
    assert all(group["items"][0]["score"] == 1 for group in groups)
    assert all(0.97 <= item["score"] <= 1 and item["uri"].endswith(".gif") for one in groups for item in one["items"])


def test_groups_are_a_table_for_people(workspace: Path) -> None:
    done = run("duplicates", workspace / "index", "--min-score", "1")
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["group", "score", "id", "uri"]
    assert [row.split()[:3] for row in rows] == [["1", "1.000", "coffee-copy"], ["1", "1.000", "coffee-pan"]]


def test_a_search_shows_one_of_each(workspace: Path) -> None:
    done = run("search", workspace / "index", "a cat", "-k", 2, "--json", "--group=0.97")
    assert done.returncode == 0, done.stderr
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    assert [len({hit["id"], *hit["duplicates"]}) for hit in hits] == [2, 2]
    table = run("search", workspace / "index", "a cat", "--group", 0.98)
    assert table.returncode == 0, table.stderr
    assert table.stdout.split()[:5] == ["rank", "score", "id", "uri", "duplicates"]
    plain = run("search", workspace / "index", "a cat", "--json")
    assert all("duplicates" not in json.loads(line) for line in plain.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("duplicates", "--min-score", "0"), "'--min-score'"),
        (("duplicates", "--field", "caption"), "'caption' is not one of"),
        (("search", "--group", "a cat"), "'a cat' is not a valid float range"),
        (("search", "a cat", "--group", "2"), "2.0 is not in the range 0<x<=1"),
    ],
)
def test_invalid_values_are_usage_errors(workspace: Path, arguments: tuple[str, ...], message: str) -> None:
    command, *rest = arguments
    done = run(command, workspace / "index", *rest)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_a_build_keeps_the_largest_of_each(gifs: Path, workspace: Path, tmp_path: Path) -> None:
    for name in ("features", "projections"):
        shutil.copytree(workspace / name, tmp_path / name)
    done = run("build", gifs, "--workspace", tmp_path, "--dedupe", "0.97")
    assert done.returncode == 0, done.stderr
    assert "2 items left out: duplicate_of in" in done.stdout
    assert "dedupe: 3 of 3" in done.stderr
    shown = run("inspect", tmp_path / "index")
    assert "2 (near duplicates left out: 2)" in shown.stdout
    none = run("duplicates", tmp_path / "index", "--min-score", "0.97", "--json")
    assert (none.returncode, none.stdout) == (0, "")
