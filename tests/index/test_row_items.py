"""The mapping from rows to items: it is read back as written, and invalid mappings are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.index import row_items
from gifdex.index.row_items import RowItems, distinct_rows, is_identity
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.manifest import ShardRecord

KEYS = st.lists(st.none() | st.sampled_from(["a", "b", "c", "d"]), max_size=12)


def shard(first: int, items: int, rows: int, name: str | None) -> ShardRecord:
    return ShardRecord(first, items, rows, "v.npy", name, {})


def arrow(path: Path, lists: Any, kind: pa.DataType | None = None, column: str = "items") -> None:
    values = pa.array(lists, kind or pa.large_list(pa.field("item", pa.int64(), nullable=False)))
    schema = pa.schema([pa.field(column, values.type, nullable=False)])
    with pa.ipc.new_file(str(path), schema) as writer:
        writer.write_table(pa.table([values], schema=schema))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(keys=KEYS)
def test_equal_keys_share_a_row_and_missing_keys_have_none(keys: list[str | None]) -> None:
    firsts, items = distinct_rows(keys)
    assert [keys[first] for first in firsts] == list(dict.fromkeys(key for key in keys if key is not None))
    assert [group.tolist() for group in items] == [
        [place for place, key in enumerate(keys) if key == keys[first]] for first in firsts
    ]
    assert firsts.tolist() == sorted(firsts.tolist())
    assert is_identity(items, len(keys)) == (None not in keys and len(set(keys)) == len(keys))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(shards=st.lists(KEYS.filter(lambda keys: any(keys)), min_size=1, max_size=3), gap=st.integers(0, 2))
def test_a_mapping_is_read_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[str | None]], gap: int
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    records: list[ShardRecord] = []
    expected: list[list[int]] = []
    first = 0
    for number, keys in enumerate(shards):
        _, items = distinct_rows(keys)
        name = None if is_identity(items, len(keys)) else f"{number}{row_items.SUFFIX}"
        if name is not None:
            row_items.write(folder / name, items)
        records.append(shard(first, len(keys), len(items), name))
        expected += [[first + item for item in group] for group in items]
        first += len(keys) + gap
    found = row_items.load(folder, records, first)
    assert found.rows == len(expected)
    assert [found.items_of(np.array([row])).tolist() for row in range(found.rows)] == expected
    rows = np.array([row for row, group in enumerate(expected) for _ in group])
    np.testing.assert_array_equal(found.row_of[[item for group in expected for item in group]], rows)
    assert np.count_nonzero(found.row_of >= 0) == len(rows)
    assert found.copies.tolist() == [len(group) for group in expected]
    assert found.covers_all == (len(rows) == first)
    assert found.is_identity == (expected == [[item] for item in range(first)])


def test_items_are_ordered_by_score_then_number() -> None:
    mapping = RowItems(3, 7, np.array([0, 2, 3, 6]), np.array([1, 5, 2, 0, 3, 6]))
    rows, scores = np.array([2, 0, 1]), np.array([0.5, 0.5, 0.1])
    found, their = mapping.expand(rows, scores, 10)
    assert found.tolist() == [0, 1, 3, 5, 6, 2]
    assert their.tolist() == [0.5] * 5 + [0.1]
    assert mapping.expand(rows, scores, 3)[0].tolist() == [0, 1, 3]
    among = np.array([False, False, True, True, True, False, True])
    assert mapping.expand(rows, scores, 2, among)[0].tolist() == [3, 6]
    assert mapping.expand(rows[:0], scores[:0], 2)[0].tolist() == []
    assert mapping.row_of.tolist() == [2, 0, 1, 2, -1, 0, 2]


def test_without_a_file_row_i_is_item_i() -> None:
    mapping = row_items.load(Path("nowhere"), [shard(0, 2, 2, None), shard(2, 1, 1, None)], 3)
    assert (mapping.is_identity, mapping.starts, mapping.row_of.tolist()) == (True, None, [0, 1, 2])
    gap = row_items.load(Path("nowhere"), [shard(0, 2, 2, None), shard(3, 1, 1, None)], 4)
    assert (gap.is_identity, gap.row_of.tolist(), gap.items_of(np.array([2])).tolist()) == (False, [0, 1, -1, 2], [3])


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[0], [1]], "it has 2 rows"),
        ([[0], [1], [2], [3]], "it has 4 rows"),
        ([[0], [], [1]], "it has 3 rows; expected 3, each with an item or more"),
        ([[0], [1], [4]], "names items beyond the shard's 4"),
        ([[0], [1], [2**62]], "names items beyond the shard's 4"),
        ([[0], [-1], [2]], "names items beyond the shard's 4"),
        ([[0], [-(2**63)], [2]], "names items beyond the shard's 4"),
        ([[0, 1], [1], [2]], "or to one twice"),
        ([[0], [1, 1], [2]], "or to one twice"),
    ],
)
def test_a_mapping_to_invalid_items_is_refused(tmp_path: Path, lists: Any, message: str) -> None:
    arrow(tmp_path / "r", lists)
    with pytest.raises(CorruptIndexError, match=message):
        row_items.load(tmp_path, [shard(0, 4, 3, "r")], 4)


def test_an_item_in_two_shards_is_refused(tmp_path: Path) -> None:
    arrow(tmp_path / "a", [[0], [3]])
    arrow(tmp_path / "b", [[0], [1, 2]])
    with pytest.raises(CorruptIndexError, match="or to one twice"):
        row_items.load(tmp_path, [shard(0, 4, 2, "a"), shard(3, 3, 2, "b")], 6)
    with pytest.raises(CorruptIndexError, match="an item that does not exist"):
        row_items.load(tmp_path, [shard(0, 4, 2, "a"), shard(4, 3, 2, "b")], 6)


@pytest.mark.parametrize(
    ("lists", "kind", "column"),
    [
        ([[0], [1], [2]], pa.list_(pa.int64()), "items"),
        ([[0], [1], [2]], pa.large_list(pa.field("item", pa.int32(), nullable=False)), "items"),
        ([[0.0], [1.0], [2.0]], pa.large_list(pa.float64()), "items"),
        ([0, 1, 2], pa.int64(), "items"),
        ([[0], [1], [2]], None, "rows"),
    ],
)
def test_a_mapping_with_other_columns_is_refused(
    tmp_path: Path, lists: Any, kind: pa.DataType | None, column: str
) -> None:
    arrow(tmp_path / "r", lists, kind, column)
    with pytest.raises(CorruptIndexError, match=rf"cannot read .*/r: its columns are \['{column}'\]"):
        row_items.load(tmp_path, [shard(0, 3, 3, "r")], 3)


def layout(path: Path) -> tuple[bytes, int, int]:
    """Return a mapping's bytes, and the positions of its offsets and its items in them."""
    data = path.read_bytes()
    with pa.OSFile(str(path)) as source:
        column = pa.ipc.open_file(source).read_all()["items"].chunk(0)
    parts = column.offsets.to_numpy().tobytes(), column.values.to_numpy().tobytes()
    places = tuple(data.index(part) for part in parts)
    return data, places[0], places[1]


