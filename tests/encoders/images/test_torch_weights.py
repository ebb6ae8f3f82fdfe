"""Legacy PyTorch checkpoints: read without PyTorch, and hostile ones refused."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gifdex.encoders.images import torch_weights
from gifdex.encoders.images.efficientnet import EfficientNetLite
from gifdex.encoders.images.torch_weights import MAGIC, PROTOCOL, read_state_dict
from gifdex.schemas.errors import WeightsError

# An assembler for protocol 2 pickles: each function returns the opcodes that push one value.
STORAGES = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage", "i4": "IntStorage"}


def whole(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def row(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def rows_of(values: tuple[int, ...]) -> bytes:
    return row(*map(number, values))


def storage(key: str, kind: bytes, size: int, tag: str = "storage") -> bytes:
    return row(text(tag), kind, text(key), text("cpu"), number(size), b"N") + b"Q"


def tensor(source: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    hooks = named("collections", "OrderedDict") + row() + b"R"
    arguments = row(source, number(offset), rows_of(shape), rows_of(strides), b"\x89", hooks)
    return named("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def ordered(items: Mapping[str, bytes]) -> bytes:
    """An OrderedDict of `items`, with the attribute `_metadata` that torch sets on a state dict."""
    pairs = b"".join(text(name) + value for name, value in items.items())
    state = b"}" + text("_metadata") + b"}" + text("version") + number(1) + b"ss"
    return named("collections", "OrderedDict") + row() + b"R(" + pairs + b"u" + state + b"b"


def checkpoint(
    tensors: bytes,
    blocks: Mapping[str, NDArray[Any]],
    keys: bytes | None = None,
    magic: bytes | None = None,
    facts: bytes = b"}",
) -> bytes:
    listed = b"](" + b"".join(map(text, blocks)) + b"e" if keys is None else keys
    parts = [number(MAGIC) if magic is None else magic, number(PROTOCOL), facts, tensors, listed]
    raw = b"".join(struct.pack("<q", block.size) + block.tobytes() for block in blocks.values())
    return b"".join(map(whole, parts)) + raw


FLOATS = np.arange(24, dtype="<f4")
KIND = named("torch", "FloatStorage")


def one_tensor(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    return checkpoint(ordered({"w": tensor(storage("0", KIND, 24), offset, shape, strides)}), {"0": FLOATS})


GOOD = checkpoint(
    ordered({
        "a": tensor(storage("0", KIND, 24), 0, (4, 6), (6, 1)),
        "b": tensor(storage("0", KIND, 24), 5, (3, 2), (1, 6)),
        "c": tensor(storage("1", named("torch", "LongStorage"), 1), 0, (), ()),
    }),
    {"0": FLOATS, "1": np.array([7], "<i8")},
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


def read(path: Path, data: bytes) -> dict[str, NDArray[Any]]:
    path.write_bytes(data)
    return read_state_dict(path)


@contextmanager
def bounded_memory(most: int = 32 << 20) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def refused(path: Path, data: bytes, message: str) -> None:
    with bounded_memory(), pytest.raises(WeightsError, match=message) as caught:
        read(path, data)
    assert str(path) in str(caught.value)


def test_views_that_share_a_storage_are_read_correctly(path: Path) -> None:
    state = read(path, GOOD)
    assert list(state) == ["a", "b", "c"]
    np.testing.assert_array_equal(state["a"], FLOATS.reshape(4, 6))
    np.testing.assert_array_equal(state["b"], [[5, 11], [6, 12], [7, 13]])
    assert state["c"].shape == ()
    assert state["c"] == 7


@settings(max_examples=120, deadline=None, derandomize=True)
@given(pick=st.data(), element=st.sampled_from(sorted(STORAGES)), sides=st.lists(st.integers(1, 5), max_size=4))
def test_any_sliced_or_transposed_view_is_read_as_numpy_sees_it(
    tmp_path_factory: pytest.TempPathFactory, pick: st.DataObject, element: str, sides: list[int]
) -> None:
    base = np.arange(int(np.prod(sides)), dtype=f"<{element}").reshape(sides)
    slices: Any = tuple(slice(pick.draw(st.integers(0, n - 1)), None, pick.draw(st.integers(1, 3))) for n in sides)
    view = base[(*slices, ...)].transpose(pick.draw(st.permutations(range(len(sides)))))
    offset = (view.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // base.itemsize
    source = storage("k", named("torch", STORAGES[element]), base.size)
    strides = tuple(step // base.itemsize for step in view.strides)
    body = ordered({"w": tensor(source, offset, view.shape, strides)})
    found = read(tmp_path_factory.mktemp("view") / "weights.pth", checkpoint(body, {"k": base.reshape(-1)}))["w"]
    assert found.dtype == base.dtype
    assert found.flags.writeable
    np.testing.assert_array_equal(found, view)


def test_a_tensor_without_elements_is_read_as_one(path: Path) -> None:
    assert read(path, one_tensor(24, (3, 0), (1, 1)))["w"].shape == (3, 0)


def test_a_stream_written_by_pickle_itself_is_read_correctly(path: Path) -> None:
    """It has a memo and numbered references, which the assembler above omits."""
    names = ["a", "b", "a b", "a"] * 200
    written = pickle.dumps({"names": names, "more": {str(i): [i, 2**40, None, True] for i in range(300)}}, 2)[2:-1]
    assert list(read(path, checkpoint(ordered({}), {}, facts=written))) == []


def test_the_real_weights_have_the_shapes_of_the_architecture(lite0: EfficientNetLite) -> None:
    state = read_state_dict(lite0._path)
    assert len(state) == 296
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert state["_fc.weight"].shape == (1000, 1280)
    assert state["_bn0.num_batches_tracked"].shape == ()
    assert all(np.isfinite(array).all() for array in state.values())
    assert {array.dtype.str for array in state.values()} == {"<f4", "<i8"}
    assert all((state[name] >= 0).all() for name in state if name.endswith("running_var"))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "getattr"),
        ("torch", "load"),
        ("torch", "FloatStorage.__class__"),
        ("torch._utils", "_rebuild_tensor"),
        ("collections", "Counter"),
        ("gifdex.encoders.images.torch_weights", "pickle"),
        ("numpy", "fromfile"),
    ],
)
def test_any_other_global_is_refused_and_not_called(path: Path, module: str, name: str) -> None:
    call = named(module, name) + row(text(f"touch {path}.touched")) + b"R"
    for data in (
        checkpoint(ordered({"w": call}), {}),
        checkpoint(ordered({}), {}, facts=call),
        checkpoint(ordered({}), {}, keys=call),
        checkpoint(ordered({}), {}, magic=call),
        checkpoint(call, {}),
    ):
        refused(path, data, rf"the global {module}\.{name} is not allowed")
    assert not path.with_name("weights.pth.touched").exists()


@pytest.mark.parametrize(
    ("opcodes", "name"),
    [
        (b"\x8c\x02os\x8c\x06system\x93", "SHORT_BINUNICODE"),
        (text("os") + text("system") + b"\x93", "STACK_GLOBAL"),
        (b"(" + text("touch x") + b"ios\nsystem\n", "INST"),
        (named("collections", "OrderedDict") + b")\x81", "NEWOBJ"),
        (b"\x82\x01", "EXT1"),
        (b"\x8e" + struct.pack("<Q", 1 << 40), "BINBYTES8|expected 1099511627776 bytes"),
        (b"\x96" + struct.pack("<Q", 1 << 40), "BYTEARRAY8|expected 1099511627776 bytes"),
        (b"\x95" + struct.pack("<Q", 1 << 40), "FRAME|expected"),
        (b"Nr" + struct.pack("<I", 1 << 26), "memo entry 67108864"),
        (b"Np67108864\n", "PUT"),
    ],
)
def test_opcodes_that_no_state_dict_needs_are_refused_before_running(path: Path, opcodes: bytes, name: str) -> None:
    refused(path, checkpoint(ordered({}), {}, facts=opcodes), name)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (25,), (1,)),
        (1, (4, 6), (6, 1)),
        (24, (1,), (1,)),
        (-1, (4,), (1,)),
        (10, (4,), (-1,)),
        (0, (-4,), (1,)),
        (0, (1 << 30, 1 << 30), (0, 0)),
        (0, (25,), (0,)),
        (1 << 70, (1,), (1,)),
        (0, (2,), (1 << 62,)),
    ],
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(
    path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    refused(path, one_tensor(offset, shape, strides), "beyond its storage of 24 elements")


def test_a_stride_beyond_64_bits_is_refused(path: Path) -> None:
    refused(path, one_tensor(0, (1,), (1 << 80,)), "not a readable PyTorch legacy checkpoint")


def test_fewer_strides_than_dimensions_are_refused(path: Path) -> None:
    refused(path, one_tensor(0, (2, 2), (1,)), "not a readable PyTorch legacy checkpoint")


def with_storage(source: bytes) -> bytes:
    return checkpoint(ordered({"w": tensor(source, 0, (2,), (1,))}), {"0": FLOATS})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_storage(storage("0", text("O"), 24)), "not to a storage of numbers"),
        (with_storage(storage("0", text("(1000000000,)f4"), 24)), "not to a storage of numbers"),
        (with_storage(storage("0", KIND, 24, tag="module")), "not to a storage of numbers"),
        (with_storage(text("0")), "not a storage"),
        (with_storage(storage("9", KIND, 24)), "storages listed"),
        (with_storage(storage("0", KIND, 23)), "storage 0 has 24 elements, but its tensors expect 23"),
        (with_storage(storage("0", KIND, -1)), "storage 0 has 24 elements"),
        (with_storage(storage("0", named("torch", "DoubleStorage"), 24)), "buffer"),
        (checkpoint(ordered({}), {"0": FLOATS}), "storages listed"),
        (checkpoint(ordered({"w": number(1)}), {}), "something other than named tensors"),
        (checkpoint(ordered({"state_dict": ordered({})}), {}), "something other than named tensors"),
        (checkpoint(b"]", {}), "something other than named tensors"),
        (checkpoint(ordered({}), {}, keys=b"N"), "storages listed"),
        (checkpoint(ordered({}), {}, magic=number(1)), "does not begin like"),
        (b"PK\x03\x04" + bytes(200), "not a readable"),
        (pickle.dumps({"a": 1}, 4), "not a readable"),
        (b"GIF89a", "not a readable"),
        (b"", "not a readable"),
    ],
)
def test_anything_but_a_plain_state_dict_is_refused(path: Path, data: bytes, message: str) -> None:
    refused(path, data, message)


@pytest.mark.parametrize("count", [-1, -(2**63), 2**40, 2**62, 2**63 - 1])
def test_a_storage_with_a_false_length_is_refused(path: Path, count: int) -> None:
    honest = one_tensor(0, (24,), (1,))
    start = len(honest) - FLOATS.nbytes - 8
    refused(path, honest[:start] + struct.pack("<q", count) + honest[start + 8 :], "storage 0 has|not a readable")
    both = checkpoint(ordered({"w": tensor(storage("0", KIND, count), 0, (2,), (1,))}), {"0": FLOATS})
    start = len(both) - FLOATS.nbytes - 8
    refused(path, both[:start] + struct.pack("<q", count) + both[start + 8 :], "not a readable")


def test_a_stream_cannot_modify_its_reader(path: Path) -> None:
    function = named("torch._utils", "_rebuild_tensor_v2")
    attributes = row(b"N", b"}" + text("__defaults__") + row(number(1)) + b"s" + text("left") + number(1) + b"s")
    before = dict(vars(torch_weights._rebuild)), torch_weights._rebuild.__defaults__
    read(path, checkpoint(ordered({}), {}, facts=function + attributes + b"b"))
    assert (vars(torch_weights._rebuild), torch_weights._rebuild.__defaults__) == before
    rewrite = tensor(storage("0", KIND, 24), 0, (2,), (1,)) + b"}" + text("shape") + rows_of((1,)) + b"sb"
    refused(path, checkpoint(ordered({"w": rewrite}), {"0": FLOATS}), "not a readable")


def test_a_missing_file_and_a_folder_are_weights_errors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file"):
        read_state_dict(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="Is a directory"):
        read_state_dict(tmp_path)


def test_a_small_stream_truncated_at_any_byte_is_refused(path: Path) -> None:
    for length in range(len(GOOD)):
        with pytest.raises(WeightsError, match="not a readable"):
            read(path, GOOD[:length])


@pytest.mark.heavy
def test_the_real_weights_truncated_anywhere_are_refused_without_much_memory(
    path: Path, lite0: EfficientNetLite
) -> None:
    data = lite0._path.read_bytes()
    pickles = 48_000  # about where the raw elements begin
    lengths = [*range(0, pickles, 997), *np.linspace(pickles, len(data) - 1, 12, dtype=int)]
    with bounded_memory(4 * len(data)):
        for length in lengths:
            with pytest.raises(WeightsError, match="not a readable"):
                read(path, data[:length])


_PICKLED = len(GOOD) - FLOATS.nbytes - 8 - 8 - 8


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # a backslash in a global's name
@settings(max_examples=600, deadline=None, derandomize=True)
@given(changes=st.dictionaries(st.integers(0, _PICKLED), st.integers(0, 255), min_size=1, max_size=3))
def test_changed_bytes_are_refused_or_read_and_nothing_else_happens(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[int, int]
) -> None:
    data = bytearray(GOOD)
    for place, byte in changes.items():
        data[place] = byte
    path = tmp_path_factory.getbasetemp() / "changed.pth"
    with bounded_memory():
        try:
            state = read(path, bytes(data))
        except WeightsError:
            return
        assert sum(array.size for array in state.values()) <= 3 * FLOATS.size
