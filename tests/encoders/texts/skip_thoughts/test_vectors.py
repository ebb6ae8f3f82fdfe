"""Skip-thoughts on small models in the published layout, compared with the paper's formulas in plain numpy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gifdex.encoders import registry
from gifdex.encoders.texts import skip_thoughts
from gifdex.encoders.texts.skip_thoughts import SkipThoughts
from gifdex.schemas.errors import UnknownWordsError

Array = NDArray[Any]

SENTENCES = [
    "The cat plays the piano.",
    "cat",
    "the zebra plays",
    "Don't play, cat. The cat plays!",
    "The caf\u00e9 plays the cat.",
    "piano cat " * 40,
    'the "cat" plays',
]
TOKENS = [
    ["The", "cat", "plays", "the", "piano", "."],
    ["cat"],
    ["the", "UNK", "plays"],
    ["UNK", "n't", "UNK", ",", "cat", ".", "The", "cat", "plays", "UNK"],
    ["The", "caf\u00e9", "plays", "the", "cat", "."],
    ["piano", "cat"] * 40,
    ["the", "``", "cat", "''", "plays"],
]


@pytest.fixture(scope="session")
def encoders(folder: Path) -> dict[str, SkipThoughts]:
    pytest.importorskip("nltk")
    return {kind: SkipThoughts(kind, folder) for kind in ("uni", "bi", "combined")}


def last_state(arrays: Mapping[str, Array], prefix: str, words: Array) -> Array:
    """The last state of the paper's GRU (equations 1 to 4), in float64."""
    wide = {name: arrays[f"{prefix}_{name}"].astype(np.float64) for name in ("U", "W", "b", "Ux", "Wx", "bx")}
    units = len(wide["bx"])
    h = np.zeros(units)
    for x in words.astype(np.float64):
        gates = 1.0 / (1.0 + np.exp(-(x @ wide["W"] + wide["b"] + h @ wide["U"])))
        reset, update = gates[:units], gates[units:]
        candidate = np.tanh(x @ wide["Wx"] + wide["bx"] + reset * (h @ wide["Ux"]))
        h = update * h + (1.0 - update) * candidate
    return h


@pytest.fixture(scope="session")
def expected(
    words: list[str], models: Callable[..., Any], tables: Callable[..., Any]
) -> Callable[[str, list[str]], Array]:
    """Return a function that computes the vector of a sentence's tokens: `expected(kind, tokens)`."""

    def compute(kind: str, tokens: list[str]) -> Array:
        rows = [words.index(token) for token in tokens]
        weights, vectors = models(), {name: table[rows] for name, table in tables().items()}
        uni = last_state(weights["uni_skip.npz"], "encoder", vectors["utable.npy"])
        forwards = last_state(weights["bi_skip.npz"], "encoder", vectors["btable.npy"])
        backwards = last_state(weights["bi_skip.npz"], "encoder_r", vectors["btable.npy"][::-1])
        bi = np.concatenate([forwards, backwards])
        parts = {"uni": [uni], "bi": [bi], "combined": [uni, bi]}[kind]
        return np.concatenate([part / np.linalg.norm(part) for part in parts])

    return compute


@pytest.mark.parametrize(("kind", "size", "length"), [("uni", 6, 1), ("bi", 6, 1), ("combined", 12, 2**0.5)])
def test_vectors_follow_the_formulas_in_the_order_of_sentences(
    encoders: Mapping[str, SkipThoughts],
    expected: Callable[[str, list[str]], Array],
    kind: str,
    size: int,
    length: float,
) -> None:
    encoder = encoders[kind]
    vectors = encoder(SENTENCES)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(SENTENCES), size) == (len(SENTENCES), encoder.dimensions)
    np.testing.assert_allclose(vectors, [expected(kind, tokens) for tokens in TOKENS], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), length, atol=1e-6)
    np.testing.assert_allclose(encoder(SENTENCES[::-1]), vectors[::-1], atol=1e-5)


def test_a_batch_of_one_equals_a_batch_of_many(encoders: Mapping[str, SkipThoughts]) -> None:
    single = np.concatenate([encoders["combined"]([sentence]) for sentence in SENTENCES])
    np.testing.assert_allclose(encoders["combined"](SENTENCES * 50), np.tile(single, (50, 1)), atol=1e-5)


def test_a_batch_has_sentences_of_one_length_and_is_never_large() -> None:
    lengths = np.random.default_rng(0).integers(1, 4, 1000).tolist() + [5000] * 3 + [9000]
    batches = list(skip_thoughts._batches(lengths))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    assert all(len({lengths[place] for place in batch}) == 1 for batch in batches)
    assert max(map(len, batches)) == 128
    assert all(len(batch) == 1 for batch in batches if lengths[batch[0]] >= 5000)


def test_all_lengths_share_one_graph(encoders: Mapping[str, SkipThoughts], monkeypatch: pytest.MonkeyPatch) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    made: list[Any] = []
    real = tensorflow.function

    def kept(*given: Any, **more: Any) -> Any:
        made.append(real(*given, **more))
        return made[-1]

    monkeypatch.setattr(tensorflow, "function", kept)
    encoder = SkipThoughts("uni", encoders["uni"]._folder)
    encoder(SENTENCES)
    assert [function.experimental_get_tracing_count() for function in made] == [1]


