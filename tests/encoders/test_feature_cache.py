from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from gifdex.encoders.base import Classifier, FloatArray
from gifdex.encoders.feature_cache import CLASSIFIER_NAME, FeatureCache, Outcome
from gifdex.schemas.errors import WorkspaceError
from gifdex.schemas.files import TEMPORARY_PREFIX


def cache_at(root: Path, attempt: str = "decoder 1") -> FeatureCache:
    return FeatureCache(root, "f" * 16, 3, attempt)


def key(number: int) -> str:
    return f"{number:064x}"


def vector(number: int) -> FloatArray:
    return np.array([number, 1 / (number + 1), -number], np.float32)


def good(sha256: str, number: int = 1) -> Outcome:
    return Outcome(sha256, 4, vector(number))


def standing(cache: FeatureCache) -> dict[str, str | None]:
    return {row["sha256"]: row["error"] for row in cache.outcomes().to_pylist()}


def test_features_are_read_back_bit_for_bit_in_the_requested_order(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    cache.commit(cache.part("", "one"), [good(key(1), 1), good(key(2), 2)])
    cache.commit(cache.part("", "two"), [good(key(3), 3)])
    found = cache.features([key(3), key(1), key(2)])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.stack([vector(3), vector(1), vector(2)]))


def test_outcomes_record_failures_and_reasons(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    cache.commit(cache.part("", "one"), [good(key(1)), Outcome(key(2), 0, None, "DecodeError", "it is text")])
    assert cache.outcomes().to_pylist() == [
        {"sha256": key(1), "error": None, "reason": None},
        {"sha256": key(2), "error": "DecodeError", "reason": "it is text"},
    ]


@given(st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), min_size=1, max_size=6, unique=True), st.data())
@settings(deadline=None, derandomize=True, max_examples=30)
def test_a_key_is_found_in_any_partition_that_contains_it(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], data: st.DataObject
) -> None:
    cache = cache_at(tmp_path_factory.mktemp("cache"))
    for number, sha256 in enumerate(keys):
        partition = sha256[: data.draw(st.integers(0, 3))]
        cache.commit(cache.part(partition, f"task{number}"), [good(sha256, number)])
    assert set(standing(cache)) == set(keys)
    for number, sha256 in enumerate(keys):
        np.testing.assert_array_equal(cache.features([sha256]), vector(number)[None])
    ordered = sorted(range(len(keys)), key=lambda number: keys[number])
    for first in range(len(keys)):  # any range of keys
        some = ordered[first:]
        np.testing.assert_array_equal(cache.features([keys[n] for n in some]), np.stack([vector(n) for n in some]))


