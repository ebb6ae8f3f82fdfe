"""The input of a graph's build: quantized vectors and their insertion order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.hnsw import insertion_order, quantized

ITEMS = 500


def test_quantized_vectors_preserve_the_order_of_their_products(spectral: Callable[..., FloatArray]) -> None:
    leading = np.ascontiguousarray(spectral(ITEMS, 64)[:, :16])
    found = quantized(leading)
    assert np.abs(found).max() == 127
    exact, rounded = leading @ leading.T, found.astype(np.float64) @ found.astype(np.float64).T
    scale = (127 / np.abs(leading).max()) ** 2
    np.testing.assert_allclose(rounded / scale, exact, atol=0.01)
    assert quantized(np.zeros((3, 4), np.float32)).tolist() == [[0] * 4] * 3


def test_insertion_order_has_every_row_once_and_groups_similar_rows(clustered: Callable[..., FloatArray]) -> None:
    stored = clustered(ITEMS)
    bytes_ = quantized(stored)
    order = insertion_order(bytes_)
    assert sorted(order.tolist()) == list(range(ITEMS))
    assert sorted(order[: ITEMS // 10].tolist()) == list(range(0, ITEMS, 10))
    rest = order[ITEMS // 10 :]
    following = np.einsum("ij,ij->i", stored[rest[:-1]], stored[rest[1:]]).mean()
    assert following > np.einsum("ij,ij->i", stored[:-1], stored[1:]).mean() + 0.3
    assert insertion_order(bytes_[:1]).tolist() == [0]
