"""Weighted words: the grammar, the errors that say where, and the vector that they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.encoders.base import FloatArray, unit
from gifdex.index.lookup import Index
from gifdex.index.queries.terms import Term, embed_terms, parse
from gifdex.schemas.errors import QueryError, UnknownWordsError

VECTORS = {
    "cat": np.array([1, 0, 0], np.float32),
    "sofa": np.array([0, 1, 0], np.float32),
    "dog": np.array([0, 0, 1], np.float32),
    "ice cream": np.array([0.6, 0.8, 0], np.float32),
}


def embed(sentences: Sequence[str]) -> FloatArray:
    """Embed the four terms above."""
    unknown = [place for place, sentence in enumerate(sentences) if sentence not in VECTORS]
    if unknown:
        raise UnknownWordsError("no known word", positions=unknown)
    return np.array([VECTORS[sentence] for sentence in sentences])


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("cat", [("cat", 1)]),
        ('cat:2 sofa -dog "ice cream"', [("cat", 2), ("sofa", 1), ("dog", -1), ("ice cream", 1)]),
        ('-"ice cream":2 t-shirt:.5', [("ice cream", -2), ("t-shirt", 0.5)]),
        ('  "3:15":2.5\tü ', [("3:15", 2.5), ("ü", 1)]),
        ('"  ice   cream "', [("ice cream", 1)]),
        ("“ice cream”:3.", [("ice cream", 3)]),
        ("cat cat", [("cat", 1), ("cat", 1)]),
        ("it's", [("it's", 1)]),
    ],
)
def test_terms_are_words_or_phrases_with_weights(query: str, terms: list[tuple[str, float]]) -> None:
    assert parse(query) == [Term(text, weight) for text, weight in terms]


@pytest.mark.parametrize(
    ("query", "piece", "position", "expected"),
    [
        ("sofa cat:", ":", 9, "a number after the colon"),
        ("cat:x", ":x", 4, "a number after the colon"),
        ("cat:2x", ":2x", 4, "a number after the colon"),
        ("cat:-2", ":-2", 4, "write -dog:2 to subtract"),
        ("cat:1e3", ":1e3", 4, "a number"),
        ("cat:٣", ":٣", 4, "a number"),
        ("cat:0", ":0", 4, "a weight above 0"),
        ("cat:1000001", ":1000001", 4, "up to 1,000,000"),
        ("cat -", "-", 5, "a word or a quoted phrase"),
        ("cat --dog", "--dog", 5, "a word or a quoted phrase"),
        (":2", ":2", 1, "a word or a quoted phrase"),
        ('cat "ice cream', '"ice', 5, "a second quotation mark"),
        ('cat -"ice', '-"ice', 5, "a second quotation mark"),
        ('cat ""', '""', 5, "words between the quotation marks"),
        ('cat"s"', '"s"', 4, "a space or a weight"),
        ('"ice"cream', "cream", 6, "a space or a weight"),
    ],
)
def test_a_malformed_query_says_where(query: str, piece: str, position: int, expected: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(query)
    assert f"{piece!r} at character {position}; expected " in str(caught.value)
    assert expected in str(caught.value)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(query=st.text(alphabet='ab -:"2.\t', max_size=20))
def test_any_text_is_parsed_or_refused(query: str) -> None:
    try:
        terms = parse(query)
    except QueryError:
        return
    assert any(term.weight > 0 for term in terms)
    again = " ".join(f'{"-" if term.weight < 0 else ""}"{term.text}":{abs(term.weight)}' for term in terms)
    assert parse(again) == terms


def test_terms_are_summed_with_their_weights_and_subtracted() -> None:
    (vector,) = embed_terms(embed, ['cat:2 sofa -dog:3 "ice cream"'])
    assert vector == pytest.approx(unit(np.array([2.6, 1.8, -3])))
    first, second = embed_terms(embed, ["cat -dog", "dog"])
    assert first == pytest.approx(unit(np.array([1, 0, -1])))
    assert second == pytest.approx(VECTORS["dog"])


def test_what_has_no_direction_is_refused() -> None:
    with pytest.raises(QueryError, match="only subtract; expected one without -"):
        embed_terms(embed, ["-dog"])
    with pytest.raises(QueryError, match="'cat -cat' cancel each other out"):
        embed_terms(embed, ["sofa", "cat -cat"])
    with pytest.raises(QueryError, match="cancel each other out"):
        embed_terms(embed, ['cat:3 sofa:4 -"ice cream":5'])


def test_a_term_that_the_encoder_does_not_know_is_named() -> None:
    with pytest.raises(UnknownWordsError, match=r"no word of the term 'qxyz', 'zyxq'") as caught:
        embed_terms(embed, ["cat", "sofa qxyz", "dog -zyxq"])
    assert caught.value.positions == (1, 2)


def test_an_index_is_searched_by_terms(index: Index) -> None:
    cat, dog = index.embed(["cat", "dog"]).astype(np.float64)
    vector = 2 * cat - dog
    expected = index.search(vector, 5)
    assert index.search("cat:2 -dog", 5, syntax="terms") == expected
    assert index.search(["dog", "cat:2 -dog"], 5, syntax="terms")[1] == expected
    (lone,) = index.search(["cat:3"], 3, syntax="terms")
    assert [hit.id for hit in lone] == [hit.id for hit in index.search("cat", 3)]


def test_a_sentence_stays_the_default(index: Index) -> None:
    sentence = 'cat:2 "dog" -sofa'
    assert index.search(sentence, 3) == index.search(sentence, 3, syntax="sentence")
    assert index.search(sentence, 3) == index.search(index.embed([sentence])[0], 3)


def test_another_syntax_is_refused(index: Index, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"syntax is 'lucene'; expected 'sentence' or 'terms'"):
        index.search("cat", syntax="lucene")
    with pytest.raises(QueryError, match="syntax is 'terms', but the query is a vector"):
        index.search(np.ones(16), syntax="terms")
    with pytest.raises(QueryError, match="the sentence is empty"):
        index.search(" ", syntax="terms")
