from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.pipeline.shards import IndexTask, partition_digits, plan, row_order
from gifdex.schemas import tables

# Numbers repeat, so that some items have the same bytes.
KEYS = st.lists(st.integers(0, 300), min_size=1, max_size=200)


def items_of(numbers: list[int]) -> list[dict[str, str]]:
    return [
        {"id": f"id{row:04d}", "uri": f"/{row}.gif", "sha256": hashlib.sha256(str(n).encode()).hexdigest()}
        for row, n in enumerate(numbers)
    ]


def make_plan(rows: list[dict[str, str]], shard_items: int) -> tuple[pa.Table, list[IndexTask]]:
    items = pa.Table.from_pylist(rows, schema=tables.ITEMS)
    digits = partition_digits(len(items), shard_items)
    ordered = row_order(items, digits)
    return ordered, plan(ordered, digits, Path("/v/items"), Path("/p"), Path("/e"), Path("/v"))


@given(KEYS, st.integers(1, 250), st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_shards_cover_all_rows_in_order_and_each_has_one_partition(
    numbers: list[int], shard_items: int, shuffler: random.Random
) -> None:
    rows = items_of(numbers)
    ordered, tasks = make_plan(rows, shard_items)
    assert sorted(ordered["id"].to_pylist()) == [row["id"] for row in rows]
    assert [task.number for task in tasks] == list(range(len(tasks)))
    assert [task.first for task in tasks] == [sum(t.items for t in tasks[:n]) for n in range(len(tasks))]
    assert sum(task.items for task in tasks) == len(rows)
    for task in tasks:
        shard = ordered.slice(task.first, task.items)
        assert all(sha256.startswith(task.partition) for sha256 in shard["sha256"].to_pylist())
        assert shard["id"].to_pylist() == sorted(shard["id"].to_pylist())
    assert len({task.partition for task in tasks}) == len(tasks)
    assert len({task.output for task in tasks} | {task.embeddings for task in tasks}) == 2 * len(tasks)
    shuffler.shuffle(rows)
    again, same = make_plan(rows, shard_items)
    assert again.equals(ordered)
    assert same == tasks


def test_one_shard_holds_as_many_items_as_it_may() -> None:
    assert [partition_digits(items, 10) for items in (1, 10, 11, 160, 161, 2_560, 2_561)] == [0, 0, 1, 1, 2, 2, 3]


def test_items_of_the_same_bytes_share_a_shard() -> None:
    _, tasks = make_plan(items_of([5] * 40), 1)
    assert [task.items for task in tasks] == [40]
