"""Image modules as encoders, compared with the same modules called directly."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gifdex.encoders import registry
from gifdex.encoders.base import Frames, ImageEncoderOptions
from gifdex.encoders.images.tfhub import HubImages
from gifdex.schemas.errors import EncoderError


@pytest.mark.parametrize("shape", [(None, None, None, 3), (None, 20, 12, 3), (None, None, 12, 3), (3, 16, 16, 3)])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_features_equal_those_of_a_direct_call(
    tf: Any,
    tmp_path: Path,
    shape: tuple[int | None, ...],
    dtype: str,
    frames: Callable[..., Frames],
    image_module: Callable[..., Any],
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
def test_features_in_another_precision_become_float32(
    tf: Any, tmp_path: Path, precision: str, frames: Callable[..., Frames]
) -> None:
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
def test_a_tensorflow_1_module_is_read(tf: Any, tmp_path: Path, frames: Callable[..., Frames]) -> None:
    """tensorflow_hub wrote them without tags, with a signature `default` and the file tfhub_module.pb."""
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


def test_no_frames_give_no_features(image_folder: Path, frames: Callable[..., Frames]) -> None:
    features = HubImages(str(image_folder))(frames(0))
    assert (features.dtype, features.shape) == (np.float32, (0, 5))


def test_frames_of_another_shape_or_type_are_refused_with_both_sides(
    image_folder: Path, frames: Callable[..., Frames]
) -> None:
    with pytest.raises(EncoderError, match=r"uint8 frames of shape \(1, 8, 8, 3\); expected uint8 \(n, 16, 16, 3\)"):
        HubImages(str(image_folder))(frames(1, 8, 8))


def test_a_module_has_no_classifier_and_runs_in_float32(image_folder: Path) -> None:
    for precision in ("auto", "float32"):
        encoder = HubImages(str(image_folder), ImageEncoderOptions(precision=precision))
        assert (encoder.classifier(), encoder.precision) == (None, "float32")


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_another_precision_is_refused(image_folder: Path, precision: str) -> None:
    with pytest.raises(EncoderError, match=f"cannot run in {precision}, .* omit --precision"):
        HubImages(str(image_folder), ImageEncoderOptions(precision=precision))


def test_a_weights_file_is_refused(image_folder: Path) -> None:
    with pytest.raises(EncoderError, match="tfhub takes no --weights, the module has its own"):
        registry.image_encoder(f"tfhub:{image_folder}", ImageEncoderOptions(weights=Path("x.h5")))


def test_the_fixed_batch_of_a_module_is_used(
    tf: Any, tmp_path: Path, frames: Callable[..., Frames], image_module: Callable[..., Any]
) -> None:
    tf.saved_model.save(image_module(tf, (3, 16, 16, 3)), str(tmp_path))
    assert HubImages(str(tmp_path)).batch_frames == 3
    with pytest.raises(EncoderError, match=r"exactly 3 frames, but --batch-frames is 8: omit --batch-frames"):
        HubImages(str(tmp_path), ImageEncoderOptions(batch_frames=8))(frames(1))


def test_several_threads_may_make_the_first_call_at_once(image_folder: Path, frames: Callable[..., Frames]) -> None:
    lots = [frames(5, seed=seed) for seed in range(6)]
    expected = [HubImages(str(image_folder))(lot) for lot in lots]
    encoder = HubImages(str(image_folder))
    with ThreadPoolExecutor(6) as pool:
        for features, right in zip(pool.map(encoder, lots), expected, strict=True):
            np.testing.assert_array_equal(features, right)


def test_a_module_that_fails_while_running_gives_one_sentence(
    tf: Any, tmp_path: Path, frames: Callable[..., Frames], image_module: Callable[..., Any]
) -> None:
    def picky(images: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_less(images, 0.5, "too bright")]):
            return 0.0

    tf.saved_model.save(image_module(tf, (None, 4, 4, 3), adds=picky), str(tmp_path))
    encoder = HubImages(str(tmp_path))
    assert encoder(frames(2, 4, 4) // 4).shape == (2, 5)
    with pytest.raises(EncoderError, match=r"failed while it ran .*too bright") as caught:
        encoder(np.full((1, 4, 4, 3), 200, np.uint8))
    assert "\n" not in str(caught.value)


def test_a_module_that_returns_another_number_of_vectors_is_refused(
    tf: Any, tmp_path: Path, frames: Callable[..., Frames]
) -> None:
    module = tf.Module()
    module.__call__ = tf.function(
        lambda images: tf.repeat(tf.reduce_mean(images, [1, 2]), 2, axis=0),
        input_signature=[tf.TensorSpec((None, 4, 4, 3))],
    )
    tf.saved_model.save(module, str(tmp_path))
    with pytest.raises(EncoderError, match="failed while it ran"):
        HubImages(str(tmp_path))(frames(1, 4, 4))