def test_reading_some_keys_leaves_other_partitions_unread(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    cache.commit(cache.part("a", "one"), [good("a" * 64)])
    cache.part("b", "two").parent.mkdir(parents=True)
    cache.part("b", "two").write_bytes(b"no Parquet")
    assert cache.features(["a" * 64]).shape == (1, 3)
    with pytest.raises(WorkspaceError, match=r"two\.parquet"):
        cache.features(["a" * 64, "b" * 64])


def test_a_reject_is_valid_only_for_its_decoder_and_limits(tmp_path: Path) -> None:
    first, other = cache_at(tmp_path), cache_at(tmp_path, "decoder 2")
    first.commit(first.part("", "one"), [good(key(1)), Outcome(key(2), 0, None, "LimitError", "too large")])
    assert standing(first) == {key(1): None, key(2): "LimitError"}
    assert standing(other) == {key(1): None}


@pytest.mark.parametrize("attempt", ["decoder 1", ""])
def test_a_reject_that_does_not_last_is_never_reused(tmp_path: Path, attempt: str) -> None:
    cache = cache_at(tmp_path)
    cache.commit(cache.part("", "one"), [Outcome(key(1), 0, None, "OSError", "no such file", lasting=False)])
    assert standing(cache_at(tmp_path, attempt or "decoder 2")) == {}


def test_features_take_precedence_over_a_reject_of_the_same_bytes(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    reject = Outcome(key(1), 0, None, "LimitError", "too large")
    for name, outcome in (("a", reject), ("b", good(key(1), 7)), ("c", reject)):
        cache.commit(cache.part("", name), [outcome])
    np.testing.assert_array_equal(cache.features([key(1)]), vector(7)[None])


def test_a_missing_or_rejected_key_is_named(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    with pytest.raises(KeyError, match=key(5)):
        cache.features([key(5)])
    cache.commit(cache.part("", "one"), [good(key(1)), Outcome(key(2), 0, None, "DecodeError", "x")])
    with pytest.raises(KeyError, match=key(2)):
        cache.features([key(1), key(2)])


def test_canvases_are_known_where_a_part_has_them(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    reject = Outcome(key(2), 0, None, "DecodeError", "x")
    cache.commit(cache.part("", "one"), [replace(good(key(1)), canvas=(30, 20)), reject])
    old = cache.part("", "two")  # as older versions of gifdex wrote it
    cache.commit(old, [replace(good(key(3)), canvas=(30, 20))])
    pq.write_table(pq.ParquetFile(old).read().drop_columns(["width", "height"]), old)
    assert cache.canvases([key(1), key(2), key(3), key(4)]) == {key(1): 600}
    assert cache.canvases([]) == {}
    assert cache.features([key(1), key(3)]).shape == (2, 3)
    assert set(standing(cache)) == {key(1), key(2), key(3)}
    assert old.exists()


def test_an_empty_cache_has_no_outcomes(tmp_path: Path) -> None:
    assert cache_at(tmp_path).outcomes().num_rows == 0
    assert cache_at(tmp_path).features([]).shape == (0, 3)


def test_unfinished_parts_and_other_fingerprints_are_not_read(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    other = FeatureCache(tmp_path, "e" * 16, 3, "decoder 1")
    other.commit(other.part("", "one"), [good(key(1))])
    cache.commit(cache.part("", f"{TEMPORARY_PREFIX}half"), [good(key(2))])
    assert standing(cache) == {}


def test_the_description_is_written_once(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    cache.describe({"encoder": "one"}, lambda: None)
    cache.describe({"encoder": "two"}, lambda: None)
    assert '"encoder": "one"' in (cache.folder / "fingerprint.json").read_text()
    assert cache.outcomes().num_rows == 0


def test_a_cache_described_without_its_classifier_gets_it_later(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    cache.describe({}, lambda: None)
    assert not (cache.folder / CLASSIFIER_NAME).exists()
    classifier = Classifier(np.ones((2, 3), np.float32), np.zeros(2, np.float32), ("a", "b"), np.zeros(3, np.float32))
    cache.describe({}, lambda: classifier)
    assert (cache.folder / CLASSIFIER_NAME).read_bytes() == classifier.data
    with safe_open(cache.folder / CLASSIFIER_NAME, framework="numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("weight"), classifier.weight)
        assert json.loads(file.metadata()["gifdex"]) == {"labels": ["a", "b"]}


def test_a_damaged_part_is_ignored_and_deleted(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    path = cache.part("", "one")
    cache.commit(path, [good(key(1))])
    cache.commit(cache.part("", "two"), [good(key(2))])
    path.write_bytes(path.read_bytes()[:50])
    assert cache.outcomes()["sha256"].to_pylist() == [key(2)]
    assert not path.exists()


def test_a_part_found_damaged_later_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    path = cache.part("", "one")
    cache.commit(path, [good(key(1))])
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(WorkspaceError, match=r"one\.parquet were damaged \(.*\) and have been deleted: run again"):
        cache.features([key(1)])
    path.symlink_to(path)  # a link to itself cannot be opened
    with pytest.raises(WorkspaceError, match=r"cannot read the cached features .*one\.parquet: .*; fix it"):
        cache.features([key(1)])
