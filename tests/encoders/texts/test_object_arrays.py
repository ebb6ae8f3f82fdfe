"""Tables of numbers in .npy files: read as Python 2 and 3 write them, and hostile ones refused."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gifdex.encoders.texts import object_arrays
from gifdex.encoders.texts.object_arrays import read_rows
from gifdex.schemas.errors import WeightsError

ROWS = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
NUMPY_1 = "numpy.core.multiarray"


def header(shape: Sequence[int], descr: str = "|O") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple(shape)}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


# An assembler for protocol 2 pickles as Python 2's cPickle writes them: strings are raw bytes.
def short(data: bytes) -> bytes:
    return b"U" + bytes([len(data)]) + data


def long(data: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(data)) + data


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def dtype(name: bytes, order: bytes = b"<") -> bytes:
    new = named("numpy", "dtype") + short(name) + b"K\x00K\x01\x87R"
    flags = 63 if name.startswith(b"O") else 0
    return new + b"(K\x03" + short(order) + b"NNN" + 2 * number(-1) + number(flags) + b"tb"


def array(count: int, kind: bytes, content: bytes, module: str = NUMPY_1) -> bytes:
    new = named(module, "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85" + short(b"b") + b"\x87R"
    return new + b"(K\x01" + number(count) + b"\x85" + kind + b"\x89" + content + b"tb"


def row(values: NDArray[Any], name: bytes = b"f4", order: bytes = b"<", text: Any = short) -> bytes:
    raw = values.astype(order.decode() + name.decode()).tobytes()
    return array(len(values), dtype(name, order), text(raw))


def table(items: Sequence[bytes], shape: Sequence[int] | None = None) -> bytes:
    body = array(len(items), dtype(b"O8", b"|"), b"](" + b"".join(items) + b"e")
    return header(shape or (len(items),)) + b"\x80\x02" + body + b"."


GOOD = table([row(values) for values in ROWS])


def objects(rows: NDArray[Any]) -> NDArray[Any]:
    made = np.empty(len(rows), object)
    for place, values in enumerate(rows):
        made[place] = values
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "utable.npy"


def read(path: Path, data: bytes) -> NDArray[np.float32]:
    path.write_bytes(data)
    return read_rows(path)


def refused(path: Path, data: bytes, message: str = "not a readable table") -> None:
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=message) as caught:
            read_rows(path)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore:dtype")  # numpy.load warns about headers written by Python 2
@pytest.mark.parametrize("text", [short, long])
def test_rows_pickled_by_python_2_are_read_correctly(path: Path, text: Any) -> None:
    data = table([row(values, text=text) for values in ROWS])
    found = read(path, data)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, ROWS)
    theirs = np.load(path, allow_pickle=True, encoding="latin1")
    np.testing.assert_array_equal(np.stack(list(theirs)), ROWS, "the file above is one that numpy reads too")


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize("count", [5, 400])
def test_rows_pickled_by_python_3_are_read_correctly(path: Path, protocol: int, module: bytes, count: int) -> None:
    rows = np.random.default_rng(1).standard_normal((count, 20)).astype(np.float32)
    written = pickle.dumps(objects(rows), protocol)
    for theirs in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        # In protocol 4 a length precedes each name, and another one precedes the frame that holds everything.
        old, new = (theirs, module) if protocol < 4 else (short(name)[1:] for name in (theirs, module))
        written = written.replace(old, new)
    if protocol == 4:
        written = written[:3] + struct.pack("<Q", len(written) - 11) + written[11:]
    assert module in written
    np.testing.assert_array_equal(read(path, header((count,)) + written), rows)


@pytest.mark.parametrize("name", [b"f2", b"f4", b"f8"])
@pytest.mark.parametrize("order", [b"<", b">"])
def test_every_float_and_byte_order_becomes_float32(path: Path, name: bytes, order: bytes) -> None:
    found = read(path, table([row(values, name, order) for values in ROWS]))
    np.testing.assert_array_equal(found, ROWS.astype(name.decode()).astype(np.float32))


def test_arrays_saved_by_numpy_are_read_correctly(path: Path) -> None:
    """Two-dimensional floats in both orders and two precisions, an object array of rows, and one of numbers."""
    for saved in (ROWS, np.asfortranarray(ROWS), ROWS.astype(np.float64), objects(ROWS), ROWS.astype(object)):
        np.save(path, saved, allow_pickle=True)
        found = read_rows(path)
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, ROWS)


def test_a_repeated_row_is_read_twice(path: Path) -> None:
    body = table([row(ROWS[0]) + b"q\x01", row(ROWS[1]), b"h\x01"])
    np.testing.assert_array_equal(read(path, body), ROWS[[0, 1, 0]])


def test_a_python_2_header_with_long_integers_is_read_correctly(path: Path) -> None:
    data = header((5, 3), "<f4").replace(b"(5, 3), } ", b"(5L, 3L)}") + ROWS.tobytes()
    data = data[:8] + struct.pack("<H", len(data) - 10 - ROWS.nbytes) + data[10:]
    np.testing.assert_array_equal(read(path, data), ROWS)


def test_a_table_is_held_in_memory_once(path: Path) -> None:
    rows = np.random.default_rng(2).standard_normal((400, 5000)).astype(np.float32)
    path.write_bytes(table([row(values, text=long) for values in rows]))
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(read_rows(path)[399], rows[399])
        assert tracemalloc.get_traced_memory()[1] < 1.4 * rows.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "getattr"),
        ("numpy", "fromfile"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
        ("_codecs", "lookup"),
        ("gifdex.encoders.texts.object_arrays", "pickle"),
    ],
)
def test_any_other_global_is_refused_and_not_called(path: Path, module: str, name: str) -> None:
    call = named(module, name) + b"(" + short(f"touch {path}.touched".encode()[:255]) + b"tR"
    for data in (table([call]), header((1,)) + b"\x80\x02" + call + b".", table([array(1, call, short(b"1234"))])):
        refused(path, data, rf"the global {module}\.{name} is not allowed")
    assert not path.with_name("utable.npy.touched").exists()


NEW = named(NUMPY_1, "_reconstruct")
ND = named("numpy", "ndarray")
ENCODE = named("_codecs", "encode")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (NEW + b"K\x01K\x00\x85" + short(b"b") + b"\x87R", "not a numpy.ndarray"),
        (NEW + NEW + b"K\x00\x85" + short(b"b") + b"\x87R", "not a numpy.ndarray"),
        (NEW + b"(tR", "not a readable"),
        (ND + b"(tR", "not a readable"),
        (ND + b"K\x00b", "not a readable"),
        (ND + b"K\x00\x85R", "not a readable"),
        (array(3, b"N", short(bytes(12))), "an array has no type"),
        (array(3, dtype(b"f4"), b"]"), "elements are not of its type"),
        (array(3, dtype(b"O8", b"|"), short(bytes(12))), "elements are not of its type"),
        (array(3, dtype(b"V9"), short(bytes(12))), "a type other than float16"),
        (array(3, dtype(b"(9999999999,)f4"), short(bytes(12))), "a type other than float16"),
        (array(3, dtype(b"i4"), short(bytes(12))), "a type other than float16"),
        (array(3, dtype(b"f4", b"?"), short(bytes(12))), "byte order"),
        (array(4, dtype(b"f4"), short(bytes(12))), "shape differs"),
        (array(3, dtype(b"f4"), short(bytes(11))), "not a readable"),
        (array(1 << 62, dtype(b"f4"), short(bytes(12))), "shape differs"),
        (array(0, dtype(b"f4"), short(b"")), "not a readable"),
        (array(3, dtype(b"f4"), ENCODE + short(b"a") + short(b"latin1") + b"\x86R"), "not encoded as latin1"),
        (array(3, dtype(b"f4"), ENCODE + b"X\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R"), "not encoded as latin1"),
        (array(3, dtype(b"f4"), ENCODE + b"X\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1\x86R"), "latin-1"),
        (array(2, dtype(b"f4"), short(bytes(8))), "row 5 has 2 numbers, but row 0 has 3"),
        (b"N", "something other than rows of numbers"),
        (b"G" + bytes(8), "something other than rows of numbers"),
        (ND, "something other than rows of numbers"),
        (array(0, dtype(b"O8", b"|"), b"]"), "something other than rows of numbers"),
    ],
)
def test_a_row_that_is_not_an_array_of_floats_is_refused(path: Path, item: bytes, message: str) -> None:
    refused(path, table([*(row(values) for values in ROWS), item]), message)


@pytest.mark.parametrize(
    ("opcodes", "name"),
    [
        (b"\x8e" + struct.pack("<Q", 1 << 40), "opcode"),
        (b"\x96" + struct.pack("<Q", 1 << 40), "opcode"),
        (b"\x8d" + struct.pack("<Q", 1 << 40), "opcode"),
        (b"\x95" + struct.pack("<Q", 1 << 40), "opcode"),
        (b"\x8b" + struct.pack("<i", 1 << 30), "opcode"),
        (b"Np67108864\n", "opcode"),
        (b"(ios\nsystem\n", "opcode"),
        (named("numpy", "dtype") + b")\x81", "opcode"),
        (b"\x82\x01", "opcode"),
        (b"P0\n", "opcode"),
        (b"Nr" + struct.pack("<I", 1 << 30), "the memo entry 1073741824 is out of order"),
        (b"T" + struct.pack("<i", 1 << 30), "ends within its pickle"),
        (b"T" + struct.pack("<i", -1), "ends within its pickle"),
        (b"X" + struct.pack("<I", 1 << 31), "ends within its pickle"),
        (b"c" + b"x" * 200, "a name has no end"),
    ],
)
def test_opcodes_that_no_table_needs_are_refused_before_running(path: Path, opcodes: bytes, name: str) -> None:
    refused(path, table([opcodes]), name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable"),
        (b"GIF89a" * 10, "not a readable"),
        (b"PK\x03\x04" + bytes(60), "not a readable"),
        (b"\x93NUMPY\x09\x00" + bytes(60), "version"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(60), "not a readable"),
        (header((5,), "<f4") + ROWS.tobytes(), r"float32 of shape \(5,\)"),
        (header((5, 3), "<i8") + bytes(120), "int64 of shape"),
        (header((5, 3), "<U9") + bytes(540), "of shape"),
        (header((1 << 40, 1 << 20), "<f4") + ROWS.tobytes(), "header says"),
        (header((-5, 3), "<f4") + ROWS.tobytes(), "shape"),
        (table([row(values) for values in ROWS], shape=(6,)), "shape in its header"),
        (table([row(values) for values in ROWS], shape=(1 << 60,)), "shape in its header"),
        (table([row(values) for values in ROWS], shape=(5, 1)), "shape in its header"),
        (header((5,)) + b"\x80\x02N.", "not an object array"),
        (header((5,)) + b"\x80\x02" + row(ROWS[0]) + b".", "not an object array"),
        (header((0,)) + b"\x80\x02" + array(0, dtype(b"O8", b"|"), b"]") + b".", "it has no rows"),
        (table([row(ROWS[0]) + b"q\x01"] + [b"h\x01"] * 9999), "repeat beyond the size"),
        (table([row(np.array([1.0, np.nan]))]), "not finite"),
        (table([row(np.array([1.0, 1e300]), b"f8")]), "not finite"),
    ],
)
def test_anything_but_a_table_is_refused(path: Path, data: bytes, message: str) -> None:
    refused(path, data, message)


def test_a_table_too_large_for_memory_is_a_weights_error(path: Path) -> None:
    """The file has its declared length, but is sparse."""
    path.write_bytes(header((1 << 30, 1 << 10), "<f4"))
    with path.open("r+b") as stream:
        try:
            stream.truncate(path.stat().st_size + (1 << 42))
        except OSError:
            pytest.skip("the file system does not allow such large files")
    with pytest.raises(WeightsError, match="not enough memory"):
        read_rows(path)


def test_a_missing_file_and_a_folder_are_weights_errors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.npy: No such file"):
        read_rows(tmp_path / "absent.npy")
    with pytest.raises(WeightsError, match="Is a directory"):
        read_rows(tmp_path)


def test_a_stream_cannot_modify_its_reader(path: Path) -> None:
    state = b"N}" + short(b"place") + b"K\x07s\x86b"
    before = dict(vars(object_arrays._Array)), dict(vars(object_arrays._Type))
    for item in (ND + state, dtype(b"f4") + state, row(ROWS[0]) + state):
        refused(path, table([row(ROWS[1]), item]), "opcode EMPTY_DICT|not a readable")
    assert (dict(vars(object_arrays._Array)), dict(vars(object_arrays._Type))) == before


def test_a_table_truncated_at_any_byte_is_refused(path: Path) -> None:
    for length in range(len(GOOD)):
        path.write_bytes(GOOD[:length])
        with pytest.raises(WeightsError, match="not a readable"):
            read_rows(path)
    plain = header((5, 3), "<f4") + ROWS.tobytes()
    for length in range(len(plain)):
        path.write_bytes(plain[:length])
        with pytest.raises(WeightsError, match="not a readable"):
            read_rows(path)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(changes=st.dictionaries(st.integers(0, len(GOOD) - 1), st.integers(0, 255), min_size=1, max_size=3))
def test_changed_bytes_are_refused_or_read_and_nothing_else_happens(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[int, int]
) -> None:
    data = bytearray(GOOD)
    for place, byte in changes.items():
        data[place] = byte
    path = tmp_path_factory.getbasetemp() / "changed.npy"
    path.write_bytes(data)
    try:
        found = read_rows(path)
    except WeightsError:
        return
    assert found.dtype == np.float32
    assert found.ndim == 2
