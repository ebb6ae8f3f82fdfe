"""Text modules as encoders, compared with the same modules called directly."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gifdex.encoders.texts.tfhub import HubTexts
from gifdex.schemas.errors import EncoderError

SENTENCES = ["a cat plays the piano", "", "un chat joue du piano", "a man rides a horse", "🎉"]


def test_vectors_equal_those_of_a_direct_call(tf: Any, text_folder: Path) -> None:
    encoder = HubTexts(str(text_folder))
    vectors = encoder(SENTENCES)
    assert (encoder.dimensions, vectors.dtype, vectors.shape) == (6, np.float32, (5, 6))
    direct = tf.saved_model.load(str(text_folder))
    np.testing.assert_allclose(vectors, direct(tf.constant(SENTENCES)).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(encoder(tuple(SENTENCES)), vectors)


def test_many_sentences_are_encoded_in_batches(tf: Any, tmp_path: Path) -> None:
    """The module's last dimension is the number of sentences in its batch."""
    module = tf.Module()
    module.__call__ = tf.function(
        lambda s: tf.stack(
            [tf.strings.to_number(s), tf.zeros_like(s, tf.float32) + tf.cast(tf.size(s), tf.float32)], 1
        ),
        input_signature=[tf.TensorSpec((None,), tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path))
    vectors = HubTexts(str(tmp_path))([str(number) for number in range(600)])
    np.testing.assert_array_equal(vectors[:, 0], np.arange(600))
    np.testing.assert_array_equal(vectors[:, 1], [256] * 512 + [88] * 88)


def test_a_fixed_batch_of_sentences_is_padded(
    tf: Any, tmp_path: Path, text_folder: Path, text_module: Callable[..., Any]
) -> None:
    tf.saved_model.save(text_module(tf, (2,)), str(tmp_path))
    np.testing.assert_allclose(HubTexts(str(tmp_path))(SENTENCES), HubTexts(str(text_folder))(SENTENCES), rtol=1e-6)


def test_no_sentences_give_no_vectors(text_folder: Path) -> None:
    vectors = HubTexts(str(text_folder))([])
    assert (vectors.dtype, vectors.shape) == (np.float32, (0, 6))


def test_half_a_surrogate_pair_is_no_error(text_folder: Path) -> None:
    assert HubTexts(str(text_folder))(["\ud83c"]).shape == (1, 6)


def test_several_threads_may_make_the_first_call_at_once(text_folder: Path) -> None:
    expected, encoder = HubTexts(str(text_folder))(SENTENCES), HubTexts(str(text_folder))
    with ThreadPoolExecutor(6) as pool:
        for vectors in pool.map(encoder, [SENTENCES] * 12):
            np.testing.assert_allclose(vectors, expected, rtol=1e-6)


def test_a_text_module_that_fails_while_running_gives_one_sentence(tf: Any, tmp_path: Path) -> None:
    module = tf.Module()
    module.__call__ = tf.function(
        lambda s: tf.strings.to_number(s)[:, None], input_signature=[tf.TensorSpec((None,), tf.string)]
    )
    tf.saved_model.save(module, str(tmp_path))
    with pytest.raises(EncoderError, match=r"failed while it ran .*could not correctly convert string: cat"):
        HubTexts(str(tmp_path))(["cat"])
