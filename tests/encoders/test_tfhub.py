"""TensorFlow Hub modules and SavedModels as encoders, against the same modules called directly."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from gifdex.encoders import registry
from gifdex.encoders.base import Frames, ImageEncoderOptions
from gifdex.encoders.tensorflow_runtime import import_tensorflow
from gifdex.encoders.tfhub import HubImages, HubTexts
from gifdex.schemas.errors import EncoderError, MissingExtraError, WeightsError

if importlib.util.find_spec("tensorflow_hub") is None:  # asked so, because importing it warns
    pytest.skip("tensorflow_hub is not installed", allow_module_level=True)

URL = "http://localhost:9/a-publisher/a-model/1"  # nothing listens there, so that it is never downloaded
URL_FOLDER = hashlib.sha1(URL.encode()).hexdigest()
SENTENCES = ["a cat plays the piano", "", "un chat joue du piano", "a man rides a horse", "🎉"]


@pytest.fixture(scope="module")
def tf() -> Any:
    return import_tensorflow("the tests")


def frames(n: int, height: int = 16, width: int = 16, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)


def image_module(tf: Any, shape: tuple[int | None, ...], dtype: str = "float32", adds: Any = None) -> Any:
    """A convolution, ReLU, pooling and a matrix: images to 5 features; `adds(images)` goes on top."""
    module, random = tf.Module(), np.random.default_rng(1)
    module.kernel = tf.Variable(random.normal(size=(3, 3, 3, 8)).astype(np.float32))
    module.matrix = tf.Variable(random.normal(size=(8, 5)).astype(np.float32))

    def call(images: Any) -> Any:
        hidden = tf.nn.relu(tf.nn.conv2d(tf.cast(images, tf.float32), module.kernel, 2, "SAME"))
        features = tf.reduce_mean(hidden, [1, 2]) @ module.matrix
        return features if adds is None else features + adds(images)

    module.__call__ = tf.function(call, input_signature=[tf.TensorSpec(shape, dtype, "images")])
    return module


def text_module(tf: Any, shape: tuple[int | None, ...] = (None,)) -> Any:
    """Hashed words, summed rows of a table: sentences to 6 dimensions."""
    module = tf.Module()
    module.table = tf.Variable(np.random.default_rng(2).normal(size=(97, 6)).astype(np.float32))

    def call(sentences: Any) -> Any:
        words = tf.strings.split(sentences)
        rows = tf.ragged.map_flat_values(tf.strings.to_hash_bucket_fast, words, 97).to_tensor(-1)
        known = tf.cast(rows >= 0, tf.float32)[..., None]
        return tf.reduce_sum(tf.gather(module.table, tf.maximum(rows, 0)) * known, axis=1)

    module.__call__ = tf.function(call, input_signature=[tf.TensorSpec(shape, tf.string, "sentences")])
    return module


@pytest.fixture(scope="module")
def image_folder(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules") / "images"
    tf.saved_model.save(image_module(tf, (None, 16, 16, 3)), str(folder))
    return folder


@pytest.fixture(scope="module")
def text_folder(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules") / "texts"
    tf.saved_model.save(text_module(tf), str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(folder))
    return folder


# Images


@pytest.mark.parametrize("shape", [(None, None, None, 3), (None, 20, 12, 3), (None, None, 12, 3), (3, 16, 16, 3)])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_features_are_those_of_the_module_called_directly(
    tf: Any, tmp_path: Path, shape: tuple[int | None, ...], dtype: str
) -> None:
    tf.saved_model.save(image_module(tf, shape, dtype), str(tmp_path))
    encoder = HubImages(str(tmp_path), ImageEncoderOptions(batch_frames=3))
    height, width = shape[1] or 224, shape[2] or 224
    assert (encoder.frame_size, encoder.dimensions, encoder.batch_frames) == ((height, width), 5, 3)
    given = frames(7, height, width)
    features = encoder(given)
    assert (features.dtype, features.shape) == (np.float32, (7, 5))
    direct = tf.saved_model.load(str(tmp_path))
    for start in (0, 3, 4):
        inputs = given[start : start + 3]
        scaled = inputs.astype(np.float32) / 255 if dtype == "float32" else inputs
        np.testing.assert_allclose(features[start : start + 3], direct(scaled).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float64"])
def test_features_in_another_precision_become_float32(tf: Any, tmp_path: Path, precision: str) -> None:
    module = tf.Module()
    module.__call__ = tf.function(
        lambda images: tf.cast(tf.reduce_mean(images, [1, 2]), precision),
        input_signature=[tf.TensorSpec((None, 4, 4, 3))],
    )
    tf.saved_model.save(module, str(tmp_path))
    features = HubImages(str(tmp_path))(frames(2, 4, 4))
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, frames(2, 4, 4).mean(axis=(1, 2)) / 255, rtol=1e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_module_of_tensorflow_1_is_read(tf: Any, tmp_path: Path) -> None:
    """As the library tensorflow_hub wrote them: no tags, a signature `default`, and the file tfhub_module.pb."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.float32, (None, 6, 6, 3))
        weight = v1.get_variable("weight", initializer=np.arange(12, dtype=np.float32).reshape(3, 4))
        vectors = tf.reduce_mean(images, [1, 2]) @ weight
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.predict_signature_def({"images": images}, {"default": vectors, "map": images})
        builder = v1.saved_model.Builder(str(tmp_path / "module"))
        builder.add_meta_graph_and_variables(session, [], {"default": signature})
        builder.save()
    (tmp_path / "module" / "tfhub_module.pb").write_bytes(b"\x08\x03")
    encoder = HubImages(str(tmp_path / "module"))
    assert (encoder.frame_size, encoder.dimensions) == ((6, 6), 4)
    right = frames(3, 6, 6).mean(axis=(1, 2)) / 255 @ np.arange(12).reshape(3, 4)
    np.testing.assert_allclose(encoder(frames(3, 6, 6)), right, rtol=1e-5)