def test_an_unknown_word_is_read_as_the_unknown_token(encoders: Mapping[str, SkipThoughts]) -> None:
    known, unknown, upper = encoders["combined"](["UNK plays", "zebra plays", "PLAYS plays"])
    np.testing.assert_allclose(unknown, known, atol=1e-6)
    np.testing.assert_allclose(upper, known, atol=1e-6, err_msg="no word is lower-cased")


def test_no_sentences_give_no_vectors(encoders: Mapping[str, SkipThoughts]) -> None:
    assert encoders["combined"]([]).shape == (0, 12)


def test_a_sentence_without_a_word_is_an_error_with_its_position(encoders: Mapping[str, SkipThoughts]) -> None:
    with pytest.raises(UnknownWordsError, match="found no word in the sentence '': give") as caught:
        encoders["uni"](["cat", "", "the", " \n\u00a0 "])
    assert caught.value.positions == (1, 3)


def test_plain_tables_and_double_precision_give_the_same_vectors(
    own: Path, encoders: Mapping[str, SkipThoughts], models: Callable[..., Any], tables: Callable[..., Any]
) -> None:
    for name, table in tables().items():
        np.save(own / name, table.astype(np.float64))
    for name, arrays in models().items():
        doubles = {key: array.astype(float) for key, array in arrays.items() if array.dtype != object}
        fortran = {key: np.asfortranarray(array) for key, array in doubles.items()}
        np.savez_compressed(own / name, **fortran)  # type: ignore[arg-type]
    found = SkipThoughts("combined", own)(SENTENCES)
    np.testing.assert_allclose(found, encoders["combined"](SENTENCES), atol=1e-6)


@pytest.mark.parametrize(("kind", "unneeded"), [("uni", "bi"), ("bi", "uni")])
def test_one_model_needs_no_file_of_the_other_model(
    own: Path, encoders: Mapping[str, SkipThoughts], kind: str, unneeded: str
) -> None:
    (own / f"{unneeded[0]}table.npy").unlink()
    (own / f"{unneeded}_skip.npz").unlink()
    encoder = SkipThoughts(kind, own)
    np.testing.assert_allclose(encoder(SENTENCES), encoders[kind](SENTENCES), atol=1e-6)
    assert encoder.fingerprint == encoders[kind].fingerprint, "the fingerprint depends on the bytes, not on the path"


def test_fingerprints_differ_by_kind_and_by_each_file_that_the_kind_needs(
    own: Path, encoders: Mapping[str, SkipThoughts]
) -> None:
    assert len({encoder.fingerprint for encoder in encoders.values()}) == 3
    for name in ("dictionary.txt", "utable.npy", "btable.npy", "uni_skip.npz", "bi_skip.npz"):
        before = (own / name).read_bytes()
        (own / name).write_bytes(before + b" ")
        changed = {kind for kind in encoders if SkipThoughts(kind, own).fingerprint != encoders[kind].fingerprint}
        assert changed == {"combined"} | {"u": {"uni"}, "b": {"bi"}, "d": {"uni", "bi"}}[name[0]], name
        (own / name).write_bytes(before)


def test_its_name_has_the_absolute_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for head in ("skip-thoughts", "skip-thoughts-uni", "skip-thoughts-bi"):
        for given in ("models", "./x/../models/", "~/models"):
            assert registry.text_encoder(f"{head}:{given}").name == f"{head}:{folder}"


def test_constructing_it_imports_no_tensorflow_and_reads_no_table(folder: Path) -> None:
    program = (
        "import sys\n"
        "from gifdex.encoders.texts.skip_thoughts import SkipThoughts\n"
        f"encoder = SkipThoughts('combined', {str(folder)!r})\n"
        "print(encoder.dimensions, encoder([]).shape[1], encoder.fingerprint)\n"
        "assert '_loaded' not in vars(encoder)\n"
        "assert not {'tensorflow', 'keras', 'nltk'} & set(sys.modules)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert finished.stdout.split() == ["12", "12", SkipThoughts("combined", folder).fingerprint]


def test_several_threads_may_make_the_first_call_at_once(folder: Path, encoders: Mapping[str, SkipThoughts]) -> None:
    fresh = SkipThoughts("bi", folder)
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(fresh, [SENTENCES[:3]] * 8):
            np.testing.assert_allclose(vectors, encoders["bi"](SENTENCES[:3]), atol=1e-6)


def test_without_nltk_the_error_has_the_install_command(folder: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['nltk'] = None\n"
        "from gifdex.encoders.texts.skip_thoughts import SkipThoughts\n"
        "from gifdex.schemas.errors import MissingExtraError\n"
        f"try:\n    SkipThoughts('uni', {str(folder)!r})(['a'])\nexcept MissingExtraError as err:\n    print(err)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "the text encoder skip-thoughts-uni needs the module nltk" in finished.stdout
    assert "pip install 'gifdex[skip-thoughts]'" in finished.stdout
