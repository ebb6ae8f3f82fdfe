"""Edge cases of fields: ties under a filter, extreme weights, and manifests whose fields do not fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gifdex
from gifdex.index.export import export
from gifdex.index.file_watch import FileWatch
from gifdex.index.lookup import Index
from gifdex.schemas.errors import CorruptIndexError, QueryError
from tests.index.conftest import VectorMaker, VersionMaker


def ids(hits: list[Any]) -> list[str]:
    return [hit.id for hit in hits]


@pytest.fixture(scope="module")
def ties(tmp_path_factory: pytest.TempPathFactory, make_version: VersionMaker, clustered: VectorMaker) -> Index:
    """Two rows of the same direction: one for the items 0 and 9, the other for item 5."""
    features = np.random.default_rng(1).standard_normal((12, 8)).astype(np.float16)
    features[[0, 9]] = np.eye(8, dtype=np.float16)[0]
    features[5] = 2 * features[0]
    version = tmp_path_factory.mktemp("ties") / "00000000000000f1"
    return gifdex.open(make_version(version, clustered(12), fields={"features": features}))


@pytest.mark.parametrize("weight", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_tied_items_under_a_filter_come_in_item_order(ties: Index, k: int, weight: float) -> None:
    fields = {"features": weight}
    assert ids(ties.search(np.eye(8)[0], k, fields=fields)) == ["gif-00000", "gif-00005", "gif-00009"][:k]
    where = {"id": ["gif-00005", "gif-00009"]}
    found = ties.search(np.eye(8)[0], k, fields=fields, where=where)
    assert ids(found) == ["gif-00005", "gif-00009"][:k]
    assert {hit.score for hit in found} == {weight}


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory, make_version: VersionMaker, clustered: VectorMaker) -> Index:
    captions = clustered(700, seed=5).copy()
    captions[::3] = np.nan
    version = tmp_path_factory.mktemp("captioned") / "00000000000000f2"
    return gifdex.open(make_version(version, clustered(700), (400, 300), fields={"caption": captions}))


@pytest.mark.parametrize("scale", [1e-300, 1e-42, 1e-30, 1e-3, 3.0, 1e5])
@pytest.mark.parametrize("exact", [False, True])
def test_only_the_ratio_of_weights_affects_the_ranking(
    captioned: Index, clustered: VectorMaker, scale: float, exact: bool
) -> None:
    for query in clustered(5, seed=7):
        for weights in ({"image": 1.0, "caption": 0.5}, {"caption": 1.0}):
            expected = captioned.search(query, 20, fields=weights, exact=exact)
            scaled = {name: weight * scale for name, weight in weights.items()}
            found = captioned.search(query, 20, fields=scaled, exact=exact)
            assert ids(found) == ids(expected)
            assert [hit.score for hit in found] == pytest.approx([hit.score * scale for hit in expected], rel=1e-9)
            if exact:
                ranks = captioned.fusion(scaled).ranks(np.array([query]), np.array([int(found[6].id[4:])]))
                assert ranks.tolist() == [7]


def test_any_weight_of_a_single_field_gives_the_same_answers(captioned: Index, clustered: VectorMaker) -> None:
    for query in clustered(5, seed=8):
        one = captioned.search(query, 15, fields={"image": 1.0})
        assert [(hit.id, hit.score / 2) for hit in captioned.search(query, 15, fields={"image": 2.0})] == [
            (hit.id, hit.score) for hit in one
        ]


@pytest.mark.parametrize("weight", [10**400, np.longdouble("1e4000"), np.float32("inf"), np.float64("nan")])
def test_a_weight_beyond_float_range_is_refused(captioned: Index, weight: Any) -> None:
    with pytest.raises(QueryError, match="the weight of the field image is"):
        captioned.search(np.ones(16), fields={"image": weight})


def test_a_weight_that_rounds_to_zero_counts_as_zero(captioned: Index) -> None:
    small: Any = np.longdouble("1e-4000")
    with pytest.raises(QueryError, match="are all 0"):
        captioned.search(np.ones(16), fields={"image": small})
    assert captioned.search(np.ones(16), fields={"image": 1, "caption": small}) == captioned.search(np.ones(16))


def test_the_order_of_weights_does_not_matter(captioned: Index, clustered: VectorMaker) -> None:
    for query in clustered(5, seed=9):
        one, other = ({"image": 0.3, "caption": 0.7}, {"caption": 0.7, "image": 0.3})
        assert captioned.search(query, fields=one) == captioned.search(query, fields=other)


def test_fields_of_one_space_with_different_dimensions_are_refused(
    tmp_path: Path, make_version: VersionMaker, clustered: VectorMaker
) -> None:
    version = make_version(tmp_path / "00000000000000f3", clustered(12), fields={"caption": clustered(12, 8)})
    with pytest.raises(CorruptIndexError, match="two counts of dimensions"):
        gifdex.open(version)


def test_export_reads_the_items_before_trusting_their_count(
    tmp_path: Path, make_version: VersionMaker, clustered: VectorMaker
) -> None:
    vectors = clustered(12)
    vectors[7] = vectors[3]
    version = make_version(tmp_path / "00000000000000f4", vectors)
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["items"] = 2**47
    (version / "manifest.json").write_text(json.dumps(manifest))
    for ask in (gifdex.open, lambda path: export(path, tmp_path / "out", "npy")):
        with pytest.raises(CorruptIndexError, match=r"has 12 rows, but the manifest says 140,737,488,355,328 items"):
            ask(version)


def test_a_file_deleted_before_it_is_watched_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(CorruptIndexError, match=r"cannot read .*gone: No such file"):
        FileWatch([tmp_path / "gone"])


def test_no_build_flag_is_suggested_for_a_field_without_engines(ties: Index) -> None:
    with pytest.raises(QueryError, match=r"has no engine 'hnsw', only none$"):
        ties.search(np.ones(8), fields={"features": 1}, engine="hnsw")
