"""The encoders `tfhub:<folder or URL>`: modules of TensorFlow Hub and other SavedModels, for images and for texts."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gifdex.encoders.base import FloatArray, Frames, ImageEncoderOptions, fingerprint
from gifdex.encoders.frame_model import FrameModel
from gifdex.encoders.hub_signature import IMAGES, TEXTS, Endpoint, Wanted, brief, find_endpoint
from gifdex.encoders.tensorflow_runtime import default_batch_frames, import_tensorflow
from gifdex.schemas.errors import EncoderError, MissingExtraError, WeightsError
from gifdex.schemas.files import absolute, sha256_file

SENTENCES_AT_A_TIME = 256

_CACHE = "TFHUB_CACHE_DIR"
_GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
_LISTED = 8


class _Module:
    """A module by its folder or URL. What needs TensorFlow happens at the first use, under a lock."""

    def __init__(self, handle: str, wanted: Wanted) -> None:
        self._wanted = wanted
        self._lock = threading.RLock()
        self._url = handle if "://" in handle else None
        self._path = Path() if self._url else absolute(handle)
        self.name = f"tfhub:{self._url or self._path}"
        if not self._url:
            _check_folder(self._path)

    @property
    def endpoint(self) -> Endpoint:
        """The module's function for what is wanted; the module is loaded once."""
        with self._lock:
            return self._endpoint

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of every file in the module's folder, by its name there."""
        with self._lock:
            return self._files

    @cached_property
    def _folder(self) -> Path:
        if not self._url:
            return self._path
        folder = Path(_resolve(self._url, self.name))
        _check_folder(folder)
        return folder

    @cached_property
    def _files(self) -> dict[str, str]:
        try:
            # Links to folders are followed: a cache may keep a file's bytes elsewhere.
            walk = ((Path(at), names) for at, _, names in os.walk(self._folder, followlinks=True))
            paths = [at / name for at, names in walk for name in names if self._is_part(at / name)]
            return {path.relative_to(self._folder).as_posix(): sha256_file(path) for path in paths}
        except OSError as err:
            raise WeightsError(f"{self.name}: cannot read {err.filename}: {err.strerror}; make it readable") from err

    def _is_part(self, path: Path) -> bool:
        """Tell whether a file is one that a SavedModel's results depend on; others may come and go."""
        parts = path.relative_to(self._folder).parts
        return parts[0] in (("variables", "assets") if len(parts) > 1 else _GRAPHS)

    @cached_property
    def _endpoint(self) -> Endpoint:
        tf = import_tensorflow(f"the encoder {self.name}")
        hub = _import_hub()
        if self._wanted is TEXTS:
            _import_text_ops(tf, self.name)
        folder = self._folder
        try:
            module = hub.load(str(folder))
        except (MemoryError, tf.errors.ResourceExhaustedError) as err:
            raise EncoderError(
                f"{self.name} does not fit into the device's memory: end what else uses it, or use a smaller module"
            ) from err
        except Exception as err:  # for damaged files, TensorFlow raises what its parsers stumble over
            raise self._unusable(tf, err) from err
        return find_endpoint(tf, module, self._wanted, self.name)

    def _unusable(self, tf: Any, err: Exception) -> EncoderError | MissingExtraError:
        """Return what to raise where the module cannot be loaded."""
        if unknown := re.search(r"Op type not registered '(\w+)'", str(err)):
            if self._wanted is TEXTS and importlib.util.find_spec("tensorflow_text") is None:
                return MissingExtraError(f"the module {self.name}", "tensorflow_text", "text-ops")
            return EncoderError(
                f"{self.name} has the operation {unknown[1]}, which TensorFlow {tf.__version__} does not know: choose "
                "a module of TensorFlow's own operations"
            )
        return WeightsError(
            f"{self.name} cannot be loaded ({brief(err)}): expected a whole SavedModel, saved_model.pb and the folder "
            f"variables, in {self._folder}: download, unpack or copy it again"
        )


