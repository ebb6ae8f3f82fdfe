"""The device, and the precisions that it is fast in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gifdex.encoders.tensorflow import runtime
from gifdex.encoders.tensorflow.runtime import cpu_has_amx, fastest_precision, gpu_capabilities, import_tensorflow


def test_amx_is_detected_from_the_processors_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu vme avx512_bf16 amx_bf16 amx_tile\nbugs\t: amx\n")
    assert cpu_has_amx(cpuinfo)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert not cpu_has_amx(cpuinfo), "TensorFlow is configured not to use it"
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu vme avx512_bf16\nbugs\t: amx_bf16\n")
    assert not cpu_has_amx(cpuinfo)
    assert not cpu_has_amx(tmp_path / "absent"), "not Linux"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"floatx": "float16"}, "floatx is float16, expected float32"),
        ({"image_data_format": "channels_first"}, "image_data_format is channels_first, expected channels_last"),
        ({"backend": "nonsense"}, "Keras"),
    ],
)
def test_a_keras_with_other_settings_is_refused(settings: dict[str, str], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    program = (
        "import numpy\n"
        "from gifdex.encoders.registry import image_encoder\n"
        "from gifdex.schemas.errors import EncoderError\n"
        "try: image_encoder()(numpy.zeros((1, 224, 224, 3), numpy.uint8))\n"
        "except EncoderError as err: print(err)\n"
    )
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    (sentence,) = done.stdout.splitlines()
    assert complaint in sentence
    assert "keras.json" in sentence


def test_float32_keeps_full_precision_on_gpus() -> None:
    tf = import_tensorflow("a test")
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_without_a_gpu_only_bfloat16_with_amx_is_faster() -> None:
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
def test_on_gpus_the_first_precision_with_tensor_cores_everywhere_is_chosen(
    capabilities: list[tuple[int, int]], keeps: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tests have no GPU, so these are the device details that TensorFlow would report.
    monkeypatch.setattr(runtime, "gpu_capabilities", lambda: capabilities)
    assert fastest_precision(keeps) == expected
