"""Skip-thoughts on small models of the published layout, against the paper's formulas in plain numpy."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gifdex.encoders import registry, skip_thoughts
from gifdex.encoders.skip_thoughts import SkipThoughts
from gifdex.schemas.errors import EncoderError, UnknownWordsError, WeightsError

Array = NDArray[Any]

WORDS = [
    "eos",
    "UNK",
    "the",
    "The",
    "cat",
    "caf\u00e9",
    "plays",
    "piano",
    ".",
    ",",
    "do",
    "n't",
    "``",
    "''",
    "Mr.",
    "Mr",
]
DIMENSIONS, UNI, BI = 5, 6, 3
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


def gru_arrays(random: np.random.Generator, prefix: str, units: int) -> dict[str, Array]:
    shapes = {
        "U": (units, 2 * units),
        "W": (DIMENSIONS, 2 * units),
        "b": (2 * units,),
        "Ux": (units, units),
        "Wx": (DIMENSIONS, units),
        "bx": (units,),
    }
    return {f"{prefix}_{name}": random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def models(seed: int = 0) -> dict[str, dict[str, Array]]:
    random = np.random.default_rng(seed)
    decoder = {"decoder_U": random.standard_normal((2, 2)), "Wemb": np.array([{"an": "object"}], object)}
    return {
        "uni_skip.npz": {**gru_arrays(random, "encoder", UNI), **decoder},
        "bi_skip.npz": {**gru_arrays(random, "encoder", BI), **gru_arrays(random, "encoder_r", BI), **decoder},
    }


def tables(seed: int = 1) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    shape = (len(WORDS), DIMENSIONS)
    return {name: random.standard_normal(shape).astype(np.float32) for name in ("utable.npy", "btable.npy")}


def write(folder: Path, seed: int = 0) -> Path:
    """Write a small model as the published one is: tables as object arrays of rows."""
    folder.mkdir(exist_ok=True)
    (folder / "dictionary.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    for name, arrays in models(seed).items():
        np.savez(folder / name, **arrays)  # type: ignore[arg-type]
    for name, table in tables(seed + 1).items():
        rows = np.empty(len(table), object)
        for place, row in enumerate(table):
            rows[place] = row
        np.save(folder / name, rows, allow_pickle=True)
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("skip") / "models")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder that the test may break."""
    return write(tmp_path / "models")


@pytest.fixture(scope="session")
def encoders(folder: Path) -> dict[str, SkipThoughts]:
    pytest.importorskip("nltk")
    return {kind: SkipThoughts(kind, folder) for kind in ("uni", "bi", "combined")}


def last_state(arrays: Mapping[str, Array], prefix: str, words: Array) -> Array:
    """The GRU of the paper (its equations 1 to 4), in float64: reset gates, update gates, candidates."""
    big = {name: arrays[f"{prefix}_{name}"].astype(np.float64) for name in ("U", "W", "b", "Ux", "Wx", "bx")}
    units = len(big["bx"])
    h = np.zeros(units)
    for x in words.astype(np.float64):
        gates = 1.0 / (1.0 + np.exp(-(x @ big["W"] + big["b"] + h @ big["U"])))
        reset, update = gates[:units], gates[units:]
        candidate = np.tanh(x @ big["Wx"] + big["bx"] + reset * (h @ big["Ux"]))
        h = update * h + (1.0 - update) * candidate
    return h


def expected(kind: str, tokens: list[str]) -> Array:
    rows = [WORDS.index(token) for token in tokens]
    weights, words = models(), {name: table[rows] for name, table in tables().items()}
    uni = last_state(weights["uni_skip.npz"], "encoder", words["utable.npy"])
    forwards = last_state(weights["bi_skip.npz"], "encoder", words["btable.npy"])
    backwards = last_state(weights["bi_skip.npz"], "encoder_r", words["btable.npy"][::-1])
    bi = np.concatenate([forwards, backwards])
    parts = {"uni": [uni], "bi": [bi], "combined": [uni, bi]}[kind]
    return np.concatenate([part / np.linalg.norm(part) for part in parts])