class HubImages(FrameModel):
    """uint8 RGB frames to a module's features, in the size and the precision that the module was saved with.

    The frames become float32 from 0 to 1 (TensorFlow Hub's "Common SavedModel APIs for image tasks"), unless the module
    takes uint8. Raises WeightsError where there is no module in the folder, EncoderError for options it does not have.
    """

    def __init__(self, folder_or_url: str, options: ImageEncoderOptions | None = None) -> None:
        super().__init__(options)
        if self._options.weights is not None:
            raise EncoderError("tfhub takes no --weights, the module is the weights: leave --weights away")
        self._module = _Module(folder_or_url, IMAGES)
        if self.precision != "float32":
            raise EncoderError(
                f"{self.name} cannot run in {self.precision}, but only in the precision it was saved with: leave "
                "--precision away"
            )

    @property
    def name(self) -> str:
        """`tfhub:` and the folder's absolute path, or the URL as given."""
        return self._module.name

    @property
    def dimensions(self) -> int:
        """Size of a vector; loads the module."""
        return self._module.endpoint.dimensions

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width in pixels, 224 where the module leaves them open; loads the module."""
        _, height, width, _ = self._module.endpoint.shape
        assert height is not None
        assert width is not None
        return height, width

    @property
    def precision(self) -> str:
        """Always float32: a module runs as it was saved."""
        return "float32" if self._options.precision == "auto" else self._options.precision

    @cached_property
    def batch_frames(self) -> int:
        """How many frames run at a time: the module's fixed batch, else what was asked for or suits the device."""
        fixed, asked = self._module.endpoint.shape[0], self._options.batch_frames
        if fixed is None:
            return asked or default_batch_frames()
        if asked not in (None, fixed):
            raise EncoderError(
                f"{self.name} was saved for batches of exactly {fixed} frames, and --batch-frames asks for {asked}: "
                "leave --batch-frames away"
            )
        return fixed

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the module's files, the function used and the preprocessing; loads the module."""
        endpoint = self._module.endpoint
        facts = {
            "encoder": "tfhub images",
            "files": self._module.files,
            "signature": [endpoint.signature, endpoint.output],
            "preprocessing": {"size": self.frame_size, "pixels": "0..1" if endpoint.dtype == "float32" else "0..255"},
            "revision": 1,
        }
        return fingerprint(facts)

    def __call__(self, frames: Frames) -> FloatArray:
        """Encode uint8 RGB (n, height, width, 3) into float32 (n, d).

        Raises EncoderError for other frames, too little memory, or where the module itself fails.
        """
        tf = import_tensorflow(f"the encoder {self.name}")
        with _failures(tf, self.name):
            return super().__call__(frames)

    def _load(self, tf: Any) -> Callable[[Any], Any]:
        endpoint = self._module.endpoint

        def forward(frames: Any) -> Any:
            images = tf.cast(frames, tf.float32) / 255.0 if endpoint.dtype == "float32" else frames
            return _vectors(tf, endpoint, images)

        return forward

    def _smaller(self, tf: Any, failed: int, err: Exception) -> Any:
        if self._module.endpoint.shape[0] is not None:
            raise EncoderError(
                f"{self.name} ran out of the device's memory with batches of {failed} frames, the only size it was "
                "saved for: end what else uses the device, or use a smaller module"
            ) from err
        return super()._smaller(tf, failed, err)


