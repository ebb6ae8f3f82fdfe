"""The Arrow schemas: what each table's Parquet file guarantees to other readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gifdex.schemas import tables
from gifdex.schemas.files import commit_table, read_table

FIXED = {
    "catalog": tables.CATALOG,
    "rejects": tables.REJECTS,
    "scan results": tables.SCAN_RESULTS,
    "items": tables.ITEMS,
    "features": tables.features(3, "0123"),
    "embeddings": tables.embeddings(3),
}
ROWS: dict[str, dict[str, Any]] = {
    "catalog": {"id": "a", "uri": "x/a.gif", "sha256": "00", "size": 2**40, "modified": 1.5},
    "rejects": {"id": "a", "uri": "x/a.gif", "stage": "scan", "error": "DecodeError", "reason": "it is empty"},
    "scan results": {"id": "a"},
    "items": {"id": "a", "uri": "x/a.gif", "sha256": "00"},
    "features": {"sha256": "00", "frames": 0, "attempt": "pillow"},
    "embeddings": {"id": "a", "sha256": "00", "embedding": [0.0, 1.0, 0.0]},
}


@pytest.mark.parametrize("name", FIXED)
def test_a_row_with_only_the_required_fields_survives_parquet(tmp_path: Path, name: str) -> None:
    schema = FIXED[name]
    table = pa.Table.from_pylist([ROWS[name]], schema=schema)
    table.validate(full=True)
    commit_table(tmp_path / "t.parquet", table)
    again = read_table(tmp_path / "t.parquet")
    assert again.schema.equals(schema, check_metadata=True)
    assert again.to_pylist() == [dict.fromkeys(schema.names) | ROWS[name]]
    assert set(ROWS[name]) == {field.name for field in schema if not field.nullable}


@pytest.mark.parametrize("name", FIXED)
def test_a_row_without_a_required_field_cannot_be_written(tmp_path: Path, name: str) -> None:
    schema = FIXED[name]
    table = pa.Table.from_pylist([ROWS[name] | {schema.names[0]: None}], schema=schema)
    with pytest.raises(pa.ArrowInvalid, match=schema.names[0]):
        commit_table(tmp_path / "t.parquet", table)
    assert list(tmp_path.iterdir()) == []


def test_the_features_file_describes_its_byte_format(tmp_path: Path) -> None:
    values = np.arange(4, dtype="<f4")
    row = ROWS["features"] | {"features": values.tobytes()}
    commit_table(tmp_path / "t.parquet", pa.Table.from_pylist([row], schema=tables.features(4, "0123")))
    metadata = pq.read_schema(tmp_path / "t.parquet").metadata
    assert metadata == {b"dtype": b"float32", b"dimensions": b"4", b"fingerprint": b"0123"}
    cell = read_table(tmp_path / "t.parquet")["features"][0].as_py()
    read = np.frombuffer(cell, np.dtype(metadata[b"dtype"].decode()).newbyteorder("<"))
    assert read.tolist() == values.tolist()


def test_features_of_another_width_violate_the_schema() -> None:
    row = ROWS["features"] | {"features": bytes(4 * 5)}
    with pytest.raises(pa.ArrowInvalid):
        pa.Table.from_pylist([row], schema=tables.features(4, "0123"))


def test_embeddings_are_fixed_size_lists_that_numpy_reads_without_a_copy(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    rows = [ROWS["embeddings"] | {"id": str(i), "embedding": row.tolist()} for i, row in enumerate(vectors)]
    commit_table(tmp_path / "t.parquet", pa.Table.from_pylist(rows, schema=tables.embeddings(3)))
    column = read_table(tmp_path / "t.parquet")["embedding"].combine_chunks()
    read = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, 3)
    np.testing.assert_array_equal(read, vectors)
    with pytest.raises(pa.ArrowInvalid):
        pa.Table.from_pylist([ROWS["embeddings"] | {"embedding": [1.0]}], schema=tables.embeddings(3))


def test_one_embeddings_file_holds_items_with_and_without_a_caption(tmp_path: Path) -> None:
    rows = [ROWS["embeddings"] | {"caption_embedding": vector} for vector in ([1.0, 0.0, 0.0], None, [0.0, 0.0, 1.0])]
    commit_table(tmp_path / "t.parquet", pa.Table.from_pylist(rows, schema=tables.embeddings(3)))
    assert read_table(tmp_path / "t.parquet").to_pylist() == rows
