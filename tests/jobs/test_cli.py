"""The command line as users see it: real processes, real files."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageSequence

import gifdex
from gifdex.jobs.cli import _JOBS
from gifdex.jobs.demo_corpus import make_corpus
from gifdex.schemas.errors import DecodeError, QueryError
from tests.commands import run, run_cold

IDS = ["cat-pan", "coffee-pan", "deep/rocket-zoom", "flower-zoom"]


@dataclass(frozen=True)
class Built:
    corpus: Path
    workspace: Path
    process: subprocess.CompletedProcess[str]

    @property
    def store(self) -> Path:
        return self.workspace / "index"

    @property
    def projection(self) -> Path:
        (path,) = self.workspace.glob("projections/*")
        return path

    def start(self, workspace: Path) -> Path:
        """Copy this workspace's features and projection to a new one, so that a build there computes only the rest."""
        for name in ("features", "projections"):
            shutil.copytree(self.workspace / name, workspace / name)
        return workspace


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Four photographs in motion and one broken file, built by the command line."""
    root = tmp_path_factory.mktemp("cli")
    made = {path.stem: path for path in make_corpus(root / "made", {Path(name).name for name in IDS})}
    for name in IDS:
        target = root / "gifs" / f"{name}.gif"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made[target.stem], target)
    (root / "gifs" / "broken.gif").write_bytes(b"GIF89a but not really")
    process = run_cold("build", root / "gifs", "--workspace", root / "ws", "--json")
    assert process.returncode == 0, process.stderr
    return Built(root / "gifs", root / "ws", process)


def test_build_prints_one_json_object_and_only_progress_on_stderr(built: Built) -> None:
    (line,) = built.process.stdout.splitlines()
    summary = json.loads(line)
    assert summary["items"] == len(IDS)
    assert summary["rejects_by_error"] == {"DecodeError": 1}
    assert (summary["tried"], summary["encoded"]) == (len(IDS) + 1, len(IDS))
    assert summary["store"] == str(built.store)
    for stage in ("scan", "encode", "index"):
        assert f"{stage}: " in built.process.stderr
    assert "oneDNN" not in built.process.stderr
    assert "WARNING" not in built.process.stderr


def test_a_second_build_encodes_nothing_and_says_so(built: Built) -> None:
    before = {path.name: path.read_bytes() for path in built.store.rglob("*") if path.is_file()}
    again = run("build", built.corpus, "--workspace", built.workspace)
    assert again.returncode == 0, again.stderr
    assert "0 of 0 new GIFs (reused: 5; unchanged files: 5)" in again.stdout
    assert "rejects   " in again.stdout
    assert "DecodeError: 1" in again.stdout
    assert "broken.gif: " in again.stdout
    assert {path.name: path.read_bytes() for path in built.store.rglob("*") if path.is_file()} == before


def test_a_folder_of_all_formats_gives_an_item_each_and_rejects_other_files(built: Built, tmp_path: Path) -> None:
    gifs = tmp_path / "gifs"
    gifs.mkdir()
    shutil.copy(built.corpus / "cat-pan.gif", gifs / "a.gif")
    with Image.open(gifs / "a.gif") as animation:
        pictures = [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]
    for name in ("b.webp", "c.png"):
        pictures[0].save(gifs / name, save_all=True, append_images=pictures[1:], duration=100)
    with av.open(str(gifs / "d.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = pictures[0].width & ~1, pictures[0].height & ~1, "yuv420p"
        for picture in pictures:
            video.mux(stream.encode(av.VideoFrame.from_image(picture).reformat(stream.width, stream.height)))
        video.mux(stream.encode())
    (gifs / "e.gif").write_text("this is text")
    workspace = built.start(tmp_path / "ws")
    done = run("build", gifs, "--workspace", workspace, "--sampling", "scene", "--decoder", "pillow", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["items"], summary["partial"], summary["rejects"]) == (4, 0, 1)
    found = run("search", tmp_path / "ws" / "index", "a cat", "-k", "4", "--json")
    hits = [json.loads(line) for line in found.stdout.splitlines()]
    assert {hit["id"] for hit in hits} == {"a", "b.webp", "c.png", "d.mp4"}
    assert all(hit["score"] > 0.15 for hit in hits)


def test_text_that_looks_like_markup_is_printed_unchanged(built: Built, tmp_path: Path) -> None:
    gifs = tmp_path / "[gifs]"
    (gifs / "[red]cat[").mkdir(parents=True)
    shutil.copy(built.corpus / "cat-pan.gif", gifs / "[red]cat[" / "bad] :smile:.gif")
    (gifs / "broken.gif").write_text("[/code] hi")
    done = run("build", gifs, "--workspace", built.start(tmp_path / "ws"))
    assert done.returncode == 0, done.stderr
    assert f"{gifs}/broken.gif: the file begins with b'[/code] '" in " ".join(done.stdout.split())
    found = run("search", tmp_path / "ws" / "index", "a cat")
    assert found.returncode == 0, found.stderr
    assert "[red]cat[/bad] :smile:" in found.stdout


def test_search_json_has_id_score_uri_and_rank(built: Built) -> None:
    found = run("search", built.store, "a cat", "-k", "3", "--json")
    assert found.returncode == 0, found.stderr
    hits = [json.loads(line) for line in found.stdout.splitlines()]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert hits[0]["id"] == "cat-pan"
    assert hits[0]["uri"] == str(built.corpus / "cat-pan.gif")
    assert hits[0]["score"] > hits[1]["score"] > hits[2]["score"]


def test_search_prints_a_table_best_first(built: Built) -> None:
    found = run("search", built.store, "a rocket at night", "-k", "2")
    header, first, _second = found.stdout.splitlines()
    assert header.split() == ["rank", "score", "percentile", "id", "uri"]
    assert first.split()[3] == "deep/rocket-zoom"


def test_gifs_and_pictures_find_their_own_item_and_broken_ones_are_named(built: Built, tmp_path: Path) -> None:
    index = gifdex.open(built.store)
    path = built.corpus / "cat-pan.gif"
    with path.open("rb") as stream:
        for example in (path, str(path), path.read_bytes(), stream):
            (hit, _) = index.similar(2, gif=example)
            assert (hit.id, round(hit.score, 4)) == ("cat-pan", 1.0)
    with Image.open(path) as animation:
        frame = animation.convert("RGB")
    frame.save(tmp_path / "cat.jpg")
    for picture in (tmp_path / "cat.jpg", np.asarray(frame)):
        assert index.similar(1, image=picture)[0].id == "cat-pan"
    with pytest.raises(DecodeError, match=r"cannot use the GIF .*broken\.gif: "):
        index.similar(gif=built.corpus / "broken.gif")
    with pytest.raises(DecodeError, match=r"cannot use the picture .*broken\.gif: "):
        index.similar(image=built.corpus / "broken.gif")
    with pytest.raises(QueryError, match="cannot read the example nowhere: No such file"):
        index.similar(gif="nowhere")


def test_evaluate_prints_every_measure_and_names_missing_ids(built: Built, tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    rows = [("cat-pan", "a cat"), ("coffee-pan", "a cup of coffee"), ("flower-zoom", "a flower"), ("nowhere", "x")]
    captions.write_text("".join(json.dumps({"id": key, "caption": text}) + "\n" for key, text in rows))
    done = run_cold("evaluate", built.store, "--captions", captions, "--json")
    assert done.returncode == 0, done.stderr
    measures = json.loads(done.stdout)
    assert measures["queries"] == 3
    assert measures["recall@1"] == 1.0
    assert measures["recall@5"] == measures["recall@10"] == 1.0
    assert measures["median_rank"] == 1.0
    assert measures["engine_recall@10"] == 1.0
    assert measures["absent_ids"] == ["nowhere"]
    assert "nowhere" in run("evaluate", built.store, "--captions", captions).stdout


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("not json", "line 1"),
        ('["a", "b"]', "line 1"),
        ('{"caption": "no id"}', "without an id"),
        ('{"id": "cat-pan"}', "no line with an id and a caption"),
        ('{"id": "nowhere", "caption": "x"}', "nowhere"),
    ],
)
def test_invalid_captions_give_one_sentence(built: Built, tmp_path: Path, line: str, complaint: str) -> None:
    captions = tmp_path / "captions.jsonl"
    captions.write_text(line + "\n")
    done = run("evaluate", built.store, "--captions", captions)
    assert done.returncode == 1
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert complaint in sentence


def test_inspect_shows_the_manifest(built: Built) -> None:
    shown = json.loads(run("inspect", built.store, "--json").stdout)
    assert shown["items"] == len(IDS)
    assert shown["image_encoder"]["name"] == "efficientnet-lite0"
    text = run("inspect", built.store).stdout
    assert shown["build_id"] in text
    assert "use-multilingual" in text


def test_verify_accepts_an_intact_index_and_names_an_altered_file(built: Built, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(built.store, copy)
    assert run_cold("verify", copy).returncode == 0
    victim = next(copy.rglob("*.vectors.npy"))
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    done = run("verify", copy)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert victim.name in sentence
    victim.write_bytes(data[:-1])
    done = run("search", copy, "a cat")
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert f"{victim.name} has {len(data) - 1:,} bytes, but the manifest says {len(data):,}" in sentence


def test_build_with_a_graph_and_shards_from_a_catalog_answers_with_filters(built: Built, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.csv"
    lines = [f"{built.corpus / key}.gif,{key},{'animal' if 'cat' in key else 'thing'},{len(key)}" for key in IDS]
    catalog.write_text("\n".join(["uri,id,tag,length", *lines]) + "\n")
    done = run("build", catalog, "--workspace", built.start(tmp_path / "ws"), "--hnsw", "--shards", "3", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    store = summary["store"]
    assert summary["engine"] in ("annoy", "scan", "hnsw")
    assert min(summary["queries_per_second"]["image"].values()) > 0
    shown = json.loads(run("inspect", store, "--json").stdout)
    image = shown["fields"]["image"]
    assert set(image["engines"]) == {"annoy", "scan", "hnsw"}
    assert 1 < len(image["shards"]) <= 3
    assert "engine hnsw" in run("inspect", store).stdout
    speeds = json.loads(run("inspect", store, "--measure", "--json").stdout)["queries_per_second"]["image"]
    assert set(speeds) == {"annoy", "scan", "hnsw"}
    assert run("verify", store).returncode == 0

    def ids(*arguments: str) -> list[str]:
        found = run("search", store, "a cat", "--json", *arguments)
        assert found.returncode == 0, found.stderr
        return [json.loads(line)["id"] for line in found.stdout.splitlines()]

    assert len(ids()) == len(IDS)
    assert ids("--where", "tag=animal") == ["cat-pan"]
    assert set(ids("--where", "tag=thing")) == set(IDS) - {"cat-pan"}
    assert set(ids("--where", "length=11")) == {"flower-zoom"}  # a CSV has it as text
    assert set(ids("--where", "length=[7, 11]", "--where", "tag=animal")) == {"cat-pan"}
    assert ids("--where", "caption=null", "-k", "1") == ["cat-pan"]
    assert ids("--where", 'id=["cat-pan", "none"]', "--engine", "hnsw", "--num-candidates", "3") == ["cat-pan"]
    for engine in ("annoy", "scan", "hnsw"):
        assert ids("--engine", engine) == ids("--exact")
    refused = run("search", store, "a cat", "--where", "colour=red")
    assert refused.returncode == 1
    assert "the filter uses 'colour', which no item has" in refused.stderr
    assert run("search", store, "a cat", "--where", "colour").returncode == 2
    assert run("build", catalog, "--workspace", tmp_path / "other", "--shards", "none").returncode == 2


def test_the_rejects_table_gives_reasons(built: Built) -> None:
    (path,) = built.workspace.glob("builds/*/rejects/*.parquet")
    (row,) = pq.read_table(path, partitioning=None).to_pylist()
    assert (row["id"], row["stage"], row["error"]) == ("broken", "encode", "DecodeError")
    assert row["reason"]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["search", "nowhere", "x"], 1, "nowhere does not exist"),
        (["inspect", "."], 1, "no index was published there"),
        (["verify", "nowhere"], 1, "nowhere does not exist"),
        (["build", "nowhere", "--workspace", "ws"], 1, "nowhere does not exist"),
        (["build", "empty", "--workspace", "ws"], 1, "is empty"),
        (["build", "empty"], 2, "--workspace"),
        (["build", "empty", "--workspace", "ws", "--frames", "0"], 2, "--frames"),
        (["build", "empty", "--workspace", "ws", "stray"], 2, "stray"),
        (["build", "empty", "--workspace", "ws", "--", "--runer=FlinkRunner"], 2, "runer"),
        (["build", "empty", "--workspace", "ws", "--", "--direct_num_workers=many"], 2, "many"),
        (["build", "empty", "--workspace", ""], 2, "empty"),
        (["build", "", "--workspace", "ws"], 2, "empty"),
        (["search", "", "cat"], 2, "empty"),
        (["search"], 2, "STORE"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_mistakes_give_a_sentence_and_an_exit_code(
    tmp_path: Path, arguments: list[str], code: int, complaint: str
) -> None:
    (tmp_path / "empty").mkdir()
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "ws" / "index" / "CURRENT").exists()


def test_empty_sentence_is_a_mistake(built: Built) -> None:
    done = run("search", built.store, "  ")
    assert done.returncode == 1
    assert "empty" in done.stderr


def test_a_second_build_in_a_busy_workspace_exits_with_75_and_names_the_holder(built: Built) -> None:
    with (built.workspace / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("build", built.corpus, "--workspace", built.workspace)
    assert done.returncode == 75
    assert "process" in done.stderr


def test_ctrl_c_while_encoding_ends_with_a_sentence_and_loses_nothing(built: Built, tmp_path: Path) -> None:
    corpus = tmp_path / "gifs"
    for number, path in enumerate(sorted(built.corpus.rglob("*.gif")) * 12):
        target = corpus / f"{number}.gif"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes() + bytes([number]))  # a byte after the trailer: another GIF to encode
    options = ["--workspace", tmp_path / "ws", "--frames", "2", "--projection", built.projection]
    command = [sys.executable, "-m", "gifdex", "build", str(corpus), *map(str, options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(tmp_path.glob("ws/features/*/all/[!.]*.parquet")):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1] == "gifdex: interrupted; finished work is kept: run again to continue"
    assert "Traceback" not in stderr
    again = json.loads(run("build", corpus, *options, "--json").stdout)
    assert again["reused"] > 0
    assert again["tried"] + again["reused"] == 60


def test_a_closed_pipe_ends_the_command_silently(built: Built) -> None:
    command = f"{sys.executable} -m gifdex search {built.store} cat --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert json.loads(done.stdout)["rank"] == 1


def test_every_command_has_help_with_an_example() -> None:
    overview = run("--help").stdout
    for name in _JOBS:
        assert name in overview
        text = run_cold(name, "--help").stdout
        assert f"gifdex {name}" in text.split("Example")[1]


def test_help_imports_no_heavy_module() -> None:
    code = (
        "import sys; sys.argv = ['gifdex', '--help']\n"
        "from gifdex.jobs.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'pyarrow', 'tensorflow', 'apache_beam', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_clips_are_found_by_their_captions(data: Path, tmp_path: Path) -> None:
    done = run("build", data / "clips", "--workspace", tmp_path / "ws", "--json")
    assert done.returncode == 0, done.stderr
    captions = data / "clips" / "captions.jsonl"
    measures = json.loads(run("evaluate", tmp_path / "ws" / "index", "--captions", captions, "--json").stdout)
    assert measures["queries"] == 64
    assert measures["recall@1"] >= 0.5
    assert measures["recall@10"] >= 0.88


@pytest.mark.heavy
def test_demo_answers_every_sentence_with_the_right_photograph(tmp_path: Path) -> None:
    done = run("demo", "--folder", tmp_path / "demo", "--json")
    assert done.returncode == 0, done.stderr
    first = [json.loads(line)["hits"][0]["id"].split("-")[0] for line in done.stdout.splitlines()]
    assert first == ["cat", "coffee", "rocket", "motorcycle", "temple", "flower"]
