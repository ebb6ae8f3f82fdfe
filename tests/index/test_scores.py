"""Selecting the highest of many scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.index.scores import check_finite, highest
from gifdex.schemas.errors import CorruptIndexError


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 3000),
    share=st.floats(0.0, 0.999),
    distinct=st.sampled_from([1, 2, 5, 10**9]),
)
def test_highest_contains_the_highest_scores_and_few_others(seed: int, n: int, share: float, distinct: int) -> None:
    random = np.random.default_rng(seed)
    scores = (random.integers(0, distinct, n) / distinct).astype(np.float32)
    count = max(1, int(share * n))
    found = highest(scores, count)
    assert count <= len(found) <= 2 * count
    assert (np.diff(found) > 0).all()
    assert np.sort(scores[found])[::-1][:count].tolist() == np.sort(scores)[::-1][:count].tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_nan_are_refused(value: float) -> None:
    scores = np.zeros(3000, np.float32)
    check_finite(scores)
    scores[1234] = value
    for check in (check_finite, lambda odd: highest(odd, 5)):
        with pytest.raises(CorruptIndexError, match="vectors that are not finite"):
            check(scores)