@pytest.mark.parametrize(("kind", "size", "length"), [("uni", 6, 1), ("bi", 6, 1), ("combined", 12, 2**0.5)])
def test_sentences_become_what_the_formulas_say_in_their_order(
    encoders: Mapping[str, SkipThoughts], kind: str, size: int, length: float
) -> None:
    encoder = encoders[kind]
    vectors = encoder(SENTENCES)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(SENTENCES), size) == (len(SENTENCES), encoder.dimensions)
    np.testing.assert_allclose(vectors, [expected(kind, tokens) for tokens in TOKENS], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), length, atol=1e-6)
    np.testing.assert_allclose(encoder(SENTENCES[::-1]), vectors[::-1], atol=1e-5)


def test_a_batch_of_one_equals_a_batch_of_many(encoders: Mapping[str, SkipThoughts]) -> None:
    alone = np.concatenate([encoders["combined"]([sentence]) for sentence in SENTENCES])
    np.testing.assert_allclose(encoders["combined"](SENTENCES * 50), np.tile(alone, (50, 1)), atol=1e-5)


def test_batches_are_of_one_length_and_never_large() -> None:
    lengths = np.random.default_rng(0).integers(1, 4, 1000).tolist() + [5000] * 3 + [9000]
    batches = list(skip_thoughts._batches(lengths))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    assert all(len({lengths[place] for place in batch}) == 1 for batch in batches)
    assert max(map(len, batches)) == 128
    assert all(len(batch) == 1 for batch in batches if lengths[batch[0]] >= 5000)


def test_all_lengths_share_one_graph(encoders: Mapping[str, SkipThoughts], monkeypatch: pytest.MonkeyPatch) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    made = []
    real = tensorflow.function
    monkeypatch.setattr(tensorflow, "function", lambda *given, **more: made.append(real(*given, **more)) or made[-1])
    encoder = SkipThoughts("uni", encoders["uni"]._folder)
    encoder(SENTENCES)
    assert [function.experimental_get_tracing_count() for function in made] == [1]


def test_an_unknown_word_is_read_as_the_word_for_all_others(encoders: Mapping[str, SkipThoughts]) -> None:
    known, unknown, upper = encoders["combined"](["UNK plays", "zebra plays", "PLAYS plays"])
    np.testing.assert_allclose(unknown, known, atol=1e-6)
    np.testing.assert_allclose(upper, known, atol=1e-6, err_msg="no word is lower-cased")


def test_no_sentences_are_no_vectors(encoders: Mapping[str, SkipThoughts]) -> None:
    assert encoders["combined"]([]).shape == (0, 12)


def test_a_sentence_without_a_word_is_named_with_its_place(encoders: Mapping[str, SkipThoughts]) -> None:
    with pytest.raises(UnknownWordsError, match="found no word in the sentence '': give") as caught:
        encoders["uni"](["cat", "", "the", " \n\u00a0 "])
    assert caught.value.positions == (1, 3)


def test_plain_tables_and_double_precision_give_the_same(own: Path, encoders: Mapping[str, SkipThoughts]) -> None:
    for name, table in tables().items():
        np.save(own / name, table.astype(np.float64))
    for name, arrays in models().items():
        doubles = {key: array.astype(float) for key, array in arrays.items() if array.dtype != object}
        fortran = {key: np.asfortranarray(array) for key, array in doubles.items()}
        np.savez_compressed(own / name, **fortran)  # type: ignore[arg-type]
    found = SkipThoughts("combined", own)(SENTENCES)
    np.testing.assert_allclose(found, encoders["combined"](SENTENCES), atol=1e-6)


@pytest.mark.parametrize(("kind", "unneeded"), [("uni", "bi"), ("bi", "uni")])
def test_one_model_needs_no_file_of_the_other(
    own: Path, encoders: Mapping[str, SkipThoughts], kind: str, unneeded: str
) -> None:
    (own / f"{unneeded[0]}table.npy").unlink()
    (own / f"{unneeded}_skip.npz").unlink()
    encoder = SkipThoughts(kind, own)
    np.testing.assert_allclose(encoder(SENTENCES), encoders[kind](SENTENCES), atol=1e-6)
    assert encoder.fingerprint == encoders[kind].fingerprint, "of the bytes, not of the place"


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


