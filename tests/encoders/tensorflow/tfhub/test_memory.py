"""Batches of frames that do not fit into memory.

The module allocates more than any machine has when a batch is larger than `most`. It runs in a subprocess without
oneDNN, because with oneDNN TensorFlow's allocator waits ten seconds for memory before it fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from gifdex.encoders.base import Frames
from gifdex.encoders.images.tfhub import HubImages

RUN_HUNGRY = """
import json, logging, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from gifdex.encoders.base import ImageEncoderOptions
from gifdex.encoders.images.tfhub import HubImages
from gifdex.schemas.errors import EncoderError

messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("gifdex").addHandler(handler)

def outcome(encoder, seed):
    try:
        frames = np.random.default_rng(seed).integers(0, 256, (11, 16, 16, 3), np.uint8)
        return encoder(frames).tolist()
    except EncoderError as err:
        return str(err)

for case in json.loads(sys.argv[1]):
    messages.clear()
    encoder = HubImages(case["folder"], ImageEncoderOptions(batch_frames=case["batch"]))
    with ThreadPoolExecutor(case["threads"]) as pool:
        runs = [pool.submit(outcome, encoder, seed) for seed in range(6)]
        print(json.dumps({"outcomes": [run.result() for run in runs], "log": messages}))
"""


class Hungry(NamedTuple):
    most: int
    batch: int = 8
    fixed: int | None = None
    threads: int = 1


HUNGRY = [Hungry(4), Hungry(4, threads=6), Hungry(1), Hungry(1, threads=6), Hungry(0, 1), Hungry(0, 2), Hungry(4, 8, 8)]


Outcomes = dict[Hungry, dict[str, Any]]


@pytest.fixture(scope="module")
def outcomes(
    tf: Any, image_module: Callable[..., Any], run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Outcomes:
    """The features or messages from six calls of each encoder, and its log."""

    def adds(most: int, images: Any) -> Any:
        beyond = tf.maximum(tf.shape(images, tf.int64)[0] - most, 0)
        # The value depends on the input, so that TensorFlow cannot compute or remove it beforehand.
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
def test_a_batch_that_does_not_fit_is_halved_once(
    outcomes: Outcomes, image_folder: Path, threads: int, frames: Callable[..., Frames]
) -> None:
    found, plain = outcomes[Hungry(4, threads=threads)], HubImages(str(image_folder))
    for seed, features in enumerate(found["outcomes"]):
        np.testing.assert_allclose(features, plain(frames(11, seed=seed)), rtol=1e-4)
    (message,) = found["log"]
    assert message.endswith("batches of 8 frames do not fit into memory; trying 4")


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
    (message,) = set(outcomes[case]["outcomes"])  # every call gives the same message
    assert f"ran out of the device's memory with {named}: lower --batch-frames" in message
    assert len(outcomes[case]["log"]) == (case.batch > 1)


def test_a_fixed_batch_that_does_not_fit_is_not_halved(outcomes: Outcomes) -> None:
    found = outcomes[Hungry(4, 8, 8)]
    (message,) = set(found["outcomes"])
    assert (
        "with batches of 8 frames, the only size it was saved for: stop other programs that use the device" in message
    )
    assert "--batch-frames" not in message
    assert found["log"] == []
