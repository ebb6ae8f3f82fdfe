"""Fixtures shared by several folders of tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gifdex.encoders.tensorflow.runtime import import_tensorflow
from tests import s3_server
from tests.quick import pytest_addoption, pytest_configure  # noqa: F401  # hooks
from tests.s3_server import S3Server

# The development corpora: GIFDEX_TEST_DATA, or a folder beside the clone.
DATA = Path(os.environ.get("GIFDEX_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of development corpora; tests are skipped where it is missing."""
    if not DATA.is_dir():
        pytest.skip(f"the development corpora are not at {DATA}: set GIFDEX_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The S3 server's binary."""
    found = s3_server.binary()
    if found is None:
        pytest.skip("no S3 server: make s3-server builds one where Go is installed")
    return found


@pytest.fixture
def s3(versitygw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A real S3 server over a new folder, with its credentials in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with s3_server.running(versitygw, tmp_path / "s3") as server:
        yield server


GifMaker = Callable[..., Path]


@pytest.fixture
def make_gif(tmp_path: Path) -> GifMaker:
    """Return a function that writes a real GIF: `make_gif(path, seed=0, frames=4, delay=100, size=(48, 32))`."""

    def make(
        path: Path | str, seed: int = 0, frames: int = 4, delay: int | list[int] = 100, size: tuple[int, int] = (48, 32)
    ) -> Path:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(seed)
        # A coarse random pattern that moves: it compresses well, and no two frames are the same.
        coarse = random.integers(0, 256, (4, 6, 3), np.uint8)
        images = [
            Image.fromarray(np.roll(coarse, shift, axis=1)).resize(size, Image.Resampling.NEAREST)
            for shift in range(frames)
        ]
        images[0].save(target, save_all=True, append_images=images[1:], duration=delay, loop=0)
        return target

    return make


@pytest.fixture(scope="session")
def keras_vgg16() -> Any:
    """Keras' own VGG16 with random weights and biases (Keras initialises biases to zero)."""
    keras = import_tensorflow("a test").keras
    keras.utils.set_random_seed(16)
    model = keras.applications.VGG16(weights=None)
    for variable in model.variables:
        if len(variable.shape) == 1:
            variable.assign(keras.random.normal(variable.shape, stddev=0.1))
    return model


@pytest.fixture(scope="session")
def vgg16_file(keras_vgg16: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `keras_vgg16` as Keras saves them, 553 MB."""
    path = tmp_path_factory.mktemp("vgg16") / "random.weights.h5"
    with pytest.warns(DeprecationWarning, match="__array__ implementation"):  # Keras 3.15 with numpy 2
        keras_vgg16.save_weights(path)
    return path
