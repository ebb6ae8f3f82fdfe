from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import gifdex
from gifdex.encoders.base import FloatArray
from gifdex.index import items as item_files
from gifdex.index.items import Items, metadata_columns
from gifdex.index.lookup import Index
from gifdex.schemas import tables
from gifdex.schemas.errors import CorruptIndexError, QueryError

METADATA: list[dict[str, Any] | None] = [
    {"tag": "cat", "year": 2015, "score": 0.5, "tags": ["a", "b"], "safe": True, "id": "not this", "mixed": 1},
    {"tag": "dog", "year": 2016, "score": 2, "tags": ["b"], "safe": False, "mixed": "one"},
    None,
    {"tag": "cat", "year": None, "nested": {"b": 1, "a": [2]}, "huge": 2**70},
    {"tag": "ütte", "tags": [], "mixed": None},
]


def table(metadata: list[dict[str, Any] | None]) -> pa.Table:
    rows = [
        {
            "id": f"gif-{row}",
            "uri": f"/{row}.gif",
            "sha256": f"{row:064x}",
            "caption": "two cats" if row == 1 else None,
            "metadata": None if value is None else json.dumps(value),
        }
        for row, value in enumerate(metadata)
    ]
    return pa.Table.from_pylist(rows, schema=tables.ITEMS)


@pytest.fixture
def items(tmp_path: Path) -> Items:
    item_files.write(tmp_path / "items.arrow", table(METADATA))
    return item_files.load(tmp_path / "items.arrow", len(METADATA))


def test_rows_are_read_back_as_written(items: Items) -> None:
    assert len(items) == 5
    assert items.ids == [f"gif-{row}" for row in range(5)]
    assert items.rows(np.array([3, 1, 2])) == (
        ["gif-3", "gif-1", "gif-2"],
        ["/3.gif", "/1.gif", "/2.gif"],
        [METADATA[3], {"caption": "two cats", **(METADATA[1] or {})}, {}],
    )
    with pytest.raises(CorruptIndexError, match="cannot be read"):
        items.rows(np.array([5]))


def test_metadata_becomes_columns_of_the_narrowest_type() -> None:
    columns = metadata_columns(table(METADATA)["metadata"])
    assert {name: str(column.type) for name, column in columns.items()} == {
        "huge": "large_string",
        "mixed": "large_string",
        "nested": "large_string",
        "safe": "bool",
        "score": "double",
        "tag": "large_string",
        "tags": "large_list<item: large_string>",
        "year": "int64",
    }
    assert columns["mixed"].to_pylist() == ["1", "one", None, None, None]
    assert columns["nested"].to_pylist()[3] == '{"a": [2], "b": 1}'
    assert columns["score"].to_pylist() == [0.5, 2.0, None, None, None]
    assert metadata_columns(table([None, None])["metadata"]) == {}


CASES: list[tuple[Any, list[int]]] = [
    ({"tag": "cat"}, [0, 3]),
    ({"tag": "cat", "year": 2015}, [0]),
    ({"tag": ["dog", "ütte"]}, [1, 4]),
    ({"tag": []}, []),
    ({}, [0, 1, 2, 3, 4]),
    ({"year": None}, [2, 3, 4]),
    ({"year": 2015.0}, [0]),
    ({"score": 2}, [1]),
    ({"safe": False}, [1]),
    ({"tags": "b"}, [0, 1]),
    ({"tags": ["a", "z"]}, [0]),
    ({"id": "gif-2"}, [2]),
    ({"caption": "two cats"}, [1]),
    ({"mixed": "one"}, [1]),
    ({"tag": "bird"}, []),
    (pc.field("year") > 2015, [1]),
    ((pc.field("tag") == "cat") & pc.field("year").is_null(), [3]),
    (pc.field("caption").is_valid() | (pc.field("score") < 1), [0, 1]),
    (pc.scalar(True), [0, 1, 2, 3, 4]),
]


