"""docs/index-format.md is enough to read an index: a reader written from it finds what gifdex finds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import gifdex
from gifdex.encoders.base import FloatArray, unit
from gifdex.index.lookup import Index
from gifdex.index.search import candidates_for
from gifdex.index.store import publish
from tests.index.graph_reader import GraphReader

READER = Path(__file__).with_name("plain_reader.py")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "index-format.md"
ASK = """
import json, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(json.dumps([name for name in sys.modules if name.partition(".")[0] == "gifdex"]))
"""


def make_store(folder: Path, make_version: Any, vectors: FloatArray, shards: tuple[int, ...]) -> Path:
    make_version(folder / "00000000000000cc", vectors, shards)
    publish(folder, "00000000000000cc")
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, make_version: Any, clustered: Any) -> Path:
    """A store of 4,000 items of 128 dimensions in three shards, with a reduction."""
    folder = tmp_path_factory.mktemp("plain") / "index"
    return make_store(folder, make_version, clustered(4000, 128), (1500, 1300, 1200))


def not_all_are_scored(index: Index) -> bool:
    image = index.manifest.fields["image"]
    return 2 * candidates_for(image.engines["annoy"].num_candidates, 10) * len(image.shards) < image.rows


def near(index: Index, count: int) -> FloatArray:
    """Vectors near those of the index, of any length."""
    random = np.random.default_rng(11)
    stored = np.concatenate([np.load(index.path / shard.vectors) for shard in index.manifest.fields["image"].shards])
    drawn = stored[random.integers(0, len(stored), count)]
    return 3 * (drawn + 0.05 * random.standard_normal(drawn.shape)).astype(np.float32)


def ask(store: Path, queries: FloatArray, folder: Path) -> tuple[subprocess.CompletedProcess[str], Any]:
    """Run the plain reader in a subprocess; its second line of output lists the gifdex modules it imported."""
    np.save(folder / "queries.npy", queries)
    command = [sys.executable, "-c", ASK, str(READER), str(store), str(folder / "queries.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done, [json.loads(line) for line in done.stdout.splitlines()]


def assert_same(found: Any, index: Index, queries: FloatArray) -> None:
    expected = index.search(queries, 10, engine="annoy")
    assert [[key for key, _ in answer] for answer in found] == [[hit.id for hit in hits] for hits in expected]
    scores = [[hit.score for hit in hits] for hits in expected]
    np.testing.assert_allclose([[score for _, score in answer] for answer in found], scores, rtol=0, atol=1e-12)


def test_a_reader_without_gifdex_finds_the_same_with_the_same_trees(store: Path, tmp_path: Path) -> None:
    index = gifdex.open(store)
    image = index.manifest.fields["image"]
    assert image.reduction is not None
    assert image.engines["annoy"].dimensions < index.dimensions
    assert not_all_are_scored(index)
    queries = near(index, 50)
    done, lines = ask(store, queries, tmp_path)
    assert done.returncode == 0, done.stderr
    found, modules = lines
    assert modules == []
    assert len(found) == 50
    assert_same(found, index, queries)


def test_the_reader_works_without_a_reduction(make_version: Any, clustered: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path / "index", make_version, clustered(3000, 32), (1600, 1400))
    index = gifdex.open(store)
    assert index.manifest.fields["image"].reduction is None
    assert not_all_are_scored(index)
    queries = near(index, 20)
    done, lines = ask(store, queries, tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(lines[0], index, queries)


def test_the_reader_returns_each_repost(make_version: Any, clustered: Any, tmp_path: Path) -> None:
    vectors = clustered(3000, 32)
    vectors[1000:1400], vectors[2000:2300] = vectors[:400], vectors[100:400]
    store = make_store(tmp_path / "index", make_version, vectors, (1600, 1400))
    index = gifdex.open(store)
    shards = index.manifest.fields["image"].shards
    assert [shard.row_items is None for shard in shards] == [False, True]
    queries = np.vstack([near(index, 20), vectors[:5], vectors[100:105]])
    done, lines = ask(store, queries, tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(lines[0], index, queries)
    assert {"gif-00100", "gif-01100", "gif-02000"} <= {key for key, _ in lines[0][25]}


def test_the_reader_scores_every_row_of_a_small_index(make_version: Any, clustered: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path / "index", make_version, clustered(90, 128), (1, 60, 29))
    index = gifdex.open(store)
    queries = near(index, 5)
    done, lines = ask(store, queries, tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(lines[0], index, queries)


def test_the_reader_refuses_what_the_documentation_says_to_refuse(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "index")
    manifest = tmp_path / "index" / "00000000000000cc" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"format_version": 4', '"format_version": 5'))
    done, _ = ask(tmp_path / "index", np.ones((1, 128), np.float32), tmp_path)
    assert done.returncode == 1
    assert "has format version 5, expected 4" in done.stderr
    manifest.write_text(text)
    with (manifest.parent / "image-00001.ann").open("r+b") as stream:
        stream.truncate(1000)
    done, _ = ask(tmp_path / "index", np.ones((1, 128), np.float32), tmp_path)
    assert done.returncode == 1
    assert "image-00001.ann is not of " in done.stderr


def test_the_reader_is_short_and_imports_no_gifdex_module() -> None:
    text = READER.read_text()
    assert len(text.splitlines()) <= 60
    assert re.findall(r"^(?:from|import) gifdex", text, re.MULTILINE) == []


def test_the_documented_example_answers_as_gifdex_does(store: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert "gifdex." not in example
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "index").symlink_to(store)
    (tmp_path / "example.py").write_text(example + "print(json.dumps(answer))\n")
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    hits = gifdex.open(store).search(unit(np.ones((1, 128)))[0], 10, engine="scan")
    assert [key for key, _ in json.loads(done.stdout)] == [hit.id for hit in hits]
    scores = [hit.score for hit in hits]
    np.testing.assert_allclose([score for _, score in json.loads(done.stdout)], scores, rtol=0, atol=1e-12)


def walked(path: Path, query: FloatArray, items: int, metric: str, search_k: int) -> list[int]:
    """Return the rows that Annoy's search visits, by the documented node layout; `query` has f numbers."""
    head = {"angular": 3, "euclidean": 4}[metric]
    words = np.fromfile(path, "<i4").reshape(-1, head + len(query))
    numbers = words.view("<f4")
    roots = [len(words) - 1]
    while roots[-1] and words[roots[-1] - 1, 0] == words[-1, 0] == items:
        roots.append(roots[-1] - 1)
    if len(roots) > 1 and words[roots[-1], head - 2] == words[-1, head - 2]:
        roots.pop()
    frontier = [(np.inf, root) for root in roots]
    found: list[int] = []
    while frontier and len(found) < search_k:
        priority, node = frontier.pop(frontier.index(max(frontier)))
        descendants = words[node, 0]
        if node < items:
            assert descendants == 1
            found.append(node)
        elif descendants <= len(query) + 2:
            found += words[node, head - 2 : head - 2 + descendants].tolist()
        else:
            side = float(numbers[node, head:] @ query) + (float(numbers[node, 1]) if metric == "euclidean" else 0.0)
            low, high = words[node, head - 2 : head].tolist()
            assert max(low, high) < node
            frontier += [(min(priority, side), high), (min(priority, -side), low)]
    return sorted(set(found))