def test_constructing_it_and_its_dimensions_import_no_tensorflow_and_read_no_table(folder: Path) -> None:
    program = (
        "import sys\n"
        "from gifdex.encoders.skip_thoughts import SkipThoughts\n"
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


def test_without_nltk_the_error_has_the_command_that_installs_it(folder: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['nltk'] = None\n"
        "from gifdex.encoders.skip_thoughts import SkipThoughts\n"
        "from gifdex.schemas.errors import MissingExtraError\n"
        f"try:\n    SkipThoughts('uni', {str(folder)!r})(['a'])\nexcept MissingExtraError as err:\n    print(err)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "the text encoder skip-thoughts-uni needs the module nltk" in finished.stdout
    assert "pip install 'gifdex[skip-thoughts]'" in finished.stdout


def test_an_absent_folder_or_file_is_refused_at_once(own: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"absent is no folder; .* dictionary\.txt, utable\.npy, uni_skip\.npz"
    ) as caught:
        SkipThoughts("uni", own / "absent")
    assert "btable" not in str(caught.value)
    (own / "btable.npy").unlink()
    with pytest.raises(WeightsError, match=r"has no file btable\.npy; .*http://www\.cs\.toronto\.edu/~rkiros/models/"):
        SkipThoughts("combined", own)
    with pytest.raises(EncoderError, match="there is no kind 'tri'"):
        SkipThoughts("tri", own)


def rezip(path: Path, change: Callable[[dict[str, Array]], Any]) -> None:
    arrays = models()[path.name]
    change(arrays)
    np.savez(path, **arrays)  # type: ignore[arg-type]


def swap(name: str, array: Array) -> Callable[[dict[str, Array]], None]:
    return lambda arrays: arrays.update({name: array})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("encoder_Ux"), "it has no array encoder_Ux"),
        (swap("encoder_Ux", np.ones((3, 4), np.float32)), r"encoder_Ux has the shape \(3, 4\)"),
        (swap("encoder_W", np.ones((4, 6), np.float32)), r"encoder_W has the shape \(4, 6\)"),
        (swap("encoder_b", np.ones(5, np.float32)), r"encoder_b has the shape \(5,\)"),
        (swap("encoder_Wx", np.ones(3, np.float32)), r"encoder_Wx has the shape \(3,\)"),
        (swap("encoder_r_bx", np.ones(4, np.float32)), r"encoder_r_bx has the shape \(4,\)"),
        (swap("encoder_bx", np.ones(3, np.int64)), "encoder_bx is int64"),
        (swap("encoder_bx", np.array([print] * 3, object)), "encoder_bx is object"),
    ],
)
def test_weights_that_do_not_fit_each_other_are_refused(
    own: Path, change: Callable[[dict[str, Array]], Any], message: str
) -> None:
    rezip(own / "bi_skip.npz", change)
    encoder = SkipThoughts("bi", own)
    for use in (lambda: encoder.dimensions, lambda: encoder(["cat"])):
        with pytest.raises(WeightsError, match=message) as caught:
            use()
        assert str(own / "bi_skip.npz") in str(caught.value)


def test_weights_that_are_not_finite_are_refused(own: Path) -> None:
    rezip(own / "uni_skip.npz", swap("encoder_bx", np.full(UNI, np.nan, np.float32)))
    with pytest.raises(WeightsError, match=r"uni_skip\.npz has numbers in bx that are not finite"):
        SkipThoughts("uni", own)(["cat"])


