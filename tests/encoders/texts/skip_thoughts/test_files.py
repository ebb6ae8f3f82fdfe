"""Skip-thoughts files that are missing, damaged, or from different models."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gifdex.encoders.texts import skip_thoughts
from gifdex.encoders.texts.skip_thoughts import SkipThoughts
from gifdex.schemas.errors import EncoderError, WeightsError

Array = NDArray[Any]


def test_a_missing_folder_or_file_is_refused_at_once(own: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"absent is not a folder; .* dictionary\.txt, utable\.npy, uni_skip\.npz"
    ) as caught:
        SkipThoughts("uni", own / "absent")
    assert "btable" not in str(caught.value)
    (own / "btable.npy").unlink()
    with pytest.raises(WeightsError, match=r"has no file btable\.npy; .*http://www\.cs\.toronto\.edu/~rkiros/models/"):
        SkipThoughts("combined", own)
    with pytest.raises(EncoderError, match="there is no kind 'tri'"):
        SkipThoughts("tri", own)


@pytest.fixture
def rezip(models: Callable[..., Any]) -> Callable[..., None]:
    """Return a function that rewrites a model's weights with a change: `rezip(path, change)`."""

    def write_changed(path: Path, change: Callable[[dict[str, Array]], Any]) -> None:
        arrays = models()[path.name]
        change(arrays)
        np.savez(path, **arrays)

    return write_changed


def swap(name: str, array: Array) -> Callable[[dict[str, Array]], None]:
    return lambda arrays: arrays.update({name: array})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("encoder_Ux"), "it has no array encoder_Ux"),
        (swap("encoder_Ux", np.ones((3, 4), np.float32)), r"encoder_Ux has the shape \(3, 4\)"),
        (swap("encoder_W", np.ones((4, 6), np.float32)), r"encoder_W has the shape \(4, 6\)"),
        (swap("encoder_b", np.ones(5, np.float32)), r"encoder_b has the shape \(5,\)"),
        (swap("encoder_Wx", np.ones(3, np.float32)), r"encoder_Wx has the shape \(3,\)"),
        (swap("encoder_r_bx", np.ones(4, np.float32)), r"encoder_r_bx has the shape \(4,\)"),
        (swap("encoder_bx", np.ones(3, np.int64)), "encoder_bx is int64"),
        (swap("encoder_bx", np.array([print] * 3, object)), "encoder_bx is object"),
    ],
)
def test_weights_whose_shapes_do_not_fit_are_refused(
    own: Path, change: Callable[[dict[str, Array]], Any], message: str, rezip: Callable[..., None]
) -> None:
    rezip(own / "bi_skip.npz", change)
    encoder = SkipThoughts("bi", own)
    for use in (lambda: encoder.dimensions, lambda: encoder(["cat"])):
        with pytest.raises(WeightsError, match=message) as caught:
            use()
        assert str(own / "bi_skip.npz") in str(caught.value)


def test_weights_that_are_not_finite_are_refused(own: Path, rezip: Callable[..., None]) -> None:
    rezip(own / "uni_skip.npz", swap("encoder_bx", np.full(6, np.nan, np.float32)))
    with pytest.raises(WeightsError, match=r"uni_skip\.npz has numbers in bx that are not finite"):
        SkipThoughts("uni", own)(["cat"])


