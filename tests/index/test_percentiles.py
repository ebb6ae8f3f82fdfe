"""Percentiles of hits: how a build calibrates its scores, and searches that want a lowest percentile."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gifdex
from gifdex.encoders.base import FloatArray
from gifdex.index.calibration import LEVELS, MAX_ROWS
from gifdex.index.lookup import Index
from gifdex.schemas.errors import CorruptIndexError, QueryError

ITEMS, SENTENCES = 2500, 200
SENTENCE = "a cat playing the piano"
OTHERS = ["rain on a window", "two people dancing", "a dog in the snow"]
ROWS = list(range(0, ITEMS, 3))
Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def vectors(clustered: Callable[..., FloatArray]) -> FloatArray:
    return clustered(ITEMS)


@pytest.fixture(scope="module")
def scenes(clustered: Callable[..., FloatArray]) -> FloatArray:
    return clustered(SENTENCES, seed=5, spread=1.0)


@pytest.fixture(scope="module")
def index(
    tmp_path_factory: pytest.TempPathFactory, make_version: Maker, vectors: FloatArray, scenes: FloatArray
) -> Index:
    version = tmp_path_factory.mktemp("percentiles") / ("0" * 16)
    fields = {"caption": np.roll(vectors, 1, axis=0)}
    return gifdex.open(make_version(version, vectors, (1500, 1000), scenes=scenes, fields=fields))


def test_the_manifest_keeps_the_quantiles_of_exact_scores(
    index: Index, vectors: FloatArray, scenes: FloatArray
) -> None:
    record = index.manifest.fields["image"].calibration
    assert record is not None
    assert (record.sentences, record.levels) == (SENTENCES, LEVELS)
    scores = scenes.astype(np.float64) @ vectors.astype(np.float64).T
    np.testing.assert_allclose(record.best, np.quantile(scores.max(axis=1), LEVELS), atol=2e-6)
    assert ITEMS > MAX_ROWS  # so `all` comes from some of the rows
    np.testing.assert_allclose(record.all, np.quantile(scores, LEVELS), atol=0.05)
    assert index.manifest.fields["caption"].calibration is None


def test_neither_engines_nor_shards_shape_a_calibration(
    index: Index, tmp_path: Path, make_version: Maker, vectors: FloatArray, scenes: FloatArray
) -> None:
    other = gifdex.open(make_version(tmp_path / ("1" * 16), vectors, None, trees=3, hnsw=True, scenes=scenes))
    assert other.manifest.fields["image"].calibration == index.manifest.fields["image"].calibration


def test_a_percentile_is_the_share_of_sentences_whose_best_score_is_lower(
    index: Index, vectors: FloatArray, scenes: FloatArray
) -> None:
    best = (scenes @ vectors.T).max(axis=1)
    hits = index.search(SENTENCE, 300)
    for hit in hits:
        assert hit.percentile == pytest.approx(float(np.mean(best < hit.score)), abs=0.02)
    shares = [hit.percentile or 0.0 for hit in hits]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < shares[0]


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"fields": {"image": 2.5}}, {"where": {"row": ROWS}}])
def test_a_search_gives_nothing_below_the_lowest_percentile(index: Index, options: dict[str, Any]) -> None:
    hits = index.search(SENTENCE, 200, **options)
    lowest = hits[3].percentile
    assert lowest is not None
    kept = index.search(SENTENCE, 200, min_percentile=lowest, **options)
    assert kept == [hit for hit in hits if hit.percentile is not None and hit.percentile >= lowest]
    assert 0 < len(kept) < len(hits)
    assert index.search(SENTENCE, 200, min_percentile=0, **options) == hits


def test_several_sentences_have_the_percentiles_of_each(index: Index) -> None:
    answers = index.search(OTHERS, 5, min_percentile=0.2)
    assert len({len(hits) for hits in answers}) > 1
    for sentence, hits in zip(OTHERS, answers, strict=True):
        alone = index.search(sentence, 5, min_percentile=0.2)
        assert [hit.id for hit in hits] == [hit.id for hit in alone]
        assert [hit.percentile for hit in hits] == pytest.approx([hit.percentile for hit in alone], abs=1e-4)


def test_the_weight_of_the_field_and_a_lowest_score_go_with_it(index: Index) -> None:
    plain, doubled = (index.search(SENTENCE, 5, fields={"image": weight}) for weight in (1, 2))
    assert [hit.percentile for hit in plain] == pytest.approx([hit.percentile for hit in doubled])
    both = index.search(SENTENCE, 50, min_percentile=0.1, min_score=plain[2].score)
    assert both == plain[:3]


def test_other_searches_have_no_percentiles(index: Index, vectors: FloatArray) -> None:
    both = {"image": 1, "caption": 1}
    found = [
        index.search(vectors[3]),
        index.similar(id=index.ids[3]),
        index.search(SENTENCE, fields={"caption": 1}),
        index.search(SENTENCE, fields=both),
    ]
    assert all(hit.percentile is None for hits in found for hit in hits)


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        (SENTENCE, {"min_percentile": 99}, "min_percentile is 99; expected a number from 0 to 1, such as 0.99"),
        (SENTENCE, {"min_percentile": float("nan")}, "min_percentile is nan"),
        (SENTENCE, {"min_percentile": True}, "min_percentile is True"),
        (SENTENCE, {"min_percentile": "0.9"}, "min_percentile is '0.9'"),
        (SENTENCE, {"min_percentile": 0.9, "fields": {"caption": 1}}, "the field image alone, but .* is in caption:"),
        (SENTENCE, {"min_percentile": 0.9, "fields": {"image": 1, "caption": 1}}, "is in image, caption: use"),
        (np.ones(16), {"min_percentile": 0.9}, "min_percentile is for sentences, but the query is an array"),
    ],
)
def test_a_mistake_gives_one_sentence(index: Index, query: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        index.search(query, **options)


def test_a_version_without_calibration_says_so(tmp_path: Path, make_version: Maker, vectors: FloatArray) -> None:
    plain = gifdex.open(make_version(tmp_path / ("2" * 16), vectors[:50]))
    assert plain.search(SENTENCE)[0].percentile is None
    with pytest.raises(QueryError, match="has no calibration, which min_percentile needs: build it again"):
        plain.search(SENTENCE, min_percentile=0.5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"best": [0.1, 0.2]}, "too few or do not rise"),
        ({"all": [0.9] + [0.1] * (len(LEVELS) - 1)}, "too few or do not rise"),
        ({"best": [float("nan")] * len(LEVELS)}, "too few or do not rise"),
        ({"levels": [0.5] * len(LEVELS)}, "levels do not go from 0 to 1"),
        ({"sentences": 0}, "a calibration of 0 sentences"),
        ({"best": None}, "manifest.fields.image.calibration.best is None"),
    ],
)
def test_a_damaged_calibration_is_refused(
    tmp_path: Path, make_version: Maker, vectors: FloatArray, scenes: FloatArray, damage: dict[str, Any], message: str
) -> None:
    version = make_version(tmp_path / ("3" * 16), vectors[:50], scenes=scenes)
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["fields"]["image"]["calibration"].update(damage)
    (version / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptIndexError, match=message):
        gifdex.open(version)


def test_equal_scores_have_one_percentile(tmp_path: Path, make_version: Maker, vectors: FloatArray) -> None:
    """All quantiles are the same where all sentences have the same best score."""
    index = gifdex.open(make_version(tmp_path / ("4" * 16), vectors[:50], scenes=np.repeat(vectors[:1], 9, axis=0)))
    record = index.manifest.fields["image"].calibration
    assert record is not None
    assert set(record.best) == {1.0}
    assert all(hit.percentile == 0 for hit in index.search(SENTENCE))
    assert dataclasses.asdict(record)["sentences"] == 9
