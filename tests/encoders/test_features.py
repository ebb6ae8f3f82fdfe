"""Features are pooled over a GIF's frames, and a broken GIF affects no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gifdex.encoders.base import ImageEncoder, ImageEncoderOptions
from gifdex.encoders.feature_cache import Outcome
from gifdex.encoders.features import KeyedSource, encode, features_fingerprint, load
from gifdex.encoders.frames.decode import FrameDecoder
from gifdex.encoders.frames.limits import Limits, Sampling
from gifdex.encoders.registry import image_encoder
from gifdex.encoders.settings import EncodeSettings
from gifdex.encoders.tensorflow.runtime import import_tensorflow

decode = FrameDecoder()
GifMaker = Callable[..., Path]


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return image_encoder()


def expect_reject(source: KeyedSource, error: str, reason: str, lasting: bool) -> None:
    outcome = load(source, EncodeSettings(), (8, 8), decode)
    assert isinstance(outcome, Outcome)
    assert (outcome.sha256, outcome.error, outcome.lasting, outcome.features) == ("key", error, lasting, None)
    assert reason in (outcome.reason or "")


def test_bytes_that_are_not_a_gif_are_a_lasting_reject() -> None:
    for source in (b"hello", lambda: b"hello"):
        expect_reject(("key", source), "UnsupportedFormatError", "expected a GIF", lasting=True)


def test_a_failing_reader_is_a_reject_that_does_not_last(tmp_path: Path) -> None:
    expect_reject(("key", (tmp_path / "gone").read_bytes), "FileNotFoundError", "cannot read the file", lasting=False)


def test_a_bug_in_gifdex_costs_one_gif_and_does_not_last() -> None:
    nothing: Callable[[], bytes] = lambda: None  # type: ignore[assignment,return-value]  # noqa: E731
    expect_reject(("key", nothing), "TypeError", "please report it", lasting=False)


def test_features_are_the_weighted_mean_over_sampled_frames_for_any_batch(
    make_gif: GifMaker, encoder: ImageEncoder, tmp_path: Path
) -> None:
    paths = [make_gif(f"{n}.gif", seed=n, frames=n + 1, delay=[100 + 70 * k for k in range(n + 1)]) for n in range(4)]
    (tmp_path / "text.gif").write_text("hello")
    sources = [(path.name, path.read_bytes) for path in [*paths[:2], tmp_path / "text.gif", *paths[2:]]]
    whole = encode(encoder, sources, EncodeSettings(), decode)
    assert [outcome.sha256 for outcome in whole] == [key for key, _ in sources]
    assert whole[2].error == "UnsupportedFormatError"
    for path, outcome in zip(paths, [*whole[:2], *whole[3:]], strict=True):
        sampled = decode(path.read_bytes(), Sampling(), encoder.frame_size, Limits())
        expected = sampled.weights.astype(np.float64) @ encoder(sampled.frames).astype(np.float64)
        assert outcome.features is not None
        assert outcome.frames == len(sampled.frames)
        np.testing.assert_allclose(outcome.features, expected, rtol=1e-5, atol=1e-6)
    small = encode(
        image_encoder(options=ImageEncoderOptions(batch_frames=3)), sources, EncodeSettings(threads=1), decode
    )
    kept = encode(encoder, sources, EncodeSettings(), decode, keep_frames=True)
    assert (kept[2], whole[0].each) == (whole[2], None)
    for path, one, other in zip(paths, [*whole[:2], *whole[3:]], [*kept[:2], *kept[3:]], strict=True):
        assert one.features is not None
        assert other.each is not None
        np.testing.assert_array_equal(other.features, one.features)  # bit for bit
        sampled = decode(path.read_bytes(), Sampling(), encoder.frame_size, Limits())
        np.testing.assert_allclose(other.each.features, encoder(sampled.frames), rtol=2e-3, atol=1e-4)
        np.testing.assert_array_equal(other.each.numbers, sampled.numbers)
        np.testing.assert_array_equal(other.each.milliseconds, sampled.milliseconds)
    for one, other in zip(whole, small, strict=True):
        if one.features is None or other.features is None:
            assert one == other
        else:
            np.testing.assert_allclose(one.features, other.features, rtol=1e-4, atol=1e-5)


def test_a_module_in_another_folder_has_the_same_features(tmp_path: Path) -> None:
    tf = import_tensorflow("a test")
    module = tf.Module()
    module.__call__ = tf.function(
        lambda images: tf.reduce_mean(images, axis=[1, 2]), input_signature=[tf.TensorSpec((None, 8, 8, 3))]
    )
    tf.saved_model.save(module, str(tmp_path / "one"), signatures=module.__call__)
    (tmp_path / "one").rename(tmp_path / "two")
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    names = [f"tfhub:{tmp_path / name}" for name in ("one", "two")]
    one, two = (features_fingerprint(image_encoder(name), EncodeSettings(image_encoder=name)) for name in names)
    assert one == two