LISTS: Sequence[Sequence[int]] = [[1, 4], [0], [2, 5, 6]]


@pytest.mark.parametrize("value", [-1, -(2**63), 2**62, 7, 3, 1])
@pytest.mark.parametrize("place", range(len(LISTS) + 1))
def test_an_altered_offset_is_refused(tmp_path: Path, place: int, value: int) -> None:
    path = tmp_path / "r"
    row_items.write(path, [np.array(items) for items in LISTS])
    data, offsets, _ = layout(path)
    if value == np.cumsum([0, *map(len, LISTS)])[place]:
        return
    path.write_bytes(data[: (at := offsets + 8 * place)] + value.to_bytes(8, "little", signed=True) + data[at + 8 :])
    try:
        found = row_items.load(tmp_path, [shard(0, 8, 3, "r")], 8)
    except CorruptIndexError:
        return
    # Only the hash reveals a moved boundary between two rows' items, or a lost item.
    assert (place, value) in [(0, 1), (1, 1), (2, 3)]
    assert found.copies.sum() == 6 - (place == 0)
    assert found.covers_all is False


@pytest.mark.parametrize("value", [-1, -(2**63), 2**62, 8, 1])
@pytest.mark.parametrize("place", range(1, 6))
def test_an_altered_item_is_refused(tmp_path: Path, place: int, value: int) -> None:
    path = tmp_path / "r"
    row_items.write(path, [np.array(items) for items in LISTS])
    data, _, items = layout(path)
    path.write_bytes(data[: (at := items + 8 * place)] + value.to_bytes(8, "little", signed=True) + data[at + 8 :])
    with pytest.raises(CorruptIndexError, match=r"beyond the shard's 8|or to one twice"):
        row_items.load(tmp_path, [shard(0, 8, 3, "r")], 8)


def test_a_truncated_or_missing_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    row_items.write(path, [np.array(items) for items in LISTS])
    data = path.read_bytes()
    for size in (0, 1, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(CorruptIndexError, match=f"cannot read {path}"):
            row_items.load(tmp_path, [shard(0, 8, 3, "r")], 8)
    path.unlink()
    with pytest.raises(CorruptIndexError, match=f"cannot read {path}"):
        row_items.load(tmp_path, [shard(0, 8, 3, "r")], 8)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_any_altered_byte_is_refused_or_gives_valid_items(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("rows") / "r"
    row_items.write(path, [np.array(items) for items in LISTS])
    data = bytearray(path.read_bytes())
    data[at % len(data)] = value
    path.write_bytes(data)
    try:
        found = row_items.load(path.parent, [shard(0, 8, 3, "r")], 8)
    except CorruptIndexError:
        return
    assert found.items is not None
    assert sorted(set(found.items.tolist())) == sorted(found.items.tolist())
    assert all(0 <= item < 8 for item in found.items.tolist())
    assert (found.copies > 0).all()