def test_metadata_of_mixed_types_becomes_text(tmp_path: Path) -> None:
    odd: list[dict[str, Any] | None] = [
        {"": 1, "n": 0.5, "half \ud800": 1, "text": "\ud800", "row": 7},
        {"": 2, "n": 2**60 + 1, "text": "whole", "row": 8},
    ]
    item_files.write(tmp_path / "items.arrow", table(odd))
    opened = item_files.load(tmp_path / "items.arrow", 2)
    assert opened.rows(np.array([0, 1]))[2][0] == odd[0]
    for where, rows in (
        ({"n": "0.5"}, [0]),
        ({"n": str(2**60 + 1)}, [1]),
        ({"text": "whole"}, [1]),
        ({"text": '"\\ud800"'}, [0]),
        ({"": 2}, [1]),
        (pc.field("row") > 7, [1]),
        (pc.field("") < 2, [0]),
    ):
        assert opened.matching(where).tolist() == rows


@pytest.mark.parametrize(
    ("where", "rows"),
    CASES,
)
def test_filters_select_the_matching_items(items: Items, where: Any, rows: list[int]) -> None:
    assert items.matching(where).tolist() == rows


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"colour": "red"}, r"the filter uses 'colour', which no item has: the items have id large_string, .*year"),
        ({"year": "2015"}, r"has year = '2015', but the items' year is int64"),
        ({"tag": 3}, r"has tag = 3, but the items' tag is large_string"),
        ({"safe": 1}, r"has safe = 1, but the items' safe is bool"),
        ({"year": True}, r"has year = True, but the items' year is int64"),
        ({"tags": 3}, r"has tags = 3"),
        ({"year": {"$gt": 3}}, r"has year = \{'\$gt': 3\}"),
        ("tag = 'cat'", r"the filter is a str; expected a dict"),
        (pc.field("colour") == "red", r"cannot be applied to the items: .*colour"),
        (pc.field("year") > "2015", r"cannot be applied to the items"),
        (pc.field("year"), r"cannot be applied to the items"),
        (pc.field("colour").isin(["cat", "dog"]), r"cannot be applied to the items: .*colour"),
        (pc.field("row") < 2, r"cannot be applied to the items: .*row"),
        ({"id": "\udcff"}, r"has id = "),
        ({"tag": pa.array(["cat"])}, r"has tag = "),
    ],
)
def test_invalid_filters_are_query_errors(items: Items, where: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message) as raised:
        items.matching(where)
    assert "\n" not in str(raised.value)


def brute_force(vectors: FloatArray, query: FloatArray, rows: list[int], k: int) -> list[str]:
    scores = vectors[rows].astype(np.float64) @ query
    return [f"gif-{rows[place]:05d}" for place in np.argsort(-scores, kind="stable")[:k]]


@pytest.mark.parametrize("exact", [True, False])
def test_filtered_hits_are_exactly_the_best_matching_items(index: Index, vectors: FloatArray, exact: bool) -> None:
    queries = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    third = list(range(0, 700, 3))
    for where, rows in (({"tags": "a"}, third), ({"row": [3, 699]}, [3, 699]), ({"row": 33}, [33])):
        batch = index.search(queries, 10, where=where, exact=exact)
        for query, hits in zip(queries, batch, strict=True):
            assert [hit.id for hit in hits] == brute_force(vectors, query, rows, 10)
            assert hits == index.search(query, 10, where=where)
    assert index.search(queries, 3, where=pc.field("row") < 0) == [[]] * 5
    assert [hit.id for hit in index.search("a cat", 2, where={"row": [6, 9]})] in (
        ["gif-00006", "gif-00009"],
        ["gif-00009", "gif-00006"],
    )


def test_all_matches_are_scored_even_when_they_take_several_blocks(
    tmp_path: Path, make_version: Callable[..., Path], clustered: Callable[..., FloatArray]
) -> None:
    vectors = clustered(9000, dimensions=4)
    opened = gifdex.open(make_version(tmp_path / "00000000000000bb", vectors, (5000, 4000), trees=2))
    query = np.random.default_rng(1).standard_normal(4).astype(np.float32)
    hits = opened.search(query, 9000, where=pc.field("id") >= "gif-00100")
    assert len(hits) == 8900
    assert [hit.id for hit in hits[:50]] == brute_force(vectors, query, list(range(100, 9000)), 50)
