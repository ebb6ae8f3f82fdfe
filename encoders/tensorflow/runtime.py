"""Set up TensorFlow for all encoders: quiet, with GPU memory on demand, in a precision that suits the device."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gifdex.schemas.errors import EncoderError, MissingExtraError

# One of these exists if there is a GPU driver (NVIDIA, AMD, WSL).
_GPU_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_EXPECTED = {
    "backend": "tensorflow",
    "floatx": "float32",
    "dtype_policy": "float32",
    "image_data_format": "channels_last",
}
_KERAS_SETTINGS = "check ~/.keras/keras.json, or $KERAS_HOME, and the variables that begin with KERAS_"
_DEFAULT_BATCH = {"cpu": 32, "gpu": 128}


def import_tensorflow(needed_for: str) -> Any:
    """Return the tensorflow module; raises MissingExtraError naming `needed_for`."""
    # Read at import: 3 suppresses all but fatal messages of the C++ part, except some that come before it is read.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow
    except ImportError as err:
        raise MissingExtraError(needed_for, "tensorflow", "pipeline") from err
    except ValueError as err:  # it imports Keras, whose settings may name an unknown backend
        raise EncoderError(f"{needed_for} needs Keras, which cannot start ({err}): {_KERAS_SETTINGS}") from err
    # Otherwise GPUs since Ampere multiply float32 with 19 bits.
    tensorflow.config.experimental.enable_tensor_float_32_execution(False)
    # Otherwise it takes all of the GPU's memory at once, and a second process gets none.
    for gpu in tensorflow.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # TensorFlow is in use already: keep its settings
            tensorflow.config.experimental.set_memory_growth(gpu, True)
    return tensorflow


def import_keras(needed_for: str) -> Any:
    """Return TensorFlow's Keras; raises EncoderError if the user's Keras settings would change the vectors."""
    tensorflow = import_tensorflow(needed_for)
    try:
        keras = tensorflow.keras
        config = keras.config
    except (ImportError, ValueError) as err:  # its settings name a backend that is missing
        raise EncoderError(f"{needed_for} needs Keras, which cannot start ({err}): {_KERAS_SETTINGS}") from err
    found = {
        "backend": config.backend(),
        "floatx": config.floatx(),
        "dtype_policy": config.dtype_policy().name,
        "image_data_format": config.image_data_format(),
    }
    wrong = [
        f"{name} is {value}, expected {_EXPECTED[name]}" for name, value in found.items() if value != _EXPECTED[name]
    ]
    if wrong:
        raise EncoderError(
            f"{needed_for} would give other vectors with these Keras settings ({wrong[0]}): {_KERAS_SETTINGS}"
        )
    return keras


def gpu_capabilities() -> list[tuple[int, int]]:
    """Return each GPU's compute capability, (0, 0) if unknown; imports TensorFlow only if there may be a GPU."""
    if sys.platform != "darwin" and not any(Path(node).exists() for node in _GPU_NODES):
        return []
    config = import_tensorflow("an image encoder").config
    details = [config.experimental.get_device_details(gpu) for gpu in config.list_physical_devices("GPU")]
    capabilities = [detail.get("compute_capability", (0, 0)) for detail in details]
    return [(int(major), int(minor)) for major, minor in capabilities]


def default_batch_frames() -> int:
    """Return the batch size, in frames, for this machine's device."""
    return _DEFAULT_BATCH["gpu" if gpu_capabilities() else "cpu"]


def cpu_has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether the processor has AMX for bfloat16 and TensorFlow may use it."""
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return False
    try:
        return any("amx_bf16" in line.split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
    except OSError:  # not Linux
        return False


def fastest_precision(keeps_features: Sequence[str]) -> str:
    """Return the first of `keeps_features` that this machine's device is built for, otherwise float32.

    Tensor cores support float16 from compute capability 7.0 and bfloat16 from 8.0 (NVIDIA, CUDA C++ Programming Guide,
    "Compute Capabilities"). On CPUs, AMX makes bfloat16 faster; nothing makes float16 faster.
    """
    if capabilities := gpu_capabilities():
        able = [name for name, minimum in (("float16", (7, 0)), ("bfloat16", (8, 0))) if min(capabilities) >= minimum]
    else:
        able = ["bfloat16"] if cpu_has_amx() else []
    return next((name for name in keeps_features if name in able), "float32")
