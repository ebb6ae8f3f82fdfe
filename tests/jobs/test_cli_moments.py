"""`gifdex build --moments`, and how search shows when something happens."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from gifdex.index.hits import Hit, Moment
from gifdex.jobs.queries import print_hits
from tests.commands import run

COLORS = ((220, 30, 30), (30, 200, 60), (30, 60, 220))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with moments, of two GIFs of a few plain colors, each shown for half a second."""
    folder = tmp_path_factory.mktemp("moments")
    (folder / "gifs").mkdir()
    for name, colors in (("warm", COLORS[:2]), ("all", COLORS)):
        pictures = [Image.new("RGB", (32, 32), color) for color in colors]
        path = folder / "gifs" / f"{name}.gif"
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=500, loop=0)
    done = run("build", folder / "gifs", "--workspace", folder / "ws", "--moments")
    assert done.returncode == 0, done.stderr
    return folder / "ws"


def test_search_says_when(workspace: Path) -> None:
    done = run("search", workspace / "index", "something blue", "--fields", "image,frames=0.5")
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["rank", "score", "at", "id", "uri"]
    assert len(rows) == 2
    assert all(re.search(r" [01]\.[05] s ", row) for row in rows)
    shown = run("search", workspace / "index", "something blue", "--fields", "frames", "--json")
    for line in shown.stdout.splitlines():
        hit = json.loads(line)
        assert [set(moment) for moment in hit["moments"]] == [{"milliseconds", "frame", "score"}] * (
            2 if hit["id"] == "warm" else 3
        )
        assert hit["moments"][0]["score"] == hit["score"]
        assert all(moment["milliseconds"] == 500 * moment["frame"] for moment in hit["moments"])


def test_hits_without_moments_have_no_column_and_no_key(workspace: Path) -> None:
    done = run("search", workspace / "index", "something blue")
    assert done.stdout.splitlines()[0].split() == ["rank", "score", "id", "uri"]
    (first, _) = run("search", workspace / "index", "something blue", "--json").stdout.splitlines()
    assert set(json.loads(first)) == {"rank", "id", "score", "uri", "metadata", "percentile"}


def test_an_index_without_frames_says_how_to_build_them(workspace: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workspace, tmp_path / "ws")
    built = run("build", workspace.parent / "gifs", "--workspace", copy, "--json")
    assert json.loads(built.stdout)["tried"] == 0
    done = run("search", copy / "index", "something blue", "--fields", "frames")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(r"has no field 'frames', only image: build it with --moments\n$", done.stderr)
    inspected = run("inspect", workspace / "index")
    assert "field frames" in inspected.stdout


def test_a_table_shows_the_best_moment_of_the_hits_that_have_one(capsys: pytest.CaptureFixture[str]) -> None:
    moments = (Moment(1240, 12, 0.5), Moment(0, 0, 0.4))
    print_hits([Hit("a", 0.5, "a.gif", {}, moments=moments), Hit("b", 0.4, "b.gif", {})], as_json=False)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["rank", "score", "at", "id", "uri"],
        ["1", "0.500", "1.2", "s", "a", "a.gif"],
        ["2", "0.400", "b", "b.gif"],
    ]
