"""Which device there is, and what it is built for."""

from __future__ import annotations

from pathlib import Path

import pytest

from gifdex.encoders import tensorflow_runtime
from gifdex.encoders.tensorflow_runtime import cpu_has_amx, fastest_precision, gpu_capabilities


def test_amx_is_read_from_the_processors_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu vme avx512_bf16 amx_bf16 amx_tile\nbugs\t: amx\n")
    assert cpu_has_amx(cpuinfo)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert not cpu_has_amx(cpuinfo), "TensorFlow was told not to use it"
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu vme avx512_bf16\nbugs\t: amx_bf16\n")
    assert not cpu_has_amx(cpuinfo)
    assert not cpu_has_amx(tmp_path / "absent"), "another system than Linux"


def test_without_a_gpu_only_bfloat16_on_amx_is_faster() -> None:
    if gpu_capabilities():
        pytest.skip("there is a GPU")
    assert fastest_precision(("float16",)) == "float32"
    assert fastest_precision(()) == "float32"
    expected = "bfloat16" if cpu_has_amx() else "float32"
    assert fastest_precision(("bfloat16", "float16")) == fastest_precision(("float16", "bfloat16")) == expected


@pytest.mark.parametrize(
    ("capabilities", "keeps", "expected"),
    [
        ([(7, 0)], ("bfloat16", "float16"), "float16"),
        ([(8, 0)], ("bfloat16", "float16"), "bfloat16"),
        ([(9, 0)], ("float16",), "float16"),
        ([(9, 0), (6, 1)], ("bfloat16", "float16"), "float32"),
        ([(0, 0)], ("bfloat16", "float16"), "float32"),
        ([(9, 0)], (), "float32"),
    ],
)
def test_on_gpus_the_first_precision_that_all_have_tensor_cores_for_is_taken(
    capabilities: list[tuple[int, int]], keeps: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No GPU is at hand in tests: what TensorFlow would say of one stands in for it.
    monkeypatch.setattr(tensorflow_runtime, "gpu_capabilities", lambda: capabilities)
    assert fastest_precision(keeps) == expected
