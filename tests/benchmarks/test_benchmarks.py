"""Every benchmark runs on a small scale; its figures mean nothing here, but they exist and are plausible."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run as run_command
from tests.commands import run_script

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# Parts of lookup.py; the tests of lookup.py run them.
PARTS = {"contestants.py", "measure.py", "million.py", "report.py", "vectors.py"}
OURS = ["gifdex-annoy", "gifdex-scan", "gifdex-hnsw", "gifdex-exact"]
PEERS = ["faiss-flat"]


def run(name: str, *arguments: object) -> str:
    done = run_script(BENCHMARKS / name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(result: Any) -> Iterator[float]:
    """Yield every number in a JSON value, at any depth."""
    if isinstance(result, dict | list):
        for value in result.values() if isinstance(result, dict) else result:
            yield from figures(value)
    elif isinstance(result, int | float) and not isinstance(result, bool):
        yield result


@pytest.fixture
def corpus(make_gif: Callable[..., Path]) -> Path:
    """Three GIFs of four frames."""
    made = [make_gif(f"gifs/g{number}.gif", seed=number) for number in range(3)]
    return made[0].parent


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of lookup.py for 400 vectors, and for 500 that it generates while writing."""
    path = tmp_path_factory.mktemp("lookup") / "results.json"
    options = ["--queries", 200, "--rounds", 1, "--seconds", 0.001, "--million", "500x16", "--fresh", "--json", path]
    printed = run("lookup.py", "--data", "400x32", *options, "--only", *OURS, *PEERS)
    assert "400x32: 400 items of 32 dimensions, 200 queries" in printed
    assert "500 items of 16 dimensions, shards of [500]" in printed
    return path


def test_every_benchmark_has_a_test_here() -> None:
    text = Path(__file__).read_text()
    for path in BENCHMARKS.glob("*.py"):
        assert path.name in PARTS or f'run("{path.name}"' in text, path.name


@pytest.mark.heavy
def test_lookup_measures_every_contestant_and_every_engine(results: Path) -> None:
    measured = json.loads(results.read_text())
    data = measured["data"]["400x32"]
    assert {point["contestant"] for point in data["points"]} == {*OURS, *PEERS}
    assert {row["contestant"] for row in data["builds"]} == {*OURS, *PEERS}
    for point in data["points"]:
        assert 0 <= point["recall"] <= 1
        assert 0 < point["p50_ms"] <= point["p99_ms"]
        assert 0 < point["per_second"] < 1e8
        if point["contestant"] in ("gifdex-exact", "faiss-flat"):
            assert point["recall"] == 1
    assert {row["at"] for row in data["at_recall"]} == {0.95, 0.97, 0.99}
    assert set(data["fresh"]) == {"gifdex", "gifdex-hnsw"}
    million = measured["million"]
    assert (million["items"], million["dimensions"], million["shards"]) == (500, 16, [500])
    assert set(million["engines"]) == {"annoy", "scan", "hnsw", "exact"}
    assert million["engines"]["exact"]["recall"] == 1
    assert all(math.isfinite(figure) and figure >= 0 for figure in figures(measured))


@pytest.mark.heavy
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed: gifdex[bench]")
def test_plots_draws_the_results_of_lookup(results: Path, tmp_path: Path) -> None:
    run("plots.py", results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.heavy
def test_decode_compares_all_decoders_with_imageio(corpus: Path) -> None:
    measured = json.loads(run("decode.py", corpus, "--rounds", 1, "--json"))
    assert (measured["files"], measured["rounds"]) == (3, 1)
    assert {"imageio.imread", "pillow", "numba", "watched"} <= set(measured["decoders"])
    assert measured["decoders"]["imageio.imread"]["cpu_ratio"] == 1
    assert all(math.isfinite(figure) and figure >= 0 for figure in figures(measured))


@pytest.mark.heavy
def test_encode_gives_the_features_of_a_plain_loop(corpus: Path) -> None:
    measured = json.loads(run("encode.py", corpus, "--rounds", 1, "--json"))
    assert (measured["gifs"], measured["rounds"]) == (3, 1)  # the benchmark checks that the features are the same
    assert all(math.isfinite(figure) and figure > 0 for figure in figures(measured))


@pytest.mark.heavy
def test_tags_compares_tags_with_captions(corpus: Path, tmp_path: Path) -> None:
    rows = [{"uri": str(gif), "id": gif.stem, "caption": "the dogs on a carpet"} for gif in sorted(corpus.iterdir())]
    (tmp_path / "catalog.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "list.txt").write_text("the\ndog\n")
    for arguments in (
        ["build", tmp_path / "catalog.jsonl", "--workspace", tmp_path / "ws"],
        ["words", "build", tmp_path / "words", "--index", tmp_path / "ws" / "index", "--words", tmp_path / "list.txt"],
    ):
        assert run_command(*arguments).returncode == 0
    measured = json.loads(run("tags.py", tmp_path / "ws" / "index", "--words", tmp_path / "words", "--json"))
    assert measured["items"] == 3
    assert measured["words"]["first 1"] == {"own": 1.0, "other": 1.0}
    assert measured["pooled"].keys() == measured["by frame"].keys() == {"first 1", "first 3", "first 10"}


@pytest.mark.heavy
def test_encoders_measures_every_kind(corpus: Path) -> None:
    options = ["--small", "--gifs", 2, "--rounds", 1, "--encoder", "efficientnet-lite0", "--precision", "float32"]
    (line,) = run("encoders.py", corpus, *options, "--json").splitlines()
    measured = json.loads(line)
    assert (measured["encoder"], measured["precision"]) == ("efficientnet-lite0", "float32")
    assert measured["gflop_per_frame"] == pytest.approx(0.77, abs=0.01)
    assert {"bare_frames_per_s", "compiled_frames_per_s", "encoder_frames_per_s", "step_frames_per_s"} < set(measured)
    assert all(math.isfinite(figure) and figure > 0 for figure in figures(measured))


@pytest.mark.heavy
def test_hybrid_asks_more_often_the_higher_the_score(corpus: Path, tmp_path: Path) -> None:
    assert run_command("build", corpus, "--workspace", tmp_path / "ws").returncode == 0
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps({"id": f"g{n}", "caption": f"pattern {n}"}) + "\n" for n in range(3)))
    lines = run("hybrid.py", tmp_path / "ws" / "index", "--captions", captions).splitlines()[2:]
    asked = [float(line.split()[1]) for line in lines]
    assert (asked[0], asked[-1]) == (0, 1)
    assert asked == sorted(asked)