def test_tables_that_do_not_fit_are_refused(own: Path) -> None:
    np.save(own / "utable.npy", tables()["utable.npy"][1:])
    with pytest.raises(WeightsError, match=r"utable\.npy has 15 rows, but dictionary\.txt beside it has 16 lines"):
        SkipThoughts("uni", own)(["cat"])
    np.save(own / "utable.npy", tables()["utable.npy"][:, 1:])
    with pytest.raises(WeightsError, match=r"utable\.npy have 4 dimensions, but the GRUs in uni_skip\.npz expect 5"):
        SkipThoughts("uni", own)(["cat"])
    (own / "utable.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(WeightsError, match=r"utable\.npy is not a readable table"):
        SkipThoughts("uni", own)(["cat"])


def test_a_dictionary_without_the_word_for_all_others_or_in_another_encoding_is_refused(own: Path) -> None:
    (own / "dictionary.txt").write_text("cat\nthe\n")
    with pytest.raises(WeightsError, match=r"dictionary\.txt has 2 lines but none is UNK"):
        SkipThoughts("uni", own)(["cat"])
    (own / "dictionary.txt").write_bytes("UNK\ncaf\u00e9\n".encode("latin1"))
    with pytest.raises(WeightsError, match=r"dictionary\.txt is not a readable dictionary"):
        SkipThoughts("uni", own)(["cat"])


def test_weights_cut_anywhere_or_changed_are_refused_or_read(own: Path) -> None:
    path = own / "uni_skip.npz"
    whole = path.read_bytes()
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"uni_skip\.npz is not a readable \.npz"):
            skip_thoughts._read_grus(path, skip_thoughts._UNI)
    random = np.random.default_rng(0)
    for _ in range(400):
        data = bytearray(whole)
        data[random.integers(0, len(whole))] = random.integers(0, 256)
        path.write_bytes(data)
        try:
            skip_thoughts._read_grus(path, skip_thoughts._UNI)
        except WeightsError as err:
            assert str(path) in str(err)  # noqa: PT017 - some changes are in members that nobody reads


def test_a_changed_number_is_found_by_its_checksum(own: Path) -> None:
    path = own / "uni_skip.npz"
    data = path.read_bytes()
    raw = models()["uni_skip.npz"]["encoder_Ux"].tobytes()
    path.write_bytes(data.replace(raw, raw[:-1] + bytes([raw[-1] ^ 1])))
    with pytest.raises(WeightsError, match="Bad CRC"):
        SkipThoughts("uni", own)(["cat"])


def test_an_array_that_goes_on_after_its_numbers_is_refused(own: Path) -> None:
    rezip(own / "uni_skip.npz", lambda arrays: arrays.pop("encoder_b"))
    longer = io.BytesIO()
    np.save(longer, models()["uni_skip.npz"]["encoder_b"])
    with zipfile.ZipFile(own / "uni_skip.npz", "a") as archive:
        archive.writestr("encoder_b.npy", longer.getvalue() + b"x")
    with pytest.raises(WeightsError, match="encoder_b goes on after its numbers"):
        SkipThoughts("uni", own)(["cat"])


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_nothing_in_the_files_is_run(own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Trap()], object), allow_pickle=True)
    for name, message in (("decoder_trap", None), ("encoder_b", "encoder_b is object")):
        rezip(own / "uni_skip.npz", lambda arrays: arrays.pop("encoder_b"))
        with zipfile.ZipFile(own / "uni_skip.npz", "a") as archive:
            archive.writestr(f"{name}.npy", buffer.getvalue())
            if message is None:
                good = io.BytesIO()
                np.save(good, models()["uni_skip.npz"]["encoder_b"])
                archive.writestr("encoder_b.npy", good.getvalue())
        if message is None:
            SkipThoughts("uni", own)(["cat"])
        else:
            with pytest.raises(WeightsError, match=message):
                SkipThoughts("uni", own)(["cat"])
    write(own)
    (own / "utable.npy").write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match=r"the global (posix|nt)\.mkdir is not allowed"):
        SkipThoughts("uni", own)(["cat"])
    assert not (tmp_path / "trapped").exists()
    pickle.loads(pickle.dumps(_Trap()))  # noqa: S301 - to show that the trap works
    assert (tmp_path / "trapped").exists()
