"""The items of an index, in row order, in a memory-mapped Arrow IPC file, with look-ups and filters.

Opening reads only the schema; a hit reads the few bytes of its row; a filter reads the columns it names.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gifdex.index import kernels
from gifdex.index.engines.base import Rows
from gifdex.schemas import tables
from gifdex.schemas.errors import CorruptIndexError, QueryError
from gifdex.schemas.files import committing, read_table

# The columns of items; one column for each key of their metadata follows.
_COLUMNS = tables.STORED_ITEMS.names
_READ = ("id", "uri", "caption", "metadata")
_FIRST_SUFFIX = ".parquet"  # format version 1
Where: TypeAlias = Mapping[str, Any] | pc.Expression


def write(path: Path, items: pa.Table) -> None:
    """Write items (schema ITEMS) as an Arrow IPC file, with additional columns of metadata for filters."""
    stored = items.cast(tables.ITEMS).cast(tables.STORED_ITEMS)
    for name, column in metadata_columns(items["metadata"]).items():
        stored = stored.append_column(name, column)
    with committing(path) as temporary, pa.ipc.new_file(str(temporary), stored.schema) as writer:
        writer.write_table(stored.combine_chunks())


def metadata_columns(metadata: pa.ChunkedArray) -> dict[str, pa.Array]:
    """Return JSON objects as one column per key, in alphabetical order.

    Booleans, 64-bit integers, numbers, strings and lists of strings become columns of that type; mixed or nested values
    become JSON text. Keys with the name of an item's own column are omitted.
    """
    rows = [json.loads(text) if text else {} for text in metadata.to_pylist()]
    keys = sorted(key for key in {key for row in rows for key in row} - set(_COLUMNS) if _is_text(key))
    return {key: _column([row.get(key) for row in rows]) for key in keys}


def _column(values: Sequence[Any]) -> pa.Array:
    kinds = {_kind(value) for value in values if value is not None}
    if kinds == {pa.int64(), pa.float64()}:
        kinds = {pa.float64()}
    if len(kinds) == 1 and (kind := kinds.pop()) is not None:
        with suppress(pa.ArrowInvalid):  # an integer among floats that does not fit a double
            return pa.array(values, kind)
    return pa.array([None if value is None else _as_text(value) for value in values], pa.large_string())


def _kind(value: Any) -> pa.DataType | None:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -(2**63) <= value < 2**63 else None
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, str) and _is_text(value):
        return pa.large_string()
    if isinstance(value, list) and all(isinstance(element, str) and _is_text(element) for element in value):
        return pa.large_list(pa.large_string())
    return None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) and _is_text(value) else json.dumps(value, sort_keys=True)


def _is_text(value: str) -> bool:
    """Tell whether a string can be encoded in UTF-8; one with a lone surrogate cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class Items:
    """An opened items file; thread-safe."""

    def __init__(self, path: Path, table: pa.Table) -> None:
        self._path = path
        self._table = table
        self._texts = [_Texts(table[name]) for name in _READ]

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def ids(self) -> list[str]:
        """The ids of all items."""
        ids: list[str] = self._whole["id"].to_pylist()
        return ids

    @property
    def columns(self) -> dict[str, str]:
        """The columns that a filter may use, with their Arrow types."""
        return {field.name: str(field.type) for field in self._whole.schema}

    @functools.cached_property
    def _whole(self) -> pa.Table:
        """The fully validated table, which is safe for Arrow's functions."""
        try:
            self._table.validate(full=True)
        except pa.ArrowException as err:
            raise CorruptIndexError(f"{self._path} is damaged ({err}): restore the file or rebuild") from err
        table = self._table
        if self._path.suffix == _FIRST_SUFFIX:  # it has no columns of metadata
            try:
                columns = metadata_columns(table["metadata"])
            except (ValueError, AttributeError, TypeError, RecursionError) as err:
                raise CorruptIndexError(
                    f"{self._path} has metadata that are not JSON objects ({err}): restore the file or rebuild"
                ) from err
            for name, column in columns.items():
                table = table.append_column(name, column)
        return table

    def rows(self, rows: Rows) -> tuple[list[str], list[str], list[dict[str, Any]]]:
        """Return the ids, URIs and metadata of rows, with captions under the key "caption"."""
        try:
            keys, uris, captions, texts = (column.take(rows) for column in self._texts)
            if None in keys or None in uris:
                raise ValueError("its id or uri is missing")
            return keys, uris, list(map(_metadata, captions, texts))  # type: ignore[return-value]  # no None, as was seen
        except (ValueError, RecursionError) as err:
            raise CorruptIndexError(
                f"one of the rows {rows[:10].tolist()} of the items {self._path} cannot be read ({err}): restore the "
                "file or rebuild"
            ) from err

    def holding(self, keys: Sequence[str]) -> set[str]:
        """Return those of some SHA-256s that an item's bytes have."""
        column = self._whole["sha256"]
        return set(column.filter(pc.is_in(column, pa.array(keys, column.type))).to_pylist())

    def with_ids(self, keys: Sequence[str]) -> set[str]:
        """Return those of some ids that items have."""
        column = self._whole["id"]
        return set(column.filter(pc.is_in(column, pa.array(keys, column.type))).to_pylist())

    def matching(self, where: Where) -> Rows:
        """Return the rows that match a filter, ascending; raises QueryError if it cannot be applied."""
        table = self._whole
        if isinstance(where, Mapping):
            masks = [_equal(table, key, value) for key, value in where.items()]
            mask = functools.reduce(operator.and_, masks, np.ones(len(table), bool))
            return np.flatnonzero(mask)
        if not isinstance(where, pc.Expression):
            raise QueryError(
                f"the filter is a {type(where).__name__}; expected a dict such as {{'tag': 'cat'}} or a pyarrow "
                "expression such as pyarrow.compute.field('year') > 2015"
            )
        number = " row"
        while number in table.column_names:
            number += " "
        numbered = table.append_column(number, pa.array(np.arange(len(table))))
        try:
            rows: Rows = numbered.filter(where)[number].to_numpy()
        except (pa.ArrowException, KeyError, TypeError, ValueError) as err:
            raise QueryError(
                f"the filter {_line(where)} cannot be applied to the items: {_line(err)} (they have {_names(table)})"
            ) from err
        return rows