@pytest.mark.heavy
def test_moments_measures_joined_clips_and_costs(corpus: Path) -> None:
    captions = corpus / "captions.jsonl"
    rows = [{"id": path.stem, "caption": f"pattern {path.stem}", "file": path.name} for path in corpus.glob("*.gif")]
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--pairings", 1, "--items", 300, "--dimensions", 80, "--seconds", 0.01, "--json"]
    measured = json.loads(run("moments.py", captions, *options).splitlines()[-1])
    joined = measured["joined"]["frames"]
    assert joined["queries"] == joined["found"] == 2  # the third clip has no other
    assert 0 <= joined["right_half"] <= 1
    assert measured["synthetic"]["bytes_per_item"]["with"] > 2 * measured["synthetic"]["bytes_per_item"]["without"]
    assert measured["synthetic"]["recall@10"]["frames"] > 0.9
    assert all(math.isfinite(figure) and figure >= 0 for figure in figures(measured))


@pytest.mark.heavy
def test_a_second_night_encodes_only_new_gifs_and_equals_a_build_from_scratch(tmp_path: Path) -> None:
    printed = run("nightly.py", "--gifs", 10, "--each", 2, "--folder", tmp_path, "--json")
    measured = json.loads(printed.splitlines()[-1])
    # The second corpus has two changed, two new and two deleted GIFs.
    assert measured == {"same": True, "first_encoded": 10, "second_encoded": 4, "scratch_encoded": 10}


@pytest.mark.heavy
def test_text_fusion_compares_words_images_and_both(corpus: Path, tmp_path: Path) -> None:
    rows = [
        {"id": f"g{number}", "uri": str(corpus / f"g{number}.gif"), "caption": f"a {word} square moves"}
        for number, word in enumerate(("red", "green", "blue"))
    ]
    (tmp_path / "catalog.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    built = run_command("build", tmp_path / "catalog.jsonl", "--workspace", tmp_path / "ws")
    assert built.returncode == 0, built.stderr
    measured = json.loads(run("text_fusion.py", tmp_path / "ws" / "index", tmp_path / "catalog.jsonl", "--json"))
    assert measured["queries"] == 3
    assert measured["caption"]["text"]["recall@1"] == 1
    assert measured["caption"]["scores"]["losses_to_text"] == 0
    assert set(measured["half"]) == {"image", "text", "ranks", "scores"}


@pytest.mark.heavy
def test_duplicates_finds_the_same_groups_in_every_way() -> None:
    (line,) = (
        text for text in run("duplicates.py", "--data", "1500x96", "--json").splitlines() if text.startswith("{")
    )
    ways = json.loads(line)["ways"]
    assert set(ways) == {"all with all", "plain scan", "hnsw", "scan", "annoy"}
    assert ways["all with all"]["groups"] == ways["plain scan"]["groups"] > 100
    assert ways["all with all"]["missed"] == 0
    assert all(way["missed"] <= 10 for way in ways.values())


@pytest.mark.heavy
def test_variants_scores_copies_and_different_gifs(corpus: Path) -> None:
    lines = run("variants.py", corpus, "--gifs", 1, "--json").splitlines()
    measured = json.loads(next(line for line in lines if line.startswith("{")))
    assert measured["variants"]["image"]["saved again"]["lowest"] == pytest.approx(1, abs=1e-4)
    assert len(measured["variants"]["features"]) == 14
    assert len(measured["different"]) == 2


@pytest.mark.heavy
def test_benchmarks_of_quality_measure_an_index_by_its_gifs_and_captions(corpus: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    found = json.loads(run("by_example.py", corpus, "--workspace", workspace, "--json").splitlines()[-1])
    assert found["queries"] == 3
    assert set(found["as it is"]) == {"image", "features", "pixels", "histogram"}
    assert all(0 <= figure <= 1 for row in ("as it is", "all three") for figure in figures(found[row]))
    store = workspace / "ws" / "index"
    moved = json.loads(run("towards.py", store, "tabby cat=g0,g1", "espresso=g2,g1", "--json").splitlines()[-1])
    assert moved["pairs"] == 1  # g1 shows both
    assert 1 <= moved["towards espresso"]["espresso"]["mean_rank"] <= 3
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps({"id": f"g{n}", "caption": f"a pattern {n}"}) + "\n" for n in range(3)))
    options = ["--captions", captions, "--foreign", captions, "--splits", 2, "--like", 1.1, "--json"]
    measured = json.loads(run("percentile.py", store, *options).splitlines()[-1])
    assert measured["queries"] == 3
    for row in measured["curve"]:
        assert row["answered"] == row["foreign"] >= row["own"]
        assert row["answered"] >= row["out"]