@pytest.mark.parametrize("metric", ["angular", "euclidean"])
def test_the_documented_layout_of_annoys_file_gives_annoys_answers(
    metric: str, make_version: Any, clustered: Any, tmp_path: Path
) -> None:
    from annoy import AnnoyIndex

    vectors = clustered(2500, 16 if metric == "angular" else 128)
    version = make_version(tmp_path / "v", vectors)
    manifest = json.loads((version / "manifest.json").read_text())
    facts = manifest["fields"]["image"]["engines"]["annoy"]
    assert facts["metric"] == metric
    seen, tail = facts["dimensions"], metric == "euclidean"
    trees = AnnoyIndex(seen + tail, metric)
    assert trees.load(str(version / "image-00000.ann"))
    for query in clustered(5, 128, seed=9)[:, : seen + tail].astype(np.float32):
        query[seen:] = 0
        rows = walked(version / "image-00000.ann", query, 2500, metric, 400)
        assert rows == sorted(trees.get_nns_by_vector(query.tolist(), 2500, 400))
    stored = np.array([trees.get_item_vector(row) for row in range(50)])
    words = np.fromfile(version / "image-00000.ann", "<f4").reshape(-1, (4 if tail else 3) + seen + tail)
    np.testing.assert_array_equal(words[:50, 4 if tail else 3 :], stored.astype(np.float32))
    if tail:
        np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-6)


def test_the_documented_graph_layout_matches_its_bytes_and_its_answers(
    make_version: Any, clustered: Any, tmp_path: Path
) -> None:
    items = 3000
    version = make_version(tmp_path / "v", clustered(items, 128), hnsw=True)
    index = gifdex.open(version)
    facts = index.manifest.fields["image"].engines["hnsw"]
    stored = np.load(version / "image-00000.vectors.npy")
    directions = load_file(version / "image.reduction.safetensors")["directions"][:, : facts.dimensions]
    reduced = stored @ directions
    graph = GraphReader(version / "image-00000.graph")
    connectivity = facts.parameters["connectivity"]
    assert (graph.rows, graph.dimensions) == (items, facts.dimensions)
    assert (graph.lowest.shape[1], graph.upper.shape[1]) == (2 * connectivity, connectivity)
    assert sorted(graph.keys) == list(range(items))
    levels = [graph.level(slot) for slot in range(items)]
    assert levels[graph.entry] == max(levels) == graph.highest
    for slot, level in enumerate(levels):
        assert all(levels[link] >= at for at in range(level + 1) for link in graph.links(slot, at))
    scaled = np.rint(reduced * (np.float32(127) / np.abs(reduced).max())).astype(np.int8)
    # The build multiplies blocks of other shapes, so rounding may put a product on the other side.
    assert np.abs(graph.vectors.astype(int) - scaled[graph.keys]).max() <= 1
    assert (graph.vectors == scaled[graph.keys]).mean() > 0.999

    wanted = candidates_for(facts.num_candidates, 10)
    assert 2 * wanted < items
    for query in near(index, 20):
        one = (query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))).astype(np.float32)
        found = np.array(graph.search(one @ directions, min(3 * wanted, items), wanted))
        cosines = stored[found].astype(np.float64) @ one.astype(np.float64)
        best = found[np.lexsort((found, -cosines))[:10]]
        assert [index.ids[row] for row in best] == [hit.id for hit in index.search(query, 10, engine="hnsw")]