def test_no_frames_are_no_features(image_folder: Path) -> None:
    features = HubImages(str(image_folder))(frames(0))
    assert (features.dtype, features.shape) == (np.float32, (0, 5))


def test_other_frames_are_refused_with_both_sides(image_folder: Path) -> None:
    with pytest.raises(EncoderError, match=r"uint8 frames of shape \(1, 8, 8, 3\); expected uint8 \(n, 16, 16, 3\)"):
        HubImages(str(image_folder))(frames(1, 8, 8))


def test_a_module_has_no_classifier_and_runs_in_float32(image_folder: Path) -> None:
    for precision in ("auto", "float32"):
        encoder = HubImages(str(image_folder), ImageEncoderOptions(precision=precision))
        assert (encoder.classifier(), encoder.precision) == (None, "float32")


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_another_precision_is_refused(image_folder: Path, precision: str) -> None:
    with pytest.raises(EncoderError, match=f"cannot run in {precision}, .* leave --precision away"):
        HubImages(str(image_folder), ImageEncoderOptions(precision=precision))


def test_a_weights_file_is_refused(image_folder: Path) -> None:
    with pytest.raises(EncoderError, match="tfhub takes no --weights, the module is the weights"):
        registry.image_encoder(f"tfhub:{image_folder}", ImageEncoderOptions(weights=Path("x.h5")))


def test_a_fixed_batch_is_the_modules_and_no_other(tf: Any, tmp_path: Path) -> None:
    tf.saved_model.save(image_module(tf, (3, 16, 16, 3)), str(tmp_path))
    assert HubImages(str(tmp_path)).batch_frames == 3
    with pytest.raises(EncoderError, match=r"exactly 3 frames, and --batch-frames asks for 8: leave --batch-frames"):
        HubImages(str(tmp_path), ImageEncoderOptions(batch_frames=8))(frames(1))


def test_several_threads_may_make_the_first_call_at_once(image_folder: Path) -> None:
    lots = [frames(5, seed=seed) for seed in range(6)]
    expected = [HubImages(str(image_folder))(lot) for lot in lots]
    encoder = HubImages(str(image_folder))
    with ThreadPoolExecutor(6) as pool:
        for features, right in zip(pool.map(encoder, lots), expected, strict=True):
            np.testing.assert_array_equal(features, right)