class HubTexts:
    """Sentences to a module's vectors; safe to call from several threads.

    Raises WeightsError where there is no module in the folder.
    """

    def __init__(self, folder_or_url: str) -> None:
        self._module = _Module(folder_or_url, TEXTS)
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """`tfhub:` and the folder's absolute path, or the URL as given."""
        return self._module.name

    @property
    def dimensions(self) -> int:
        """Size of a vector; loads the module."""
        return self._module.endpoint.dimensions

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the module's files, from which its function follows; a folder's needs no TensorFlow."""
        return fingerprint({"encoder": "tfhub texts", "files": self._module.files, "revision": 1})

    @cached_property
    def _run(self) -> Callable[[Any], Any]:
        tf, endpoint = import_tensorflow(f"the encoder {self.name}"), self._module.endpoint
        signature = [tf.TensorSpec(endpoint.shape, tf.string)]
        run: Callable[[Any], Any] = tf.function(
            lambda sentences: _vectors(tf, endpoint, sentences), input_signature=signature
        )
        return run

    def __call__(self, sentences: Sequence[str]) -> FloatArray:
        """Encode n sentences into float32 (n, d); raises EncoderError where the module fails."""
        if not len(sentences):
            return np.zeros((0, self.dimensions), np.float32)
        tf = import_tensorflow(f"the encoder {self.name}")
        with self._lock:
            run = self._run
        fixed = self._module.endpoint.shape[0]
        data, size = [sentence.encode(errors="replace") for sentence in sentences], fixed or SENTENCES_AT_A_TIME
        batches = [data[at : at + size] for at in range(0, len(data), size)]
        if fixed:
            batches[-1] += [b""] * (fixed - len(batches[-1]))
        with _failures(tf, self.name):
            vectors: FloatArray = np.concatenate([run(tf.constant(batch)).numpy() for batch in batches])
        return vectors[: len(sentences)]


def _vectors(tf: Any, endpoint: Endpoint, inputs: Any) -> Any:
    """Return float32 (n, d) of n inputs, in a graph that fails where the module gives anything else."""
    return tf.ensure_shape(tf.cast(endpoint.run(inputs), tf.float32), (inputs.shape[0], endpoint.dimensions))


@contextlib.contextmanager
def _failures(tf: Any, name: str) -> Iterator[None]:
    """Turn what TensorFlow raises when a module runs into one sentence."""
    try:
        yield
    except (tf.errors.OpError, ValueError) as err:  # a ValueError where shapes tell it before the run
        raise EncoderError(
            f"{name} failed while it ran ({brief(err)}): expected vectors: choose another module, or mend this one"
        ) from err


def _check_folder(folder: Path) -> None:
    """Raise WeightsError where no SavedModel is in a folder: each sort of mistake has its own sentence."""
    expected = f"expected the folder that {_GRAPHS[0]} lies in"
    if folder.is_file():
        archive = folder.name.endswith(_ARCHIVES)
        what, then = ("an archive", "unpack it and name") if archive else ("a file", "name")
        raise WeightsError(f"{folder} is {what}; {expected}: {then} the folder")
    if not folder.exists():
        raise WeightsError(f"there is no folder {folder}; {expected}: check the path")
    try:
        found = {path.name: path for path in sorted(folder.iterdir())}
    except OSError as err:
        raise WeightsError(f"cannot read the folder {folder}: {err.strerror}; {expected}: make it readable") from err
    if any(graph in found for graph in _GRAPHS):
        return
    listed = ", ".join([*found][:_LISTED]) + (", ..." if len(found) > _LISTED else "")
    archives = [name for name in found if name.endswith(_ARCHIVES)]
    below = [path for path in found.values() if any((path / graph).is_file() for graph in _GRAPHS)]
    remedy = f"unpack {archives[0]}" if archives else "choose another folder"
    if below:
        remedy = f"choose {below[0]}"
    raise WeightsError(f"{folder} has no {_GRAPHS[0]} (in it: {listed or 'nothing'}); {expected}: {remedy}")


def _resolve(url: str, name: str) -> str:
    """Return the folder of a URL's module, from the cache of TensorFlow Hub, which downloads what is not there."""
    hub = _import_hub()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # its progress; stdout is for results
            folder = str(hub.resolve(url))
    except Exception as err:  # what the transfer, the archive or the disk raised
        given = os.environ.get(_CACHE)
        cache = given or str(Path(tempfile.gettempdir(), "tfhub_modules"))
        digest = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
        raise WeightsError(
            f"{name} cannot be downloaded ({brief(err)}), and {cache} ({_CACHE}{'' if given else ' is not set'}) "
            f"has no folder {digest}, the SHA-1 of the URL: unpack the module into such a folder, or name a folder "
            "instead of the URL"
        ) from err
    if not Path(folder).is_dir():
        raise WeightsError(f"{name} is at {folder}, which is no folder on this machine: copy it here and name the copy")
    return folder


def _import_hub() -> Any:
    """Return the module tensorflow_hub; raises MissingExtraError that names what is absent."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):  # it prints what is absent
            # It asks pkg_resources for TensorFlow's version, and that module warns of its own end.
            warnings.filterwarnings("ignore", "pkg_resources is deprecated as an API")
            import tensorflow_hub
    except ImportError as err:
        raise MissingExtraError("the encoder tfhub", err.name or "tensorflow_hub", "pipeline") from err
    return tensorflow_hub


def _import_text_ops(tf: Any, name: str) -> None:
    """Register the operations of tensorflow_text, where it is installed."""
    if importlib.util.find_spec("tensorflow_text") is None:
        return
    try:
        importlib.import_module("tensorflow_text")
    except (ImportError, tf.errors.OpError) as err:  # it is compiled for one version of TensorFlow
        raise EncoderError(
            f"{name} may need tensorflow_text, which cannot be imported ({brief(err)}): install the version for "
            f"TensorFlow {tf.__version__}, or remove it"
        ) from err
