"""An image encoder and a projection that take almost no time, for tests of the code around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gifdex.encoders.projections.linear import LinearProjection
from gifdex.encoders.registry import image_encoder, text_encoder
from gifdex.encoders.settings import EncodeSettings
from gifdex.encoders.tensorflow.runtime import import_tensorflow
from gifdex.pipeline.settings import IndexSettings

SIDE, STEP, JOINT = 16, 4, 8  # frame size in pixels, of which every fourth is a feature; dimensions of the joint space
FEATURES = 3 * (SIDE // STEP) ** 2


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings for `BuildSettings`: a one-line TensorFlow Hub module and a random projection for it."""
    folder = tmp_path_factory.mktemp("small-models")
    tf = import_tensorflow("a test")

    class Module(tf.Module):  # type: ignore[name-defined]  # TensorFlow has no types here
        @tf.function(input_signature=[tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32)])
        def __call__(self, images: Any) -> Any:
            return tf.reshape(images[:, ::STEP, ::STEP, :], (-1, FEATURES))

    tf.saved_model.save(Module(), str(folder / "module"))
    encode = EncodeSettings(f"tfhub:{folder / 'module'}")
    images, texts = image_encoder(encode.image_encoder, encode.encoder_options), text_encoder()
    metadata = {
        kind: {"name": encoder.name, "fingerprint": encoder.fingerprint, "dimensions": encoder.dimensions}
        for kind, encoder in (("image_encoder", images), ("text_encoder", texts))
    }
    random = np.random.default_rng(0)
    tensors = {
        "image_center": np.full(FEATURES, 0.5, np.float32),
        "image_map": random.normal(size=(FEATURES, JOINT)).astype(np.float32),
        "text_center": np.zeros(texts.dimensions, np.float32),
        "text_map": random.normal(size=(texts.dimensions, JOINT)).astype(np.float32),
    }
    LinearProjection(tensors, metadata).save(folder / "projection.safetensors")
    return {"encode": encode, "index": IndexSettings(projection=folder / "projection.safetensors")}
