"""The field `text`: which items have the words of a sentence, how they score, and fusion with vectors."""

from __future__ import annotations

import resource
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gifdex
from gifdex.encoders.base import FloatArray, unit
from gifdex.index import artifact, text_file
from gifdex.index.lookup import Index
from gifdex.index.queries.mixed import fused_ranks
from gifdex.index.queries.query_words import read_words
from gifdex.schemas import tables
from gifdex.schemas.errors import CorruptIndexError, QueryError
from gifdex.schemas.manifest import TextRecord

if TYPE_CHECKING:
    from tests.index.conftest import VectorMaker, VersionMaker

ROWS: Sequence[tuple[str, str | None, str | None]] = (
    ("cat_piano", "A cat playing the piano", '{"tags": ["animal", "Music"], "title": "Nora"}'),
    ("a/big-wave.2", "A big ocean wave", '{"tags": "sea"}'),
    ("ice", "A man eats ice cream", None),
    ("cream", "Cream and ice on a table", '{"title": ["Ice", "Cream", 7]}'),
    ("cafe", "Ein Café in Ångström", None),
    ("ja", "猫がピアノを弾く", None),
    ("th", "แมวเล่นเปียโน", None),
    ("hi", "हिन्दी भाषा", None),
    ("none", None, None),
    ("cat_again", "A cat playing the piano", None),
)
IDS = [key for key, _, _ in ROWS]
TEXT = {"text": 1}


def table(rows: Sequence[tuple[str, str | None, str | None]]) -> pa.Table:
    """Return items with ids, captions and metadata."""
    own = [
        {"id": key, "uri": f"{key}.gif", "sha256": f"{place:064x}", "caption": caption, "metadata": metadata}
        for place, (key, caption, metadata) in enumerate(rows)
    ]
    return pa.Table.from_pylist(own, schema=tables.ITEMS)


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory, make_version: VersionMaker, clustered: VectorMaker) -> Path:
    """A version of the rows above, whose text has the column title too."""
    folder = tmp_path_factory.mktemp("worded") / "00000000000000ab"
    vectors = clustered(len(ROWS))
    captions = unit(vectors + np.roll(vectors, 1, axis=0))
    captions[8] = np.nan
    return make_version(folder, vectors, fields={"caption": captions}, items=table(ROWS), text_columns=["title"])


@pytest.fixture(scope="module")
def words(worded: Path) -> Index:
    """That version, opened once."""
    return gifdex.open(worded)


def found(index: Index, sentence: str, k: int = 10, **options: Any) -> list[str]:
    return [hit.id for hit in index.search(sentence, k, **{"fields": TEXT, **options})]


@pytest.mark.parametrize(
    ("sentence", "ids"),
    [
        ("piano", ["cat_piano", "cat_again"]),
        ("PIANO!", ["cat_piano", "cat_again"]),
        ("music", ["cat_piano"]),
        ("nora", ["cat_piano"]),
        ("wave", ["a/big-wave.2"]),
        ("2", ["a/big-wave.2"]),
        ("7", ["cream"]),
        ("cafe", ["cafe"]),
        ("CAFÉ", ["cafe"]),
        ("cafe\u0301", ["cafe"]),
        ("angstrom", ["cafe"]),
        ("猫", ["ja"]),
        ("ピアノ", ["ja"]),
        ("犬", []),
        ("แมว", ["th"]),
        ("भाषा", ["hi"]),
        ("भष", []),
        ("nothing", []),
        ('"ice cream"', ["ice", "cream"]),
        ("“big ocean”", ["a/big-wave.2"]),
        ('cream "eats ice"', ["ice"]),
        ('"cat" "music"', ["cat_piano"]),
        ('"cat" "wave"', []),
        ('"piano the"', []),
        ('piano "', ["cat_piano", "cat_again"]),
    ],
)
def test_words_find_their_items(words: Index, sentence: str, ids: list[str]) -> None:
    assert sorted(found(words, sentence)) == sorted(ids)