def test_a_module_that_fails_while_it_runs_is_one_sentence(tf: Any, tmp_path: Path) -> None:
    def picky(images: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_less(images, 0.5, "too bright")]):
            return 0.0

    tf.saved_model.save(image_module(tf, (None, 4, 4, 3), adds=picky), str(tmp_path))
    encoder = HubImages(str(tmp_path))
    assert encoder(frames(2, 4, 4) // 4).shape == (2, 5)
    with pytest.raises(EncoderError, match=r"failed while it ran .*too bright") as caught:
        encoder(np.full((1, 4, 4, 3), 200, np.uint8))
    assert "\n" not in str(caught.value)


def test_a_module_that_returns_another_number_of_vectors_is_refused(tf: Any, tmp_path: Path) -> None:
    module = tf.Module()
    module.__call__ = tf.function(
        lambda images: tf.repeat(tf.reduce_mean(images, [1, 2]), 2, axis=0),
        input_signature=[tf.TensorSpec((None, 4, 4, 3))],
    )
    tf.saved_model.save(module, str(tmp_path))
    with pytest.raises(EncoderError, match="failed while it ran"):
        HubImages(str(tmp_path))(frames(1, 4, 4))


# Memory: a module that asks for more than any machine addresses when a batch is larger than `most`. It runs in another
# process, because with oneDNN TensorFlow's allocator waits ten seconds for memory before it fails.

RUN_HUNGRY = """
import json, logging, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from gifdex.encoders.base import ImageEncoderOptions
from gifdex.encoders.tfhub import HubImages
from gifdex.schemas.errors import EncoderError

said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("gifdex").addHandler(handler)

def outcome(encoder, seed):
    try:
        frames = np.random.default_rng(seed).integers(0, 256, (11, 16, 16, 3), np.uint8)
        return encoder(frames).tolist()
    except EncoderError as err:
        return str(err)

for case in json.loads(sys.argv[1]):
    said.clear()
    encoder = HubImages(case["folder"], ImageEncoderOptions(batch_frames=case["batch"]))
    with ThreadPoolExecutor(case["threads"]) as pool:
        runs = [pool.submit(outcome, encoder, seed) for seed in range(6)]
        print(json.dumps({"outcomes": [run.result() for run in runs], "log": said}))
"""


class Hungry(NamedTuple):
    most: int
    batch: int = 8
    fixed: int | None = None
    threads: int = 1


HUNGRY = [Hungry(4), Hungry(4, threads=6), Hungry(1), Hungry(1, threads=6), Hungry(0, 1), Hungry(0, 2), Hungry(4, 8, 8)]
Outcomes = dict[Hungry, dict[str, Any]]


@pytest.fixture(scope="module")
def outcomes(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What six calls of each encoder gave, features or a message, and what was logged."""

    def adds(most: int, images: Any) -> Any:
        beyond = tf.maximum(tf.shape(images, tf.int64)[0] - most, 0)
        # Filled with what only a run tells, so that it cannot be computed, or left away, before.
        return tf.minimum(tf.reduce_sum(tf.fill([beyond * 2**52 + 1], tf.abs(tf.reduce_sum(images)))), 0.0)

    cases = []
    for case in HUNGRY:
        folder = str(tmp_path_factory.mktemp("hungry"))
        module = image_module(tf, (case.fixed, 16, 16, 3), adds=partial(adds, case.most))
        tf.saved_model.save(module, folder)
        cases.append({"folder": folder, "batch": case.batch, "threads": case.threads})
    printed = run(RUN_HUNGRY, json.dumps(cases), TF_ENABLE_ONEDNN_OPTS="0")
    return dict(zip(HUNGRY, map(json.loads, printed.splitlines()), strict=True))


@pytest.mark.parametrize("threads", [1, 6])
def test_a_batch_that_does_not_fit_is_halved_once(outcomes: Outcomes, image_folder: Path, threads: int) -> None:
    found, plain = outcomes[Hungry(4, threads=threads)], HubImages(str(image_folder))
    for seed, features in enumerate(found["outcomes"]):
        np.testing.assert_allclose(features, plain(frames(11, seed=seed)), rtol=1e-4)
    (said,) = found["log"]
    assert said.endswith("batches of 8 frames do not fit into memory; trying 4")


@pytest.mark.parametrize(
    ("case", "named"),
    [
        (Hungry(1), "batches of 4 frames"),
        (Hungry(1, threads=6), "batches of 4 frames"),
        (Hungry(0, 2), "batches of 1 frame"),
        (Hungry(0, 1), "batches of 1 frame"),
    ],
)
def test_too_little_memory_names_the_batch_and_the_option(outcomes: Outcomes, case: Hungry, named: str) -> None:
    (message,) = set(outcomes[case]["outcomes"])  # every call says the same
    assert f"ran out of the device's memory with {named}: choose fewer with --batch-frames" in message
    assert len(outcomes[case]["log"]) == (case.batch > 1)


def test_a_fixed_batch_that_does_not_fit_is_not_halved(outcomes: Outcomes) -> None:
    found = outcomes[Hungry(4, 8, 8)]
    (message,) = set(found["outcomes"])
    assert "with batches of 8 frames, the only size it was saved for: end what else uses the device" in message
    assert "--batch-frames" not in message
    assert found["log"] == []


# Texts


def test_vectors_are_those_of_the_module_called_directly(tf: Any, text_folder: Path) -> None:
    encoder = HubTexts(str(text_folder))
    vectors = encoder(SENTENCES)
    assert (encoder.dimensions, vectors.dtype, vectors.shape) == (6, np.float32, (5, 6))
    direct = tf.saved_model.load(str(text_folder))
    np.testing.assert_allclose(vectors, direct(tf.constant(SENTENCES)).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(encoder(tuple(SENTENCES)), vectors)


def test_many_sentences_go_in_batches(tf: Any, tmp_path: Path) -> None:
    """The module's last dimension tells how many sentences it was given at a time."""
    module = tf.Module()
    module.__call__ = tf.function(
        lambda s: tf.stack(
            [tf.strings.to_number(s), tf.zeros_like(s, tf.float32) + tf.cast(tf.size(s), tf.float32)], 1
        ),
        input_signature=[tf.TensorSpec((None,), tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path))
    vectors = HubTexts(str(tmp_path))([str(number) for number in range(600)])
    np.testing.assert_array_equal(vectors[:, 0], np.arange(600))
    np.testing.assert_array_equal(vectors[:, 1], [256] * 512 + [88] * 88)


def test_a_fixed_number_of_sentences_is_filled_up(tf: Any, tmp_path: Path, text_folder: Path) -> None:
    tf.saved_model.save(text_module(tf, (2,)), str(tmp_path))
    np.testing.assert_allclose(HubTexts(str(tmp_path))(SENTENCES), HubTexts(str(text_folder))(SENTENCES), rtol=1e-6)


def test_no_sentences_are_no_vectors(text_folder: Path) -> None:
    vectors = HubTexts(str(text_folder))([])
    assert (vectors.dtype, vectors.shape) == (np.float32, (0, 6))


def test_half_a_character_is_no_error(text_folder: Path) -> None:
    assert HubTexts(str(text_folder))(["\ud83c"]).shape == (1, 6)


def test_several_threads_may_make_the_first_call_with_sentences_at_once(text_folder: Path) -> None:
    expected, encoder = HubTexts(str(text_folder))(SENTENCES), HubTexts(str(text_folder))
    with ThreadPoolExecutor(6) as pool:
        for vectors in pool.map(encoder, [SENTENCES] * 12):
            np.testing.assert_allclose(vectors, expected, rtol=1e-6)


def test_a_text_module_that_fails_while_it_runs_is_one_sentence(tf: Any, tmp_path: Path) -> None:
    module = tf.Module()
    module.__call__ = tf.function(
        lambda s: tf.strings.to_number(s)[:, None], input_signature=[tf.TensorSpec((None,), tf.string)]
    )
    tf.saved_model.save(module, str(tmp_path))
    with pytest.raises(EncoderError, match=r"failed while it ran .*could not correctly convert string: cat"):
        HubTexts(str(tmp_path))(["cat"])


# Names, folders and URLs


def test_names_are_absolute_paths_and_urls_as_given(
    image_folder: Path, text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(image_folder.parent)
    monkeypatch.setenv("HOME", str(text_folder.parent))
    assert registry.image_encoder("tfhub:x/../images").name == f"tfhub:{image_folder}"
    assert registry.text_encoder("tfhub:~/texts").name == f"tfhub:{text_folder}"
    assert registry.text_encoder(f"tfhub:{URL}").name == f"tfhub:{URL}"
    with pytest.raises(WeightsError, match=r"there is no folder .*/images/~nobody-of-this-name/x"):
        registry.text_encoder("tfhub:images/~nobody-of-this-name/x")
    with pytest.raises(WeightsError, match=r"there is no folder .*/~nobody-of-this-name/x"):
        registry.text_encoder("tfhub:~nobody-of-this-name/x")


def test_a_url_in_the_cache_is_its_folder(cache: Path, image_folder: Path, text_folder: Path) -> None:
    shutil.copytree(image_folder, cache / URL_FOLDER)
    images, folder = HubImages(URL), HubImages(str(image_folder))
    np.testing.assert_array_equal(images(frames(3)), folder(frames(3)))
    assert images.fingerprint == folder.fingerprint
    shutil.rmtree(cache / URL_FOLDER)
    shutil.copytree(text_folder, cache / URL_FOLDER)
    texts, folder_texts = HubTexts(URL), HubTexts(str(text_folder))
    np.testing.assert_array_equal(texts(SENTENCES), folder_texts(SENTENCES))
    assert texts.fingerprint == folder_texts.fingerprint


@pytest.mark.parametrize("encoder", [HubImages, HubTexts])
def test_a_url_that_is_neither_cached_nor_reachable_says_where_it_looked(cache: Path, encoder: Any) -> None:
    for use in (lambda: encoder(URL).fingerprint, lambda: encoder(URL).dimensions):
        with pytest.raises(WeightsError, match="cannot be downloaded") as caught:
            use()
        assert f"tfhub:{URL}" in str(caught.value)
        assert f"{cache} (TFHUB_CACHE_DIR) has no folder {URL_FOLDER}, the SHA-1 of the URL" in str(caught.value)
    assert list(cache.iterdir()) == []


def test_an_unset_cache_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        HubTexts(URL)([])
    assert f"{tmp_path / 'tfhub_modules'} (TFHUB_CACHE_DIR is not set) has no folder {URL_FOLDER}" in str(caught.value)


def test_a_url_whose_cached_folder_is_no_module_is_refused(cache: Path) -> None:
    (cache / URL_FOLDER).mkdir()
    (cache / URL_FOLDER / "readme").touch()
    with pytest.raises(WeightsError, match=rf"{URL_FOLDER} has no saved_model\.pb \(in it: readme\)"):
        HubTexts(URL)([])


def test_a_file_url_is_refused(image_folder: Path) -> None:
    with pytest.raises(WeightsError, match="which is no folder on this machine: copy it here and name the copy"):
        _ = HubImages(f"file://{image_folder}").dimensions


@pytest.mark.parametrize("encoder", [HubImages, HubTexts])
@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (lambda at: None, "absent", r"there is no folder .*/absent; expected the folder that saved_model\.pb lies in"),
        (lambda at: (at / "m.tar.gz").touch(), "m.tar.gz", r"m\.tar\.gz is an archive; .*: unpack it and name the fol"),
        (lambda at: (at / "saved_model.pb").touch(), "saved_model.pb", r"saved_model\.pb is a file; .*: name the fold"),
        (lambda at: None, "", r"has no saved_model\.pb \(in it: nothing\); .*: choose another folder"),
        (lambda at: (at / "m.tar.gz").touch(), "", r"\(in it: m\.tar\.gz\); .*: unpack m\.tar\.gz"),
        (lambda at: [(at / f"{n}.txt").touch() for n in range(9)], "", r"\(in it: 0\.txt, .*, 7\.txt, \.\.\.\); "),
        (lambda at: [(at / "1").mkdir(), (at / "1" / "saved_model.pb").touch()], "", r"\(in it: 1\); .*: choose .*/1$"),
    ],
)
def test_a_path_without_a_module_is_refused_with_what_is_there(
    tmp_path: Path, encoder: Any, make: Callable[[Path], object], name: str, message: str
) -> None:
    make(tmp_path)
    with pytest.raises(WeightsError, match=message) as caught:
        encoder(str(tmp_path / name))
    assert str(tmp_path) in str(caught.value)


# Damage


def damaged(folder: Path, file: str, change: Callable[[bytes], bytes]) -> None:
    path = next(folder.rglob(file))
    path.write_bytes(change(path.read_bytes()))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        partial(damaged, file="saved_model.pb", change=lambda data: data[: len(data) // 2]),
        partial(damaged, file="saved_model.pb", change=lambda data: b"\xff" * 100),
        partial(damaged, file="saved_model.pb", change=lambda data: b""),
        partial(damaged, file="variables.index", change=lambda data: data[:-10]),
        partial(damaged, file="variables.data-*", change=lambda data: data[:-10]),
        partial(damaged, file="variables.data-*", change=flipped),
        lambda folder: shutil.rmtree(folder / "variables"),
        lambda folder: next(folder.rglob("variables.data-*")).unlink(),
        lambda folder: next(folder.rglob("variables.index")).unlink(),
    ],
    ids=["graph-half", "graph-noise", "graph-empty", "index-cut", "data-cut", "data-flipped", "all", "data", "index"],
)
def test_damaged_files_are_one_sentence(
    image_folder: Path, text_folder: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    for good, encoder in ((image_folder, HubImages), (text_folder, HubTexts)):
        folder = tmp_path / good.name
        shutil.copytree(good, folder)
        damage(folder)
        with pytest.raises(WeightsError, match="cannot be loaded") as caught:
            _ = encoder(str(folder)).dimensions
        assert f"in {folder}: download, unpack or copy it again" in str(caught.value)
        assert "\n" not in str(caught.value)


def without_op(tf: Any, folder: Path, op: str) -> None:
    """Rename an operation in the saved graph to one that only tensorflow_text has."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path, model = folder / "saved_model.pb", SavedModel()
    model.ParseFromString(path.read_bytes())
    functions = model.meta_graphs[0].graph_def.library.function
    nodes = [node for function in functions for node in function.node_def if node.op == op]
    assert nodes
    for node in nodes:
        node.op = "SentencepieceOp"
    path.write_bytes(model.SerializeToString())


def test_a_text_module_that_needs_tensorflow_text_says_so(tf: Any, text_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    shutil.copytree(text_folder, folder)
    without_op(tf, folder, "StringSplitV2")
    with pytest.raises(MissingExtraError) as caught:
        HubTexts(str(folder))(SENTENCES)
    assert str(caught.value) == (
        f"the module tfhub:{folder} needs the module tensorflow_text, which is not installed: "
        "run pip install 'gifdex[text-ops]'"
    )


def test_an_image_module_of_unknown_operations_is_refused(tf: Any, image_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(image_folder, folder)
    without_op(tf, folder, "Conv2D")
    with pytest.raises(EncoderError, match=rf"the operation SentencepieceOp, which TensorFlow {tf.__version__} does"):
        _ = HubImages(str(folder)).dimensions


# Fingerprints


def test_the_fingerprint_stands_for_the_files_and_not_their_place(
    image_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    for good, encoder in ((image_folder, HubImages), (text_folder, HubTexts)):
        folder, here = tmp_path / good.name, encoder(str(good)).fingerprint
        shutil.copytree(good, folder)
        assert encoder(str(folder)).fingerprint == here
        (folder / "assets" / "words.txt").write_text("a")
        assert encoder(str(folder)).fingerprint != here, "another file is another module"
        (folder / "assets" / "words.txt").unlink()
        (folder / "README.md").write_text("about the module")
        assert encoder(str(folder)).fingerprint == here, "a file that the module does not read"
        shutil.move(folder / "variables", tmp_path / "elsewhere")
        (folder / "variables").symlink_to(tmp_path / "elsewhere")
        assert encoder(str(folder)).fingerprint == here, "files behind a link count"
        (folder / "assets" / "words.txt").symlink_to("nowhere")
        with pytest.raises(WeightsError, match=r"cannot read .*words\.txt: No such file"):
            _ = encoder(str(folder)).fingerprint
        shutil.rmtree(tmp_path / "elsewhere")


def test_images_and_texts_of_one_module_have_two_fingerprints(tf: Any, tmp_path: Path) -> None:
    module, texts = image_module(tf, (None, 16, 16, 3)), text_module(tf)
    module.texts = texts
    signature = tf.function(lambda s: {"x": texts.__call__(s)}, input_signature=[tf.TensorSpec((None,), tf.string)])
    tf.saved_model.save(module, str(tmp_path), signatures={"texts": signature})
    images, sentences = HubImages(str(tmp_path)), HubTexts(str(tmp_path))
    assert (images.dimensions, sentences.dimensions) == (5, 6)
    assert images.fingerprint != sentences.fingerprint


# Imports


def run(program: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def test_neither_the_import_nor_a_folders_text_fingerprint_needs_tensorflow(text_folder: Path) -> None:
    program = (
        "import sys\n"
        "from gifdex.encoders import registry, tfhub\n"
        f"print(registry.text_encoder('tfhub:{text_folder}').fingerprint)\n"
        "assert not {'tensorflow', 'tensorflow_hub', 'keras', 'tf_keras'} & set(sys.modules)\n"
    )
    assert run(program).strip() == HubTexts(str(text_folder)).fingerprint


@pytest.mark.parametrize("absent", ["tensorflow", "tensorflow_hub"])
@pytest.mark.parametrize("encoder", [HubImages, HubTexts])
def test_an_absent_package_is_named_with_the_command_that_installs_it(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, encoder: Any, absent: str
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)  # how Python spells a module that cannot be found
    with pytest.raises(
        MissingExtraError, match=rf"the encoder tfhub.* needs the module {absent}, .*gifdex\[pipeline\]"
    ):
        _ = encoder(str(image_folder)).dimensions


def test_what_tensorflow_hub_itself_needs_is_named_and_only_one_warning_is_silenced(
    text_folder: Path, tmp_path: Path
) -> None:
    """Beside a pkg_resources that warns as its newer versions do."""
    (tmp_path / "pkg_resources.py").write_text(
        "import sys, warnings\n"
        "if 'other' in sys.argv:\n"
        "    sys.argv.remove('other')\n"
        "    warnings.warn('something else', UserWarning)\n"
        "warnings.warn('pkg_resources is deprecated as an API. See https://', DeprecationWarning)\n"
        "warnings.warn('pkg_resources is deprecated as an API. It is slated for removal', UserWarning)\n"
        "parse_version = lambda text: tuple(map(int, text.split('.')))\n"
    )
    program = (
        "import sys\n"
        "from gifdex.encoders.tfhub import HubTexts\n"
        "from gifdex.schemas.errors import MissingExtraError\n"
        f"encoder = HubTexts({str(text_folder)!r})\n"
        "for absent in ('pkg_resources', None, 'tf_keras', None):\n"
        "    if absent:\n"
        "        sys.modules[absent] = None\n"
        "    try:\n"
        "        print(encoder(['a']).shape)\n"
        "    except (MissingExtraError, UserWarning) as err:\n"
        "        print(err)\n"
        "    if absent:\n"
        "        del sys.modules[absent]\n"
    )
    said = run(program, "other", PYTHONPATH=str(tmp_path)).splitlines()
    needs = "the encoder tfhub needs the module {}, which is not installed: run pip install 'gifdex[pipeline]'"
    assert said == [needs.format("pkg_resources"), "something else", needs.format("tf_keras"), "(1, 6)"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "raise ImportError('undefined symbol')",
            r"needs? tensorflow_text, which cannot be imported \(undefined symbol\)",
        ),
        ("", None),
    ],
)
def test_tensorflow_text_is_imported_where_it_is_installed(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str | None
) -> None:
    (tmp_path / "tensorflow_text.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)  # so that it is put back afterwards
    del sys.modules["tensorflow_text"]
    if message is None:
        assert HubTexts(str(text_folder))(["a"]).shape == (1, 6)
        assert "tensorflow_text" in sys.modules
    else:
        with pytest.raises(EncoderError, match=message):
            HubTexts(str(text_folder))(["a"])