def _metadata(caption: str | None, text: str | None) -> dict[str, Any]:
    if not text:
        return {} if caption is None else {"caption": caption}
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are not a JSON object")
    return metadata if caption is None else {"caption": caption, **metadata}


def _line(what: object) -> str:
    return " ".join(str(what).split())[:200]


def _names(table: pa.Table) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in table.schema if field.name)


def _equal(table: pa.Table, key: str, value: Any) -> NDArray[np.bool_]:
    """Return which rows have `value` under `key`: equal to it, containing it in a list, or equal to one of a list."""
    if key not in table.column_names:
        raise QueryError(f"the filter uses {key!r}, which no item has: the items have {_names(table)}")
    column = table[key].combine_chunks()
    if isinstance(value, (list, tuple, set, frozenset)):
        masks = [_equal(table, key, one) for one in value]
        return functools.reduce(operator.or_, masks, np.zeros(len(table), bool))
    if value is None:
        return np.asarray(column.is_null().to_numpy(zero_copy_only=False))
    try:
        if pa.types.is_large_list(column.type):
            holding = pc.equal(pc.list_flatten(column), pa.scalar(value, column.type.value_type))
            result = np.zeros(len(table), bool)
            result[pc.list_parent_indices(column).filter(holding).to_numpy()] = True
            return result
        if isinstance(value, bool) != pa.types.is_boolean(column.type):
            raise pa.ArrowInvalid(f"{value!r} is not of type {column.type}")
        equal = pc.equal(column, pa.scalar(value))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as err:
        raise QueryError(
            f"the filter has {key} = {_line(repr(value))}, but the items' {key} is {column.type}: give a value of "
            "that type"
        ) from err
    return np.asarray(equal.fill_null(False).to_numpy(zero_copy_only=False))


class _Texts:
    """One column of strings, decoded on demand with bounds checks."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        validity, offsets, data = array.buffers()
        self._large = pa.types.is_large_string(array.type)
        self._offsets = memoryview(offsets)
        self._data = memoryview(data if data is not None else b"")
        self._valid = None if validity is None else memoryview(validity)
        self._first = array.offset

    def take(self, rows: Rows) -> list[str | None]:
        """Return the strings of rows; raises ValueError for damaged ones."""
        return kernels.texts(self._offsets, self._large, self._data, self._valid, self._first, rows)


def read_rows(path: Path, first: int, count: int) -> pa.Table:
    """Return the id, sha256 and caption of `count` rows of an Arrow items file, beginning with `first`."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return table.select(["id", "sha256", "caption"]).slice(first, count)


def load(path: Path, count: int) -> Items:
    """Open an items file, Arrow or (format version 1) Parquet; raises CorruptIndexError unless it has `count` rows."""
    is_first = path.suffix == _FIRST_SUFFIX
    try:
        if is_first:
            table = read_table(path, list(_READ)).combine_chunks()
        else:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate()
        types = {field.name: field.type for field in table.schema}  # names may not be text
    except (OSError, pa.ArrowException, ValueError) as err:
        reason = str(err).partition("\n")[0]  # Arrow's messages have many lines
        raise CorruptIndexError(f"cannot read {path}: {reason}; restore the file or rebuild") from err
    expected = tables.ITEMS if is_first else tables.STORED_ITEMS
    if len(types) < len(table.column_names) or any(types.get(name) != expected.field(name).type for name in _READ):
        raise CorruptIndexError(f"{path} has the columns {table.schema.names}, not those of items: restore or rebuild")
    if table.num_rows != count:
        raise CorruptIndexError(
            f"{path} has {table.num_rows:,} rows, but the manifest says {count:,} items: restore or rebuild"
        )
    try:
        return Items(path, table)
    except (TypeError, ValueError) as err:
        raise CorruptIndexError(f"{path} has columns without bytes ({err}): restore the file or rebuild") from err