def test_bm25_ranks_and_copies_come_in_item_order(words: Index) -> None:
    hits = words.search("eats ice cream with a wave", fields=TEXT)
    assert hits[0].id == "ice"
    assert {hit.id for hit in hits} == set(IDS[:4]) | {"cat_again"}  # those with "a" too
    assert all(hit.score > 0 for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert found(words, "A cat playing the piano", 1) == ["cat_again"]  # shorter: it has no tags


def test_words_of_most_items_count_only_without_rarer_ones(tmp_path: Path) -> None:
    rows = [(f"k{place}", "a cat" if place < 6 else "a dog", None) for place in range(10)]
    record = text_file.write(tmp_path / "text.sqlite", table(rows))
    assert record is not None
    opened = text_file.TextFile(tmp_path / "text.sqlite", record, 10)
    assert opened.matches(["A", "dog", "cat"])[0].tolist() == [6, 7, 8, 9]
    assert opened.matches(["cat"])[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert opened.matches(["A", "cat"])[0].tolist() == list(range(10))
    assert opened.having(["a", "cat"]).tolist() == [0, 1, 2, 3, 4, 5]


def test_scores_are_those_of_fts5(words: Index, worded: Path) -> None:
    database = sqlite3.connect(f"file:{worded / 'text.sqlite'}?mode=ro", uri=True)
    rows = database.execute("SELECT rowid, bm25(words) FROM words WHERE words MATCH 'ice OR wave'").fetchall()
    expected = {IDS[item]: -score for item, score in rows}
    assert {hit.id: hit.score for hit in words.search("ice wave", fields=TEXT)} == pytest.approx(expected)
    doubled = {hit.id: hit.score for hit in words.search("ice wave", fields={"text": 2})}
    assert doubled == pytest.approx({key: 2 * score for key, score in expected.items()})
    database.close()


def test_the_usual_options_count(words: Index) -> None:
    assert found(words, "cat cream ice", 1) == found(words, "cat cream ice")[:1]
    assert found(words, "cat ice", where={"id": ["ice", "none"]}) == ["ice"]
    highest = words.search("ice", fields=TEXT)[0].score
    assert len(found(words, "ice", min_score=highest)) < len(found(words, "ice"))
    assert found(words, "ice", engine="fts", exact=True) == found(words, "ice")
    both = words.search(["ice", "wave"], 2, fields=TEXT)
    assert both == [words.search("ice", 2, fields=TEXT), words.search("wave", 2, fields=TEXT)]
    assert words.search([], fields=TEXT) == []


def test_no_part_of_a_query_is_syntax(words: Index) -> None:
    for sentence in ("c0:piano", "piano*", "^piano", "{c0} : piano", "NEAR(piano)", "piano NOT cat", "x' OR 1 piano"):
        assert "cat_piano" in found(words, sentence), sentence
    assert found(words, "pia*") == []
    assert found(words, "a\0b piano")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(sentence=st.text(max_size=30) | st.text(alphabet="\"'*()^:-+{} ANDORNTE\0", max_size=30))
def test_any_text_is_answered_or_has_no_words(words: Index, sentence: str) -> None:
    try:
        hits = words.search(sentence, fields=TEXT)
    except QueryError:
        hits = []
    assert {hit.id for hit in hits} <= set(IDS)


def test_thousands_of_words_are_answered(words: Index) -> None:
    assert found(words, " ".join(f"x{number}" for number in range(20_000)) + " wave") == ["a/big-wave.2"]


def test_what_words_cannot_answer_is_one_clear_error(words: Index, index: Index) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"query": np.ones(16)}, "the field text has words and no vectors, but the query is a vector"),
        ({"query": "?!"}, r"the sentence '\?!' has no words; expected letters or digits"),
        ({"syntax": "terms"}, "syntax='terms' makes a vector of the query, but the field text has words"),
        ({"engine": "annoy"}, "the field text has no engine 'annoy', only fts"),
        ({"fusion": "borda"}, "fusion is 'borda'; expected 'ranks' or 'scores'"),
        ({"fields": {"text": -1}}, "the weight of the field text is -1"),
        ({"fields": {"text": 0}}, "are all 0"),
        ({"fields": {"text": 1, "sound": 1}}, "no field 'sound'"),
        ({"fields": {"text": 1, "image": 1}, "min_score": 0.2}, "min_score is 0.2, but fused by ranks no score is"),
    ]
    for options, message in cases:
        asked: dict[str, Any] = {"query": "cat", "fields": TEXT, **options}
        with pytest.raises(QueryError, match=message):
            words.search(asked.pop("query"), **asked)
    with pytest.raises(QueryError, match=r"has no field 'text', only image: build it again"):
        index.search("cat", fields=TEXT)
    with pytest.raises(QueryError, match="the field text has words and no vectors: search it by a sentence"):
        words.similar(id="ice", fields=TEXT)
    assert words.fields == ("image", "caption", "text")