def test_tables_that_do_not_fit_are_refused(own: Path, tables: Callable[..., Any]) -> None:
    np.save(own / "utable.npy", tables()["utable.npy"][1:])
    with pytest.raises(WeightsError, match=r"utable\.npy has 15 rows, but dictionary\.txt beside it has 16 lines"):
        SkipThoughts("uni", own)(["cat"])
    np.save(own / "utable.npy", tables()["utable.npy"][:, 1:])
    with pytest.raises(WeightsError, match=r"utable\.npy have 4 dimensions, but the GRUs in uni_skip\.npz expect 5"):
        SkipThoughts("uni", own)(["cat"])
    (own / "utable.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(WeightsError, match=r"utable\.npy is not a readable table"):
        SkipThoughts("uni", own)(["cat"])


def test_a_dictionary_without_the_unknown_word_or_in_another_encoding_is_refused(own: Path) -> None:
    (own / "dictionary.txt").write_text("cat\nthe\n")
    with pytest.raises(WeightsError, match=r"dictionary\.txt has 2 lines but none is UNK"):
        SkipThoughts("uni", own)(["cat"])
    (own / "dictionary.txt").write_bytes("UNK\ncaf\u00e9\n".encode("latin1"))
    with pytest.raises(WeightsError, match=r"dictionary\.txt is not a readable dictionary"):
        SkipThoughts("uni", own)(["cat"])


def test_truncated_weights_are_refused_and_changed_ones_refused_or_read(own: Path) -> None:
    path = own / "uni_skip.npz"
    whole = path.read_bytes()
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"uni_skip\.npz is not a readable \.npz"):
            skip_thoughts._read_grus(path, skip_thoughts._UNI)
    random = np.random.default_rng(0)
    for _ in range(400):
        data = bytearray(whole)
        data[random.integers(0, len(whole))] = random.integers(0, 256)
        path.write_bytes(data)
        try:
            skip_thoughts._read_grus(path, skip_thoughts._UNI)
        except WeightsError as err:
            assert str(path) in str(err)  # noqa: PT017 - some changes are in members that are never read


def test_a_changed_number_is_detected_by_its_checksum(own: Path, models: Callable[..., Any]) -> None:
    path = own / "uni_skip.npz"
    data = path.read_bytes()
    raw = models()["uni_skip.npz"]["encoder_Ux"].tobytes()
    path.write_bytes(data.replace(raw, raw[:-1] + bytes([raw[-1] ^ 1])))
    with pytest.raises(WeightsError, match="Bad CRC"):
        SkipThoughts("uni", own)(["cat"])


def test_an_array_with_extra_bytes_is_refused(
    own: Path, models: Callable[..., Any], rezip: Callable[..., None]
) -> None:
    rezip(own / "uni_skip.npz", lambda arrays: arrays.pop("encoder_b"))
    longer = io.BytesIO()
    np.save(longer, models()["uni_skip.npz"]["encoder_b"])
    with zipfile.ZipFile(own / "uni_skip.npz", "a") as archive:
        archive.writestr("encoder_b.npy", longer.getvalue() + b"x")
    with pytest.raises(WeightsError, match="encoder_b continues after its numbers"):
        SkipThoughts("uni", own)(["cat"])


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_nothing_in_the_files_is_executed(
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    models: Callable[..., Any],
    write: Callable[..., Path],
    rezip: Callable[..., None],
) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Trap()], object), allow_pickle=True)
    for name, message in (("decoder_trap", None), ("encoder_b", "encoder_b is object")):
        rezip(own / "uni_skip.npz", lambda arrays: arrays.pop("encoder_b"))
        with zipfile.ZipFile(own / "uni_skip.npz", "a") as archive:
            archive.writestr(f"{name}.npy", buffer.getvalue())
            if message is None:
                good = io.BytesIO()
                np.save(good, models()["uni_skip.npz"]["encoder_b"])
                archive.writestr("encoder_b.npy", good.getvalue())
        if message is None:
            SkipThoughts("uni", own)(["cat"])
        else:
            with pytest.raises(WeightsError, match=message):
                SkipThoughts("uni", own)(["cat"])
    write(own)
    (own / "utable.npy").write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match=r"the global (posix|nt)\.mkdir is not allowed"):
        SkipThoughts("uni", own)(["cat"])
    assert not (tmp_path / "trapped").exists()
    pickle.loads(pickle.dumps(_Trap()))  # noqa: S301 - to show that the trap works
    assert (tmp_path / "trapped").exists()
