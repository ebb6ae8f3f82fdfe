"""The compiled kernels compared with plain numpy, and the arguments that they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.index import kernels
from gifdex.index.reduction import Reduction

ROUNDING = 1e-5


def rescored(vectors: Any, rows: Any, query: Any, k: int) -> tuple[list[int], list[float]]:
    found, scores = np.empty(min(k, len(rows)), np.int64), np.empty(min(k, len(rows)))
    count = kernels.rescore(vectors, rows, query, k, ROUNDING, found, scores)
    return found[:count].tolist(), scores[:count].tolist()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 200),
    d=st.integers(1, 200),
    k=st.integers(1, 250),
    distinct=st.sampled_from([1, 3, 1000]),
)
def test_rescoring_equals_float64_products_with_ties_in_row_order(
    seed: int, n: int, d: int, k: int, distinct: int
) -> None:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((distinct, d)).astype(np.float32)[random.integers(0, distinct, n)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = (vectors[0] + random.normal(0, 1e-4, d)).astype(np.float32)  # so that many scores are close
    rows = random.permutation(n)[: random.integers(0, n + 1)]
    found, scores = rescored(vectors, rows, query, k)
    exact = vectors.astype(np.float64) @ query.astype(np.float64)
    assert len(found) == min(k, len(rows))
    assert scores == pytest.approx(exact[found].tolist(), abs=1e-12)
    assert len(set(found)) == len(found)
    assert set(found) <= set(rows.tolist())
    least = np.sort(exact[rows])[::-1][: len(found)]
    np.testing.assert_allclose(scores, least, atol=1e-12)
    assert all(
        first > second or (first == second and row < other)
        for first, second, row, other in zip(scores, scores[1:], found, found[1:], strict=False)
    )


def test_a_score_depends_only_on_the_vector() -> None:
    random = np.random.default_rng(0)
    vectors = np.repeat(random.standard_normal((3, 77)).astype(np.float32), 20, axis=0)
    query = random.standard_normal(77).astype(np.float32)
    found, scores = rescored(vectors, np.arange(60), query, 60)
    assert len(set(scores)) == 3
    for row, score in zip(found, scores, strict=True):
        assert rescored(vectors, np.array([row]), query, 1) == ([row], [score])


def test_products_closer_than_float32_resolution_are_ranked_correctly() -> None:
    # Neighbouring products differ by 1e-9.
    vectors = np.zeros((50, 4), np.float32)
    vectors[:, 0], vectors[:, 1] = 1, np.arange(50, dtype=np.float32)[::-1]
    found, scores = rescored(
        vectors, np.random.default_rng(1).permutation(50), np.array([1, 1e-9, 0, 0], np.float32), 5
    )
    assert found == [0, 1, 2, 3, 4]
    assert scores == sorted(set(scores), reverse=True)


@pytest.mark.parametrize("rows", [[-1], [5], [2**62], [0, 1, -(2**63)], [3, 3]])
def test_invalid_or_repeated_rows_are_refused(rows: list[int]) -> None:
    with pytest.raises(IndexError):
        rescored(np.eye(5, dtype=np.float32), np.array(rows), np.ones(5, np.float32), 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_vectors_whose_products_are_not_finite_are_refused(value: float) -> None:
    vectors = np.ones((6, 200), np.float32)
    vectors[4] = value
    with pytest.raises(FloatingPointError):
        rescored(vectors, np.arange(6), np.full(200, 2, np.float32), 2)


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    vectors, query, rows = np.ones((6, 8), np.float32), np.ones(8, np.float32), np.arange(6)
    short, scores = np.empty(2, np.int64), np.empty(3)
    for arguments in (
        (vectors, rows, query, 3, ROUNDING, short, scores),
        (vectors, rows, query, 0, ROUNDING, short, scores),
        (vectors, rows, query[:7], 1, ROUNDING, short, scores),
        (vectors, rows, query[:0], 1, ROUNDING, short, scores),
    ):
        with pytest.raises(ValueError, match=r"do not match|expected 24"):
            kernels.rescore(*arguments)
    with pytest.raises(ValueError, match="do not have this many dimensions"):
        kernels.normalize(np.ones(7), 8, 0.0, 1.0, np.empty(8, np.float32))


def sections(n: int, d: int) -> Any:
    """Return the sections of a graph without links, with room for two links at each node."""
    ends, upper = np.full((n, 2), 2**32 - 1, np.uint32), np.zeros((0, 1), np.uint32)
    return np.ones((n, d), np.int8), np.arange(n, dtype=np.uint32), np.zeros(n + 1, np.uint32), ends, upper


def test_a_graph_whose_sections_do_not_fit_together_is_refused() -> None:
    queries, found, counts = np.ones((2, 3), np.float32), np.empty((2, 1), np.int64), np.empty(2, np.int64)
    good = sections(4, 3)
    layout = (3, 2, 1, 0, 0)
    kernels.search_graph(good, layout, queries, None, 1, 1, found, counts)
    assert (found.tolist(), counts.tolist()) == ([[0], [0]], [1, 1])
    bad: list[Any] = [
        (tuple(one[:-1] if i == place else one for i, one in enumerate(good)), layout) for place in range(4)
    ]
    bad += [(good, other) for other in [(2, 2, 1, 0, 0), (3, 1, 1, 0, 0), (3, 2, 5000, 0, 0), (3, 2, 1, -1, 0)]]
    bad += [(good, (3, 2, 1, 0, 4)), (good, (3, 2, 1, 0, -1)), (sections(0, 3), layout)]
    for parts, numbers in bad:
        with pytest.raises(ValueError, match="do not match"):
            kernels.search_graph(parts, numbers, queries, None, 1, 1, found, counts)
    for expansion, count in ((0, 0), (1, 2), (1, 0)):
        with pytest.raises(ValueError, match="do not match"):
            kernels.search_graph(good, layout, queries, None, expansion, count, found, counts)
    file = np.zeros(9, np.uint8), np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="do not match"):
        kernels.search_usearch_graph(file, (2, 1, 1, 0, 0), queries, None, 1, 1, found, counts)


def test_excluded_rows_and_outputs_must_match_the_number_of_queries() -> None:
    queries, found, counts = np.ones((2, 3), np.float32), np.empty((2, 1), np.int64), np.empty(2, np.int64)
    arguments = sections(4, 3), (3, 2, 1, 0, 0), queries
    with pytest.raises(ValueError, match="number of rows to leave out is not"):
        kernels.search_graph(*arguments, np.zeros(1, np.int64), 1, 1, found, counts)
    for short in ((found[:1], counts), (found, counts[:1])):
        with pytest.raises(ValueError, match="expected 16"):
            kernels.search_graph(*arguments, None, 1, 1, *short)
    kernels.search_graph(*arguments, np.array([0, 1]), 1, 1, found, counts)
    assert counts.tolist() == [0, 1]


def test_normalize_stops_at_the_first_invalid_vector() -> None:
    wide = np.random.default_rng(2).standard_normal((5, 33)) * 1e30
    narrow = np.zeros((5, 33), np.float32)
    assert kernels.normalize(wide, 33, 1e-200, 1e200, narrow) == 5
    np.testing.assert_array_equal(narrow, (wide / np.linalg.norm(wide, axis=1)[:, None]).astype(np.float32))
    for odd in (0.0, np.nan, np.inf, 1e150):
        wide[3] = odd
        assert kernels.normalize(wide, 33, 1e-200, 1e200, narrow) == 3


@pytest.mark.parametrize(("n", "d", "r"), [(1, 1, 1), (3, 77, 20), (2, 1024, 5)])
def test_reducing_multiplies_by_the_directions(n: int, d: int, r: int) -> None:
    random = np.random.default_rng(3)
    directions = np.linalg.qr(random.standard_normal((d, d)))[0][:, : min(r, d)].astype(np.float32)
    queries = random.standard_normal((n, d)).astype(np.float32) * np.float32(1e-3)
    found = Reduction(directions, 1, n).for_queries(directions.shape[1])(queries)
    lengths = np.linalg.norm(queries, axis=1)[:, None]
    np.testing.assert_allclose(found / lengths, queries @ directions / lengths, atol=5e-4)
    assert found.dtype == np.float32


def test_reducing_a_vector_parallel_to_a_direction_does_not_overflow() -> None:
    for d in (1, 64, 4096):
        same = np.full((1, d), 1 / np.sqrt(d), np.float32)
        found = Reduction(same.T.copy(), 1, 1).for_queries(1)(same)
        assert found.tolist() == [[pytest.approx(1, abs=0.01)]]


def test_valid_text_is_read_and_invalid_text_is_refused() -> None:
    words = ["", "häß", "cat", "dog"]
    data = "".join(words).encode()
    kinds: list[tuple[bool, Any]] = [(True, np.int64), (False, np.int32)]
    for wide, kind in kinds:
        offsets = np.cumsum([0, *(len(word.encode()) for word in words)]).astype(kind).tobytes()
        rows = np.array([3, 1, 1, 0])
        assert kernels.texts(offsets, wide, data, None, 0, rows) == ["dog", "häß", "häß", ""]
        assert kernels.texts(offsets, wide, data, None, 1, rows[1:]) == ["cat", "cat", "häß"]
        assert kernels.texts(offsets, wide, data, b"\x05", 0, rows) == [None, None, None, ""]
        for row in (-1, 4, 2**62):
            with pytest.raises(ValueError, match="outside the column"):
                kernels.texts(offsets, wide, data, None, 0, np.array([row]))
        with pytest.raises(ValueError, match="outside the column"):  # fewer bits than rows
            kernels.texts(np.zeros(20, kind).tobytes(), wide, data, b"\xff", 0, np.array([8]))
        for first, second in ((-1, 3), (3, 2), (0, 99)):
            with pytest.raises(ValueError, match="outside the file"):
                kernels.texts(np.array([first, second], kind).tobytes(), wide, data, None, 0, np.array([0]))
        with pytest.raises(UnicodeDecodeError):
            kernels.texts(np.array([0, 2], kind).tobytes(), wide, data, None, 0, np.array([0]))
