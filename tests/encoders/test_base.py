"""Fingerprints and unit vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gifdex.encoders.base import FloatArray, encode_known, fingerprint, unit
from gifdex.schemas.errors import UnknownWordsError

_values = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
_recipes = st.dictionaries(st.text(max_size=8), _values, max_size=6)


def test_a_fingerprint_is_the_start_of_the_sha256_of_canonical_json() -> None:
    # Fingerprints are cache keys: another value means encoding every corpus again.
    # printf '{"a":null,"b":[1,2.5,"\\u00e9"]}' | sha256sum
    assert fingerprint({"b": [1, 2.5, "é"], "a": None}) == "d4e7b7ea1f785bca"


@settings(max_examples=50, deadline=None, derandomize=True)
@given(recipe=_recipes)
def test_the_order_of_keys_does_not_matter(recipe: dict[str, object]) -> None:
    assert fingerprint(recipe) == fingerprint(dict(reversed(recipe.items())))
    assert len(bytes.fromhex(fingerprint(recipe))) == 8


@settings(max_examples=50, deadline=None, derandomize=True)
@given(one=_recipes, other=_recipes)
def test_only_equal_recipes_have_equal_fingerprints(one: dict[str, object], other: dict[str, object]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(one) == fingerprint(other)) == same


_rows = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 5), st.integers(1, 9)), elements=st.floats(-(2.0**100), 2.0**100, width=32)
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows=_rows)
def test_unit_rows_have_length_one_and_keep_their_direction_and_zero_stays_zero(rows: np.ndarray) -> None:
    result = unit(rows)
    assert result.dtype == np.float32
    assert result.shape == rows.shape
    zero = ~rows.any(axis=1)
    assert not result[zero].any()
    wide = rows[~zero].astype(np.float64)
    lengths = np.linalg.norm(result[~zero].astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-6)
    np.testing.assert_allclose(result[~zero], wide / np.linalg.norm(wide, axis=1)[:, None], rtol=1e-6, atol=1e-40)


class Lengths:
    """A text encoder that knows sentences of more than two letters and returns their lengths."""

    name, dimensions, fingerprint = "lengths", 1, "f" * 16

    def __call__(self, sentences: Sequence[str]) -> FloatArray:
        if short := [place for place, sentence in enumerate(sentences) if len(sentence) < 3]:
            raise UnknownWordsError("too short", positions=short)
        return np.array([[len(sentence)] for sentence in sentences], np.float32).reshape(-1, 1)


def test_sentences_without_a_known_word_are_left_out_at_any_position() -> None:
    places, vectors = encode_known(Lengths(), ["a", "four", "b", "c", "seventy", ""])
    assert places == [1, 4]
    assert vectors.tolist() == [[4], [7]]
    assert encode_known(Lengths(), ["four"])[0] == [0]
    nothing, empty = encode_known(Lengths(), ["a", "b"])
    assert nothing == []
    assert empty.shape == (0, 1)


def test_unit_accepts_single_vectors_and_stacks() -> None:
    np.testing.assert_allclose(unit(np.array([3, 4])), [0.6, 0.8], rtol=1e-6)
    assert unit(np.ones((2, 3, 4))).shape == (2, 3, 4)