def test_words_are_split_from_phrases() -> None:
    own = read_words('A cat, a "Red  car." and „two dogs“ "')
    assert (own.words, own.phrases) == (("A", "cat", "and"), ("Red car", "two dogs"))
    assert own.plain.split() == ["A", "cat,", "a", "Red", "car.", "and", "two", "dogs"]


def brute_force(words: Index, sentence: str, weights: dict[str, float], depth: int = 100) -> dict[str, float]:
    """Fuse by ranks as the docs say, one field at a time."""
    scores: dict[str, float] = {}
    for name, weight in weights.items():
        hits = words.search(sentence, depth, fields={name: 1})
        for hit in hits:
            rank = 1 + sum(other.score > hit.score for other in hits)
            scores[hit.id] = scores.get(hit.id, 0) + weight / (60 + rank)
    return scores


@pytest.mark.parametrize("weights", [{"text": 1, "image": 1}, {"image": 0.5, "caption": 2, "text": 3}])
def test_ranks_are_fused_by_default(words: Index, weights: dict[str, float]) -> None:
    sentence = "a cat eats cream"
    expected = brute_force(words, sentence, weights)
    hits = words.search(sentence, 20, fields=weights)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(expected)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits == words.search(sentence, 20, fields=weights, fusion="ranks")
    assert hits[:2] == words.search(sentence, 2, fields=weights)


def test_fields_of_vectors_can_be_fused_by_ranks_too(words: Index) -> None:
    weights = {"image": 1.0, "caption": 2.0}
    hits = words.search("a cat", 20, fields=weights, fusion="ranks")
    assert {hit.id: hit.score for hit in hits} == pytest.approx(brute_force(words, "a cat", weights))
    vector = words.embed(["a cat"])[0]
    assert words.search(vector, 20, fields=weights, fusion="ranks") == hits
    assert words.search("a cat", fields=weights, fusion="scores") == words.search("a cat", fields=weights)
    assert words.search("cat", 3, fusion="ranks", syntax="terms")[0].score == pytest.approx(1 / 61)


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"where": {"id": IDS[:6]}}])
def test_scores_are_fused_on_request(words: Index, options: dict[str, Any]) -> None:
    sentence, weights = "a cat eats cream", {"image": 1, "caption": 0.5, "text": 3}
    cosines = {hit.id: hit.score for hit in words.search(sentence, 20, fields={"image": 1, "caption": 0.5}, **options)}
    matches = words.search(sentence, 20, fields=TEXT, **options)
    best = words.search(sentence, 1, fields=TEXT)[0].score  # of all items, whatever the filter
    expected = cosines | {hit.id: cosines[hit.id] + 3 * hit.score / best for hit in matches}
    hits = words.search(sentence, 20, fields=weights, fusion="scores", **options)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(expected)
    assert hits[:2] == words.search(sentence, 2, fields=weights, fusion="scores", **options)


@pytest.mark.parametrize("fusion", ["ranks", "scores"])
def test_a_phrase_must_occur_in_fused_results_too(words: Index, fusion: str) -> None:
    both = {"image": 1, "text": 1}
    assert set(found(words, 'a "cat playing" something', fields=both, fusion=fusion)) == {"cat_piano", "cat_again"}
    assert found(words, '"cat playing"', fields=both, fusion=fusion, where={"id": "cat_again"}) == ["cat_again"]
    assert found(words, '"cat flying"', fields=both, fusion=fusion) == []
    assert len(found(words, "?!", fields=both, fusion=fusion)) == 10  # no words: the vectors answer


def test_fused_ranks_share_a_rank_among_equal_scores() -> None:
    first = (np.array([4, 2, 7]), np.array([0.9, 0.9, 0.1]))
    second = (np.array([7]), np.array([5.0]))
    items, scores = fused_ranks([(1, first), (2, second)], 10)
    assert items.tolist() == [7, 2, 4]
    assert scores == pytest.approx([1 / 63 + 2 / 61, 1 / 61, 1 / 61])
    assert len(fused_ranks([], 3)[0]) == 0


