"""Precision and batch sizes, with the installed encoders."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gifdex.encoders.base import ImageEncoderOptions
from gifdex.encoders.images.efficientnet import EfficientNetLite
from gifdex.encoders.images.frame_model import in_precision, probe_frames
from gifdex.encoders.tensorflow.runtime import gpu_capabilities, import_tensorflow
from gifdex.schemas.errors import EncoderError


def lite(**options: Any) -> EfficientNetLite:
    return EfficientNetLite("efficientnet-lite0", ImageEncoderOptions(**options))


def test_a_precision_that_changes_the_features_is_refused_with_the_cosine() -> None:
    encoder = lite(precision="bfloat16", batch_frames=4)
    for _ in range(2):  # and again at the second call
        with pytest.raises(EncoderError) as caught:
            encoder(probe_frames(1, (224, 224)))
        message = str(caught.value)
        assert "efficientnet-lite0 gives other features in bfloat16" in message
        assert "their cosine is 0.99" in message
        assert "at least 0.9999; use --precision float32" in message


def test_float16_keeps_the_features_of_lite0(lite0: EfficientNetLite) -> None:
    frames = probe_frames(4, (224, 224))
    features, lower = lite0(frames), lite(precision="float16", batch_frames=4)(frames)
    cosines = (features * lower).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(lower, axis=1)
    assert cosines.min() > 0.9999


def test_auto_is_float32_where_no_faster_precision_keeps_the_features() -> None:
    if gpu_capabilities():
        pytest.skip("a GPU runs it in float16")
    assert lite().precision == "float32"
    assert lite(precision="bfloat16").precision == "bfloat16"


def test_the_batch_size_is_the_one_given_or_suits_the_device() -> None:
    assert lite(batch_frames=5).batch_frames == 5
    assert lite().batch_frames == (128 if gpu_capabilities() else 32)


def test_several_threads_build_one_model() -> None:
    class Counted(EfficientNetLite):
        built = 0

        def _build(self, keras: Any) -> Any:
            Counted.built += 1
            return super()._build(keras)

    encoder = Counted("efficientnet-lite0", ImageEncoderOptions(batch_frames=1))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encoder, [probe_frames(1, (224, 224))] * 4))
    assert Counted.built == 1
    assert all((features == found[0]).all() for features in found)


def test_the_batch_size_does_not_change_the_features(lite0: EfficientNetLite) -> None:
    frames = probe_frames(7, (224, 224))
    np.testing.assert_allclose(lite(batch_frames=3)(frames), lite0(frames), rtol=1e-4, atol=1e-5)


def test_a_copy_in_lower_precision_holds_the_same_weights_in_less_memory() -> None:
    tf = import_tensorflow("a test")
    pixels = tf.keras.Input((4, 4, 3))
    x = tf.keras.layers.DepthwiseConv2D(3, padding="same", bias_initializer="random_normal")(pixels)
    model = tf.keras.Model(pixels, tf.keras.layers.Dense(5)(tf.keras.layers.Flatten()(x)))
    copy = in_precision(tf.keras, model, "bfloat16")
    for new, old in zip(copy.variables, model.variables, strict=True):
        assert new.value.dtype == tf.bfloat16
        np.testing.assert_array_equal(
            tf.cast(new.value, tf.float32), tf.cast(tf.cast(old.value, tf.bfloat16), tf.float32)
        )
    assert copy(np.ones((1, 4, 4, 3), np.float32)).dtype == tf.bfloat16


def test_probe_frames_are_always_the_same_and_have_the_spectrum_of_photographs() -> None:
    frames = probe_frames(3, (64, 96))
    assert frames.shape == (3, 64, 96, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, probe_frames(3, (64, 96)))
    wave = frames.astype(np.float64) - frames.mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.rfft(wave, axis=2)) ** 2).mean(axis=(0, 1, 3))
    assert power[1:4].mean() > 5 * power[8:16].mean() > 10 * power[24:48].mean()
