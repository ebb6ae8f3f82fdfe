"""Locations of modules: names, folders and URLs, damage, fingerprints."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gifdex.encoders import registry
from gifdex.encoders.base import Frames
from gifdex.encoders.images.tfhub import HubImages
from gifdex.encoders.texts.tfhub import HubTexts
from gifdex.schemas.errors import EncoderError, MissingExtraError, WeightsError

URL = "http://localhost:9/a-publisher/a-model/1"  # nothing listens there, so nothing is downloaded
URL_FOLDER = hashlib.sha1(URL.encode()).hexdigest()
SENTENCES = ["a cat plays the piano", "", "un chat joue du piano", "a man rides a horse", "🎉"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(folder))
    return folder


# Names, folders and URLs


def test_names_are_absolute_paths_and_unchanged_urls(
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


def test_a_cached_url_is_its_folder(
    cache: Path, image_folder: Path, text_folder: Path, frames: Callable[..., Frames]
) -> None:
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
def test_a_url_that_is_neither_cached_nor_reachable_is_an_error_with_the_cache_folder(
    cache: Path, encoder: Any
) -> None:
    for use in (lambda: encoder(URL).fingerprint, lambda: encoder(URL).dimensions):
        with pytest.raises(WeightsError, match="cannot be downloaded") as caught:
            use()
        assert f"tfhub:{URL}" in str(caught.value)
        assert f"{cache} (TFHUB_CACHE_DIR) has no folder {URL_FOLDER}, the SHA-1 of the URL" in str(caught.value)
    assert list(cache.iterdir()) == []


def test_the_error_says_when_the_cache_is_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        HubTexts(URL)([])
    assert f"{tmp_path / 'tfhub_modules'} (TFHUB_CACHE_DIR is not set) has no folder {URL_FOLDER}" in str(caught.value)


def test_a_url_whose_cached_folder_is_not_a_module_is_refused(cache: Path) -> None:
    (cache / URL_FOLDER).mkdir()
    (cache / URL_FOLDER / "readme").touch()
    with pytest.raises(WeightsError, match=rf"{URL_FOLDER} has no saved_model\.pb \(in it: readme\)"):
        HubTexts(URL)([])


def test_a_file_url_is_refused(image_folder: Path) -> None:
    with pytest.raises(WeightsError, match="which is not a folder on this machine: copy it here and name the copy"):
        _ = HubImages(f"file://{image_folder}").dimensions


@pytest.mark.parametrize("encoder", [HubImages, HubTexts])
@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (lambda at: None, "absent", r"there is no folder .*/absent; expected a folder with saved_model\.pb"),
        (lambda at: (at / "m.tar.gz").touch(), "m.tar.gz", r"m\.tar\.gz is an archive; .*: unpack it and name the fol"),
        (lambda at: (at / "saved_model.pb").touch(), "saved_model.pb", r"saved_model\.pb is a file; .*: name the fold"),
        (lambda at: None, "", r"has no saved_model\.pb \(in it: nothing\); .*: choose another folder"),
        (lambda at: (at / "m.tar.gz").touch(), "", r"\(in it: m\.tar\.gz\); .*: unpack m\.tar\.gz"),
        (lambda at: [(at / f"{n}.txt").touch() for n in range(9)], "", r"\(in it: 0\.txt, .*, 7\.txt, \.\.\.\); "),
        (lambda at: [(at / "1").mkdir(), (at / "1" / "saved_model.pb").touch()], "", r"\(in it: 1\); .*: choose .*/1$"),
    ],
)
def test_a_path_without_a_module_is_an_error_that_says_what_is_there(
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
def test_damaged_files_give_one_sentence(
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
    """Rename an operation in the saved graph to one that exists only in tensorflow_text."""
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


def test_an_image_module_with_unknown_operations_is_refused(tf: Any, image_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(image_folder, folder)
    without_op(tf, folder, "Conv2D")
    with pytest.raises(EncoderError, match=rf"the operation SentencepieceOp, which TensorFlow {tf.__version__} does"):
        _ = HubImages(str(folder)).dimensions


# Fingerprints


def test_the_fingerprint_depends_on_the_files_and_not_on_their_location(
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


def test_images_and_texts_of_one_module_have_two_fingerprints(
    tf: Any, tmp_path: Path, image_module: Callable[..., Any], text_module: Callable[..., Any]
) -> None:
    module, texts = image_module(tf, (None, 16, 16, 3)), text_module(tf)
    module.texts = texts
    signature = tf.function(lambda s: {"x": texts.__call__(s)}, input_signature=[tf.TensorSpec((None,), tf.string)])
    tf.saved_model.save(module, str(tmp_path), signatures={"texts": signature})
    images, sentences = HubImages(str(tmp_path)), HubTexts(str(tmp_path))
    assert (images.dimensions, sentences.dimensions) == (5, 6)
    assert images.fingerprint != sentences.fingerprint
