"""The reduction: when it is fitted, and how it is read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gifdex.encoders.base import FloatArray
from gifdex.index import reduction
from gifdex.schemas.errors import CorruptIndexError


def test_a_reduction_is_fitted_only_where_the_spectrum_falls(spectral: Callable[..., FloatArray]) -> None:
    random = np.random.default_rng(0)
    flat = random.standard_normal((2000, 128)).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    assert reduction.fit(flat) is None
    assert reduction.fit(spectral(2000, 64)) is None
    found = reduction.fit(spectral(2000, 256))
    assert found is not None
    kept = np.sum((spectral(2000, 256) @ found.directions) ** 2) / 2000
    assert 0.9 <= kept <= 0.98
    assert found.scanned % 16 == 0
    assert np.sum((spectral(2000, 256) @ found.leading(found.scanned)) ** 2) / 2000 >= 0.75


def test_the_largest_component_of_each_direction_is_positive(spectral: Callable[..., FloatArray]) -> None:
    found = reduction.fit(spectral(2000, 256))
    assert found is not None
    np.testing.assert_array_equal(found.directions.max(axis=0), np.abs(found.directions).max(axis=0))


def test_a_reduction_is_read_back_exactly_and_only_with_the_right_dimensions(
    tmp_path: Path, spectral: Callable[..., FloatArray]
) -> None:
    assert reduction.fit(spectral(1000, 256)) is None  # too few rows for a fit
    found = reduction.fit(spectral(1100, 256))
    assert found is not None
    found.save(tmp_path / "r.safetensors")
    again = reduction.load(tmp_path / "r.safetensors", 256, found.directions.shape[1])
    np.testing.assert_array_equal(again.directions, found.directions)
    assert (again.scanned, again.sample) == (found.scanned, 1100)
    for dimensions, kept in ((255, None), (256, 1)):
        with pytest.raises(CorruptIndexError, match="expected directions of length one, float32 of shape"):
            reduction.load(tmp_path / "r.safetensors", dimensions, kept)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 2.0, 0.0])
def test_directions_that_are_not_unit_vectors_are_refused(
    tmp_path: Path, spectral: Callable[..., FloatArray], value: float
) -> None:
    found = reduction.fit(spectral(1100, 256))
    assert found is not None
    found.directions[17] = value
    found.save(tmp_path / "r.safetensors")
    with pytest.raises(CorruptIndexError, match="expected directions of length one"):
        reduction.load(tmp_path / "r.safetensors", 256)
