from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.encoders.base import available_cpus
from gifdex.pipeline.shards import EmbedTask, automatic_shards, beam_options, plan_shards, row_order
from gifdex.schemas import tables

# Repeated numbers give items with the same bytes.
KEYS = st.lists(st.integers(0, 300), min_size=1, max_size=200)


def items_of(numbers: list[int]) -> list[dict[str, str]]:
    return [
        {"id": f"id{row:04d}", "uri": f"/{row}.gif", "sha256": hashlib.sha256(str(n).encode()).hexdigest()}
        for row, n in enumerate(numbers)
    ]


def make_plan(rows: list[dict[str, str]], shards: int) -> tuple[pa.Table, list[EmbedTask]]:
    items = pa.Table.from_pylist(rows, schema=tables.ITEMS)
    ordered = row_order(items, shards)
    return ordered, plan_shards(ordered, shards, Path("/v/items"), Path("/p"), Path("/e"), Path("/v"))


@given(KEYS, st.integers(1, 40), st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_shards_cover_all_rows_in_order_and_each_has_one_range_of_keys(
    numbers: list[int], shards: int, shuffler: random.Random
) -> None:
    rows = items_of(numbers)
    ordered, tasks = make_plan(rows, shards)
    assert sorted(ordered["id"].to_pylist()) == [row["id"] for row in rows]
    assert 1 <= len(tasks) <= shards
    assert [task.number for task in tasks] == list(range(len(tasks)))
    assert [task.first for task in tasks] == [sum(t.items for t in tasks[:n]) for n in range(len(tasks))]
    assert sum(task.items for task in tasks) == len(rows)
    below = ""
    for task in tasks:
        shard = ordered.slice(task.first, task.items)
        keys = shard["sha256"].to_pylist()
        assert below < min(keys)
        below = max(keys)
        assert shard["id"].to_pylist() == sorted(shard["id"].to_pylist())
    assert len({task.output for task in tasks}) == len(tasks)
    shuffler.shuffle(rows)
    again, same = make_plan(rows, shards)
    assert again.equals(ordered)
    assert same == tasks


@pytest.mark.parametrize("shards", [1, 3, 7, 16])
def test_shards_have_about_equal_sizes(shards: int) -> None:
    _, tasks = make_plan(items_of(list(range(4000))), shards)
    assert len(tasks) == shards
    assert all(abs(task.items - 4000 / shards) < 6 * (4000 / shards) ** 0.5 + 1 for task in tasks)


def test_the_automatic_number_of_shards_bounds_the_memory_of_each() -> None:
    bytes_of_item = 4 * (1280 + 2 * 512)
    fitting = 2 * 1024**3 // bytes_of_item
    assert [automatic_shards(items, 1280, 512) for items in (1, fitting, fitting + 1, 10 * fitting)] == [1, 1, 2, 10]


def test_items_with_the_same_bytes_share_a_shard() -> None:
    _, tasks = make_plan(items_of([5] * 40), 13)
    assert [task.items for task in tasks] == [40]


def test_several_shards_are_built_in_parallel_unless_beam_options_say_otherwise() -> None:
    cpus = available_cpus()
    if cpus > 1:
        assert beam_options([], 9) == [
            "--direct_running_mode=multi_threading",
            f"--direct_num_workers={min(cpus, 4)}",
        ]
    assert beam_options([], 1) == []
    assert beam_options(["--runner=FlinkRunner"], 9) == ["--runner=FlinkRunner"]