def test_words_need_no_text_encoder(worded: Path, tmp_path: Path) -> None:
    index = gifdex.open(worded, text_encoder=f"glove:{tmp_path / 'absent.txt'}")
    assert found(index, "piano", 1) == ["cat_piano"] or found(index, "piano", 1) == ["cat_again"]
    with pytest.raises(gifdex.GifdexError, match=r"absent\.txt"):
        index.search("piano")


def test_threads_ask_one_index_at_once(worded: Path) -> None:
    index = gifdex.open(worded)
    expected = found(index, "cat ice wave")
    with ThreadPoolExecutor(8) as pool:
        assert all(ids == expected for ids in pool.map(lambda _: found(index, "cat ice wave"), range(64)))


def test_the_same_items_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        record = text_file.write(tmp_path / name, table(ROWS), ["title"])
        assert record == TextRecord(name, len(ROWS), ("caption", "id", "tags", "title"), sqlite3.sqlite_version)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_full_disk_is_one_error_that_names_the_file(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"text\.sqlite"):
            text_file.write(tmp_path / "text.sqlite", table(ROWS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.iterdir())


def test_a_warm_index_outlives_its_version(worded: Path, damaged: Callable[[bytes], Path]) -> None:
    version = damaged((worded / "text.sqlite").read_bytes())
    index = gifdex.open(version)
    index.warm_up()
    shutil.rmtree(version)
    assert found(index, "wave") == ["a/big-wave.2"]


def test_items_without_words_make_no_file(tmp_path: Path) -> None:
    path = tmp_path / "text.sqlite"
    path.write_bytes(b"left by an earlier attempt")
    assert text_file.write(path, table([("--", None, None), ("...", "!", '{"tags": []}')])) is None
    assert not path.exists()


def test_metadata_that_are_not_text_are_written_all_the_same(tmp_path: Path) -> None:
    rows = [
        ("a", None, '{"x": {"b": [1.5, true, null]}, "tags": ["\\ud800", 3, null]}'),
        ("b", "\0", '{"x": "\\u0000q"}'),
    ]
    record = text_file.write(tmp_path / "text.sqlite", table(rows), ["x", "id"])
    assert record is not None
    opened = text_file.TextFile(tmp_path / "text.sqlite", record, 2)
    assert [opened.matches([word])[0].tolist() for word in ("true", "3", "q", "a")] == [[0], [0], [1], [0]]


@pytest.fixture
def damaged(worded: Path, tmp_path: Path) -> Callable[[bytes], Path]:
    """Return a function that copies the version with other bytes as its text."""

    def make(data: bytes) -> Path:
        version = tmp_path / worded.name
        version.mkdir(exist_ok=True)
        for path in worded.iterdir():
            (version / path.name).write_bytes(data if path.name == "text.sqlite" else path.read_bytes())
        return version

    return make


def test_a_damaged_file_is_found(worded: Path, damaged: Callable[[bytes], Path]) -> None:
    data = (worded / "text.sqlite").read_bytes()
    with pytest.raises(CorruptIndexError, match=r"text\.sqlite has 100 bytes, but the manifest says"):
        gifdex.open(damaged(data[:100]))
    changed = bytearray(data)
    changed[5000] ^= 255
    with pytest.raises(CorruptIndexError, match=r"text\.sqlite has SHA-256"):
        gifdex.open(damaged(bytes(changed)), verify=True)
    for wrong, message in [(b"x" * len(data), "not a database"), (data[:68] + b"abcd" + data[72:], "application id")]:
        index = gifdex.open(damaged(wrong))
        with pytest.raises(CorruptIndexError, match=rf"cannot read .*text\.sqlite: .*{message}.*restore the file or"):
            index.search("cat", fields=TEXT)
        assert index.search("cat", 1)  # the other fields answer


def test_a_file_with_a_view_is_refused(worded: Path, tmp_path: Path, words: Index) -> None:
    path = tmp_path / "text.sqlite"
    path.write_bytes((worded / "text.sqlite").read_bytes())
    database = sqlite3.connect(path)
    database.executescript(
        "DROP TABLE common; CREATE VIEW common AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
        "SELECT 'w' AS word FROM n"
    )
    database.close()
    assert words.manifest.text is not None
    opened = text_file.TextFile(path, words.manifest.text, len(ROWS))
    with pytest.raises(CorruptIndexError, match="it has views or triggers; expected tables"):
        opened.matches(["cat"])


def test_altered_bytes_are_answers_or_errors(worded: Path, tmp_path: Path, words: Index) -> None:
    data, record = (worded / "text.sqlite").read_bytes(), words.manifest.text
    assert record is not None
    random = np.random.default_rng(5)
    for number in range(300):
        changed = bytearray(data)
        for place in random.integers(0, len(data), 1 + number % 20):
            changed[place] = random.integers(256)
        path = tmp_path / "text.sqlite"
        path.write_bytes(bytes(changed))
        opened = text_file.TextFile(path, record, len(ROWS))
        try:
            items, scores = opened.matches(["cat", "ice cream", "猫"])
            opened.having(["cat", "piano"])
        except CorruptIndexError:
            continue
        assert ((items >= 0) & (items < len(ROWS))).all()
        assert np.isfinite(scores).all()


def test_a_file_that_is_changed_in_place_is_noticed(damaged: Callable[[bytes], Path], worded: Path) -> None:
    version = damaged((worded / "text.sqlite").read_bytes())
    index = gifdex.open(version)
    assert found(index, "wave")
    with (version / "text.sqlite").open("r+b") as stream:
        stream.truncate(4096)
    with pytest.raises(CorruptIndexError, match="was changed in place"):
        found(index, "wave")


def test_the_manifests_record_is_checked(worded: Path, damaged: Callable[[bytes], Path]) -> None:
    version = damaged((worded / "text.sqlite").read_bytes())
    manifest = artifact.read_manifest(version)
    record = manifest.text
    assert record is not None
    for wrong, message in [
        (replace(record, items=0), "has words of 0 items, but there are 10"),
        (replace(record, items=11), "has words of 11 items"),
        (replace(record, columns=()), "has no columns"),
    ]:
        (version / "manifest.json").write_text(replace(manifest, text=wrong).to_json())
        with pytest.raises(CorruptIndexError, match=message):
            gifdex.open(version)
    (version / "manifest.json").write_text(replace(manifest, text=replace(record, file="x")).to_json())
    with pytest.raises(CorruptIndexError, match="uses x but gives no hash for it"):
        gifdex.open(version)


def test_many_items_equal_a_scan_of_python(tmp_path: Path, make_version: VersionMaker, clustered: VectorMaker) -> None:
    random = np.random.default_rng(3)
    vocabulary = [f"w{number}" for number in range(50)]
    captions = [" ".join(random.choice(vocabulary, 5)) for _ in range(700)]
    rows = [(f"k{place}", caption, None) for place, caption in enumerate(captions)]
    vectors: FloatArray = clustered(700)
    version = make_version(tmp_path / "00000000000000ac", vectors, (400, 300), items=table(rows), text_columns=[])
    index = gifdex.open(version)
    for _ in range(5):
        asked = random.choice(vocabulary, 3).tolist()
        expected = {key for key, caption, _ in rows if set(asked) & set((caption or "").split())}
        assert set(found(index, " ".join(asked), 700)) == expected
        both = index.search(" ".join(asked), 7, fields={"image": 1, "text": 1})
        fused = brute_force(index, " ".join(asked), {"image": 1, "text": 1})
        assert [hit.score for hit in both] == pytest.approx(sorted(fused.values(), reverse=True)[:7])


def test_no_queries_have_no_answers(words: Index) -> None:
    assert words.search([], syntax="terms") == []


def test_grouping_changes_no_score(tmp_path: Path, make_version: VersionMaker, clustered: VectorMaker) -> None:
    images, captions = clustered(500), np.roll(clustered(500), 7, axis=0)
    index = gifdex.open(make_version(tmp_path / "00000000000000fe", images, fields={"caption": captions}))
    options: dict[str, Any] = {"fields": {"image": 1, "caption": 1}, "fusion": "ranks"}
    alone = index.search(images[3], 90, **options)
    assert [hit[:2] for hit in index.search(images[3], 90, group=1.0, **options)] == [hit[:2] for hit in alone]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": {"text": 1, "nosuch": 0}}, "has no field 'nosuch'"),
        ({"fields": {"text": 1}, "min_percentile": 0.5}, "but the search is in text: use min_score"),
        ({"fusion": "ranks", "min_percentile": 0.5}, "is in image, fused by ranks: use min_score"),
    ],
)
def test_what_is_searched_is_named_in_errors(words: Index, options: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        words.search("a cat", **options)
