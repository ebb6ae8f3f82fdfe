"""Terms, and the words of captions, as users of the command line ask for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gifdex.jobs.demo_corpus import make_corpus
from gifdex.schemas.manifest import Manifest
from tests.commands import run

CATALOG: list[dict[str, Any]] = [
    {"id": "cat-pan", "caption": "A cat looks around", "title": "Chelsea"},
    {"id": "coffee-pan", "caption": "Ein Café am Morgen", "tags": ["cup", "drink"]},
    {"id": "rocket-zoom", "caption": "A rocket on the pad", "title": ["Falcon", "Nine"]},
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs in motion with captions, built with the words of their titles."""
    root = tmp_path_factory.mktemp("words")
    make_corpus(root, {str(row["id"]) for row in CATALOG})
    lines = [json.dumps({**row, "uri": f"{row['id']}.gif"}) for row in CATALOG]
    (root / "catalog.jsonl").write_text("\n".join(lines) + "\n")
    done = run("build", root / "catalog.jsonl", "--workspace", root / "ws", "--text-columns", "title")
    assert done.returncode == 0, done.stderr
    return root / "ws"


def hits(workspace: Path, *arguments: str) -> list[dict[str, Any]]:
    done = run("search", workspace / "index", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ids(workspace: Path, *arguments: str) -> list[str]:
    return [hit["id"] for hit in hits(workspace, *arguments)]


def failure(workspace: Path, *arguments: str) -> str:
    done = run("search", workspace / "index", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_words_find_captions_ids_tags_and_chosen_columns(workspace: Path) -> None:
    for word, key in [
        ("cafe", "coffee-pan"),
        ("DRINK", "coffee-pan"),
        ("falcon", "rocket-zoom"),
        ("chelsea", "cat-pan"),
    ]:
        assert ids(workspace, word, "--fields", "text") == [key]
    (hit,) = hits(workspace, "zoom", "--fields", "text")
    assert hit["id"] == "rocket-zoom"
    assert hit["score"] > 0
    assert ids(workspace, 'rocket "falcon nine"', "--fields", "text,image") == ["rocket-zoom"]


def test_fusion_is_chosen(workspace: Path) -> None:
    by_ranks = hits(workspace, "a rocket", "--fields", "image,text=2")
    by_scores = hits(workspace, "a rocket", "--fields", "image,text=2", "--fusion", "scores")
    assert by_ranks[0]["id"] == by_scores[0]["id"] == "rocket-zoom"
    assert by_ranks[0]["score"] == pytest.approx(3 / 61, abs=1e-6)
    assert by_scores[0]["score"] > 2


def test_terms_are_weighted_words(workspace: Path) -> None:
    assert ids(workspace, "cat:2 -rocket", "--syntax", "terms")[0] == "cat-pan"
    assert ids(workspace, "--syntax", "terms", "--", "-cat rocket")[0] == "rocket-zoom"
    assert ids(workspace, "--syntax", "terms", "--", "-cat", "rocket") == ids(
        workspace, "--syntax", "terms", "--", "-cat rocket"
    )
    error = failure(workspace, "cat:x rocket", "--syntax", "terms")
    assert error.startswith("gifdex: the terms 'cat:x rocket' have ':x' at character 4; expected a number")


def test_what_has_no_words_is_one_error(workspace: Path) -> None:
    assert failure(workspace, "?!", "--fields", "text").startswith("gifdex: the sentence '?!' has no words")
    assert "syntax='terms' makes a vector" in failure(workspace, "cat", "--fields", "text", "--syntax", "terms")


def test_evaluate_and_inspect_know_the_field(workspace: Path) -> None:
    captions = workspace.parent / "catalog.jsonl"
    done = run("evaluate", workspace / "index", "--captions", captions, "--fields", "text", "--json")
    measured = json.loads(done.stdout)
    assert (measured["recall@1"], measured["engine"], measured["engine_recall@10"]) == (1, "fts", 1)
    done = run("inspect", workspace / "index", "--json")
    manifest = json.loads(done.stdout)
    assert manifest["text"]["columns"] == ["caption", "id", "tags", "title"]
    version = Path(manifest["path"])
    assert Manifest.from_json((version / "manifest.json").read_text(), "", {}).text is not None
    assert "words of 3 items, from caption, id, tags, title" in run("inspect", workspace / "index").stdout


def test_a_column_that_no_item_has_is_refused_before_anything_is_encoded(workspace: Path, tmp_path: Path) -> None:
    catalog = workspace.parent / "catalog.jsonl"
    done = run("build", catalog, "--workspace", tmp_path / "ws", "--text-columns", "title,sound")
    assert done.returncode == 1
    assert "no item of the corpus has the column 'sound' that --text-columns names; it has tags, title: " in done.stderr
    assert "encode: " not in done.stderr
    done = run("build", catalog, "--workspace", tmp_path / "ws", "--text-columns", "title,,x")
    assert done.returncode == 2
    assert "has an empty name" in done.stderr
