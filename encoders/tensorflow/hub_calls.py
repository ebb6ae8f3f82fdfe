"""Call a TensorFlow Hub module: check its vectors, and turn its failures into one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from gifdex.encoders.tensorflow.hub_signature import Endpoint, brief
from gifdex.schemas.errors import EncoderError


def checked_vectors(tf: Any, endpoint: Endpoint, inputs: Any) -> Any:
    """Return float32 (n, d) for n inputs, in a graph that fails if the module gives anything else."""
    return tf.ensure_shape(tf.cast(endpoint.run(inputs), tf.float32), (inputs.shape[0], endpoint.dimensions))


@contextlib.contextmanager
def one_sentence_failures(tf: Any, name: str) -> Iterator[None]:
    """Turn TensorFlow's errors while a module runs into one sentence."""
    try:
        yield
    except (tf.errors.OpError, ValueError) as err:  # ValueError: TensorFlow found wrong shapes before the run
        raise EncoderError(
            f"{name} failed while it ran ({brief(err)}): expected vectors: choose another module, or fix this one"
        ) from err
