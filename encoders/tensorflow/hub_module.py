"""Find and load a TensorFlow Hub module or another SavedModel: its folder, files and function."""

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
from functools import cached_property
from pathlib import Path
from typing import Any

from gifdex.encoders.tensorflow.hub_signature import TEXTS, Endpoint, Wanted, brief, find_endpoint
from gifdex.encoders.tensorflow.runtime import import_tensorflow
from gifdex.schemas.errors import EncoderError, MissingExtraError, WeightsError
from gifdex.schemas.files import absolute, sha256_file

_CACHE = "TFHUB_CACHE_DIR"
_GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
_LISTED = 8


class HubModule:
    """A module given by its folder or URL. It is loaded at the first use, under a lock."""

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
        """The module's function for images or texts; loads the module once."""
        with self._lock:
            return self._endpoint

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of every file in the module's folder, by relative name."""
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
            # Follows links to folders: a cache may keep files elsewhere.
            walk = ((Path(at), names) for at, _, names in os.walk(self._folder, followlinks=True))
            paths = [at / name for at, names in walk for name in names if self._is_part(at / name)]
            return {path.relative_to(self._folder).as_posix(): sha256_file(path) for path in paths}
        except OSError as err:
            raise WeightsError(f"{self.name}: cannot read {err.filename}: {err.strerror}; make it readable") from err

    def _is_part(self, path: Path) -> bool:
        """Tell whether the results of a SavedModel depend on a file; others may change."""
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
                f"{self.name} does not fit into the device's memory: stop other programs that use it, or use a smaller "
                "module"
            ) from err
        except Exception as err:  # TensorFlow may raise anything for damaged files
            raise self._unusable(tf, err) from err
        return find_endpoint(tf, module, self._wanted, self.name)

    def _unusable(self, tf: Any, err: Exception) -> EncoderError | MissingExtraError:
        """Return the error for a module that cannot be loaded."""
        if unknown := re.search(r"Op type not registered '(\w+)'", str(err)):
            if self._wanted is TEXTS and importlib.util.find_spec("tensorflow_text") is None:
                return MissingExtraError(f"the module {self.name}", "tensorflow_text", "text-ops")
            return EncoderError(
                f"{self.name} has the operation {unknown[1]}, which TensorFlow {tf.__version__} does not know: choose "
                "a module that uses only TensorFlow's own operations"
            )
        return WeightsError(
            f"{self.name} cannot be loaded ({brief(err)}): expected a whole SavedModel, saved_model.pb and the folder "
            f"variables, in {self._folder}: download, unpack or copy it again"
        )


def _check_folder(folder: Path) -> None:
    """Raise WeightsError if a folder has no SavedModel, with a message for each kind of mistake."""
    expected = f"expected a folder with {_GRAPHS[0]}"
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
    """Return the folder of a URL's module in TensorFlow Hub's cache, which downloads missing modules."""
    hub = _import_hub()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # its progress; stdout is for results
            folder = str(hub.resolve(url))
    except Exception as err:  # from the transfer, the archive or the disk
        given = os.environ.get(_CACHE)
        cache = given or str(Path(tempfile.gettempdir(), "tfhub_modules"))
        digest = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
        raise WeightsError(
            f"{name} cannot be downloaded ({brief(err)}), and {cache} ({_CACHE}{'' if given else ' is not set'}) "
            f"has no folder {digest}, the SHA-1 of the URL: unpack the module into such a folder, or give a folder "
            "instead of the URL"
        ) from err
    if not Path(folder).is_dir():
        raise WeightsError(
            f"{name} is at {folder}, which is not a folder on this machine: copy it here and name the copy"
        )
    return folder


def _import_hub() -> Any:
    """Return the module tensorflow_hub; raises MissingExtraError naming the missing module."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):  # it prints what is absent
            # It uses pkg_resources, which warns of its own deprecation.
            warnings.filterwarnings("ignore", "pkg_resources is deprecated as an API")
            import tensorflow_hub
    except ImportError as err:
        raise MissingExtraError("the encoder tfhub", err.name or "tensorflow_hub", "pipeline") from err
    return tensorflow_hub


def _import_text_ops(tf: Any, name: str) -> None:
    """Register the operations of tensorflow_text, if it is installed."""
    if importlib.util.find_spec("tensorflow_text") is None:
        return
    try:
        importlib.import_module("tensorflow_text")
    except (ImportError, tf.errors.OpError) as err:  # each release works with one version of TensorFlow
        raise EncoderError(
            f"{name} may need tensorflow_text, which cannot be imported ({brief(err)}): install the version for "
            f"TensorFlow {tf.__version__}, or remove it"
        ) from err
