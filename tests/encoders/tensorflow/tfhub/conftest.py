"""Small TensorFlow Hub modules, saved as SavedModels."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gifdex.encoders.base import Frames
from gifdex.encoders.tensorflow.runtime import import_tensorflow


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    if importlib.util.find_spec("tensorflow_hub") is None:  # find_spec, because importing it warns
        pytest.skip("tensorflow_hub is not installed")


@pytest.fixture(scope="session")
def tf() -> Any:
    return import_tensorflow("the tests")


@pytest.fixture(scope="session")
def frames() -> Callable[..., Frames]:
    """Return a function that draws frames: `frames(n, height=16, width=16, seed=0)`."""

    def draw(n: int, height: int = 16, width: int = 16, seed: int = 0) -> Frames:
        return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)

    return draw


@pytest.fixture(scope="session")
def image_module() -> Callable[..., Any]:
    """Return a function that makes a module of convolution, ReLU, pooling and a matrix: images to 5 features.

    `image_module(tf, shape, dtype='float32', adds=None)`; `adds(images)` is added to the features.
    """

    def make(tf: Any, shape: tuple[int | None, ...], dtype: str = "float32", adds: Any = None) -> Any:
        module, random = tf.Module(), np.random.default_rng(1)
        module.kernel = tf.Variable(random.normal(size=(3, 3, 3, 8)).astype(np.float32))
        module.matrix = tf.Variable(random.normal(size=(8, 5)).astype(np.float32))

        def call(images: Any) -> Any:
            hidden = tf.nn.relu(tf.nn.conv2d(tf.cast(images, tf.float32), module.kernel, 2, "SAME"))
            features = tf.reduce_mean(hidden, [1, 2]) @ module.matrix
            return features if adds is None else features + adds(images)

        module.__call__ = tf.function(call, input_signature=[tf.TensorSpec(shape, dtype, "images")])
        return module

    return make


@pytest.fixture(scope="session")
def text_module() -> Callable[..., Any]:
    """Return a function that makes a module that sums table rows of hashed words: sentences to 6 dimensions.

    `text_module(tf, shape=(None,))`.
    """

    def make(tf: Any, shape: tuple[int | None, ...] = (None,)) -> Any:
        module = tf.Module()
        module.table = tf.Variable(np.random.default_rng(2).normal(size=(97, 6)).astype(np.float32))

        def call(sentences: Any) -> Any:
            words = tf.strings.split(sentences)
            rows = tf.ragged.map_flat_values(tf.strings.to_hash_bucket_fast, words, 97).to_tensor(-1)
            known = tf.cast(rows >= 0, tf.float32)[..., None]
            return tf.reduce_sum(tf.gather(module.table, tf.maximum(rows, 0)) * known, axis=1)

        module.__call__ = tf.function(call, input_signature=[tf.TensorSpec(shape, tf.string, "sentences")])
        return module

    return make


@pytest.fixture(scope="session")
def image_folder(tf: Any, image_module: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules") / "images"
    tf.saved_model.save(image_module(tf, (None, 16, 16, 3)), str(folder))
    return folder


@pytest.fixture(scope="session")
def text_folder(tf: Any, text_module: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules") / "texts"
    tf.saved_model.save(text_module(tf), str(folder))
    return folder


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Return a function that runs a program in a subprocess and returns its output."""

    def run_program(program: str, *arguments: str, **environment: str) -> str:
        command = [sys.executable, "-W", "error", "-c", program, *arguments]
        finished = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
        assert finished.returncode == 0, finished.stderr[-3000:]
        return finished.stdout

    return run_program
