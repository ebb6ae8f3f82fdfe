"""GIFs, pictures and items as queries: read, encoded as the index's own GIFs were, and mapped into a field's space."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray, ImageEncoder, ImageEncoderOptions, available_cpus, unit
from gifdex.encoders.projections.base import Projection
from gifdex.index.engines.base import Rows
from gifdex.index.field_records import IMAGE
from gifdex.index.fields import JOINT_SPACE
from gifdex.index.kinds import only_gifs
from gifdex.index.opened import Opened
from gifdex.schemas.errors import DecodeError, EncoderError, QueryError
from gifdex.schemas.manifest import SpaceRecord

if TYPE_CHECKING:
    from gifdex.encoders.feature_cache import Outcome

MAX_WEIGHT = 1_000_000
_MAX_SECONDS = 2.0  # to decode one of many GIFs; features are the same whatever the limit
# A path, the bytes, or an opened file; for pictures also the pixels.
Source = str | os.PathLike[str] | bytes | BinaryIO
Picture = Source | NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """An example of what to find: one of a GIF, a picture, and the id of an item, and its weight.

    `gif` and `image` are a path, the bytes, or an open binary file; `image` may also be pixels uint8 RGB (height,
    width, 3). Raises QueryError unless it is exactly one of the three, with a weight above 0.
    """

    gif: Source | None = None
    image: Picture | None = None
    id: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        given = [name for name in ("gif", "image", "id") if getattr(self, name) is not None]
        if len(given) != 1:
            raise QueryError(f"an example has {' and '.join(given) or 'nothing'}; expected one of gif, image and id")
        number = isinstance(self.weight, (int, float, np.integer, np.floating)) and not isinstance(self.weight, bool)
        if not number or not (math.isfinite(self.weight) and 0 < self.weight <= MAX_WEIGHT):
            raise QueryError(f"the weight of an example is {self.weight!r:.40}; expected a number above 0")
        if self.id is not None and not isinstance(self.id, str):
            raise QueryError(f"the id of an example is {self.id!r:.40}; expected a string")


Examples = Any  # one of a kind, or several of them


class ExampleEncoder:
    """Encodes GIFs and pictures as the index's own GIFs were; its encoder is loaded at the first one. Thread-safe."""

    def __init__(self, opened: Opened, projection: Projection | None, name: str | None, weights: Path | None) -> None:
        """`name` and `weights` are the image encoder's name and weights file here, None if unchanged.

        A words index has no projection, and encodes no examples.
        """
        self._opened, self._path, self._manifest = opened, opened.path, opened.manifest
        self._projection = projection
        self._name, self._weights = name, weights
        self._encoder: ImageEncoder | None = None
        self._lock = threading.Lock()

    def embed(self, features: FloatArray) -> FloatArray:
        """Return the unit embeddings float32 (n, d) of features float32 (n, d_image)."""
        if self._projection is None:
            raise only_gifs(self._path)
        return self._projection.embed_images(features)

    def features(self, example: Example) -> FloatArray:
        """Return the features float32 (d_image,) of a GIF or a picture; raises DecodeError and EncoderError."""
        source = example.image if example.gif is None else example.gif
        data, where = (b"", "") if isinstance(source, np.ndarray) else _read(source)
        encoder = self._loaded()  # which takes seconds, so a file that cannot be read is reported before
        if example.gif is not None:
            return self._of_gif(encoder, data, where)
        from gifdex.encoders.frames.limits import Limits
        from gifdex.encoders.frames.still import decode_still, frame_of

        if isinstance(source, np.ndarray):
            if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
                raise QueryError(
                    f"the picture is an array of {source.dtype} of shape {source.shape}; expected uint8 RGB (height, "
                    "width, 3)"
                )
            frames = frame_of(source, encoder.frame_size)
        else:
            try:
                frames = decode_still(data, encoder.frame_size, Limits())
            except DecodeError as err:
                raise type(err)(f"cannot use the picture {where}: {err}") from err
        features: FloatArray = encoder(frames)[0]
        return features

    @property
    def cached_as(self) -> tuple[str, int]:
        """The fingerprint of the index's features, which names their cache, and their dimensions."""
        fingerprint, encoder = self._manifest.features_fingerprint, self._manifest.image_encoder
        assert fingerprint is not None  # those of a words index alone are
        assert encoder is not None
        return fingerprint, encoder.dimensions

    def outcomes(self, sources: Iterable[tuple[str, bytes]]) -> list[Outcome]:
        """Return the outcome of each GIF, given as a distinct key and bytes: features, or why there are none.

        Batches are filled while later sources are still awaited. A GIF may take two seconds to decode, for someone
        waits for all of them. Raises EncoderError.
        """
        encoder = self._loaded()
        from gifdex.encoders.features import encode
        from gifdex.encoders.frames.decode import FrameDecoder
        from gifdex.encoders.frames.limits import Limits

        with FrameDecoder() as decode:
            limits = Limits(seconds=_MAX_SECONDS)
            return encode(encoder, sources, replace(self._settings(), threads=available_cpus(), limits=limits), decode)

    def _of_gif(self, encoder: ImageEncoder, data: bytes, where: str) -> FloatArray:
        from gifdex.encoders.features import encode
        from gifdex.encoders.frames.decode import FrameDecoder

        with FrameDecoder() as decode:
            (outcome,) = encode(encoder, [("example", data)], self._settings(), decode)
        if outcome.features is None:
            raise DecodeError(f"cannot use the GIF {where}: {outcome.reason}")
        return outcome.features

    def _settings(self) -> Any:
        from gifdex.encoders.frames.limits import Sampling
        from gifdex.encoders.settings import EncodeSettings

        made = self._manifest.features
        if made is None:
            return EncodeSettings(image_encoder=self._opened.image_encoder.name, threads=1)
        sampling = Sampling(made.frames, made.sampling)
        return EncodeSettings(
            image_encoder=self._opened.image_encoder.name,
            precision=made.precision,
            sampling=sampling,
            decoder=made.decoder or "auto",
            threads=1,
        )

    def _loaded(self) -> ImageEncoder:
        with self._lock:
            if self._encoder is None:
                self._encoder = self._construct()
            return self._encoder

    def _construct(self) -> ImageEncoder:
        from gifdex.encoders import registry

        record, made = self._opened.image_encoder, self._manifest.features
        if self._name is None and "://" in record.name:  # a module is a program, and an index may come from anyone
            raise EncoderError(
                f"the index {self._path} was built with the image encoder {record.name} ({record.fingerprint}), which "
                "would be downloaded and run: if you trust it, name it with --image-encoder, or image_encoder= in "
                "gifdex.open"
            )
        options = ImageEncoderOptions(self._weights, "auto" if made is None else made.precision)
        encoder = registry.image_encoder(self._name or record.name, options)
        if encoder.fingerprint != record.fingerprint:
            raise EncoderError(
                f"the index {self._path} was built with the image encoder {record.name} ({record.fingerprint}), but "
                f"the example would be encoded by {encoder.name} ({encoder.fingerprint}): give the encoder and the "
                "weights that it was built with, or rebuild"
            )
        from gifdex.encoders.features import features_fingerprint  # imports Pillow, which encoders' extras install

        if features_fingerprint(encoder, self._settings()) != self._manifest.features_fingerprint:
            raise EncoderError(
                f"the index {self._path} was built with features {self._manifest.features_fingerprint}, made in a way "
                "that this gifdex cannot repeat: rebuild it, or query it with sentences and ids"
            )
        return encoder


def _read(source: Any) -> tuple[bytes, str]:
    """Return the bytes of a source, and what to call it in errors."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), f"of {len(source):,} bytes"
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            return path.read_bytes(), str(path)
        except (OSError, ValueError) as err:
            reason = err.strerror if isinstance(err, OSError) and err.strerror else err
            raise QueryError(f"cannot read the example {path}: {reason}; expected a file") from err
    if not hasattr(source, "read"):
        raise QueryError(f"the example is a {type(source).__name__}; expected a path, bytes or an open binary file")
    data = source.read()
    if not isinstance(data, bytes):
        raise QueryError(f"the example's file gives {type(data).__name__}; expected bytes: open it in binary mode")
    return data, f"of {len(data):,} bytes"


def gathered(gif: Examples, image: Examples, id_: Examples, examples: Iterable[Example]) -> list[Example]:
    """Return all examples as a list, those given directly with weight 1; raises QueryError if there is none."""
    found = [Example(gif=one) for one in _several(gif)]
    found += [Example(image=one) for one in _several(image)]
    found += [Example(id=one) for one in _several(id_)]
    found += _checked(examples)
    if not found:
        raise QueryError("there is no example; expected a gif, an image or an id")
    return found


def subtracted(minus: Any) -> list[Example]:
    """Return the examples to subtract; a string is an id."""
    if minus is None:
        return []
    return _checked([minus] if isinstance(minus, (str, Example)) else minus)


def _several(given: Examples) -> Sequence[Any]:
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]


def _checked(examples: Iterable[Any]) -> list[Example]:
    if not isinstance(examples, Iterable):
        raise QueryError(f"the examples are a {type(examples).__name__}; expected a list of gifdex.Example or ids")
    found = [Example(id=one) if isinstance(one, str) else one for one in examples]
    for one in found:
        if not isinstance(one, Example):
            raise QueryError(f"an example is a {type(one).__name__}; expected a gifdex.Example or an id")
    return found


def item_of(opened: Opened, key: str) -> int:
    """Return the position of the item with an id; raises QueryError if there is none."""
    is_text = key.encode(errors="ignore").decode() == key  # without a lone surrogate
    found = opened.items.matching({"id": key}) if is_text else np.empty(0, np.int64)
    if not len(found):
        raise QueryError(f"the index {opened.path} has no item {key!r:.80}; expected one of its ids")
    return int(found[0])


def stored_vector(opened: Opened, space: SpaceRecord, key: str) -> FloatArray:
    """Return an item's unit vector float32 (d,) in a space; raises QueryError if it has none."""
    item = item_of(opened, key)
    field = opened.fields[IMAGE] if space.name == JOINT_SPACE else opened.feature_field()
    row = int(field.items.row_of[item])
    if row < 0:
        raise QueryError(f"the item {key!r:.80} has no vector in the field {field.name}")
    vector: FloatArray = field.searcher.vectors_at(np.array([row]))[0]
    return vector


class EncodedOnce:
    """Encodes each example of one query once, however often and in however many spaces it is compared."""

    def __init__(self, encoder: ExampleEncoder) -> None:
        self.embed = encoder.embed
        self._encoder = encoder
        self._found: list[tuple[Example, FloatArray]] = []

    def features(self, example: Example) -> FloatArray:
        """Return the features float32 (d_image,) of a GIF or a picture; raises as `ExampleEncoder.features` does."""
        for known, features in self._found:
            if known is example:  # a file can be read only once
                return features
        features = self._encoder.features(example)
        self._found.append((example, features))
        return features


def combined(
    opened: Opened, encoder: ExampleEncoder | EncodedOnce, space: SpaceRecord, plus: list[Example], minus: list[Example]
) -> FloatArray:
    """Return the sum float32 (d,) of the examples' weighted unit vectors in a space, those of `minus` subtracted.

    Raises QueryError if they cancel out.
    """
    total: NDArray[np.float64] | None = None
    for sign, example in [*((1, one) for one in plus), *((-1, one) for one in minus)]:
        if example.id is not None:
            vector = stored_vector(opened, space, example.id)
        else:
            features = encoder.features(example)
            vector = encoder.embed(features[None])[0] if space.name == JOINT_SPACE else unit(features)
        part = sign * example.weight * vector.astype(np.float64)
        total = part if total is None else total + part
    assert total is not None
    if np.linalg.norm(total) < 1e-6 * sum(one.weight for one in (*plus, *minus)):
        raise QueryError("the examples cancel out, so they have no direction to search in; give others")
    result: FloatArray = unit(total)
    return result


def copies_of(opened: Opened, examples: Iterable[Example]) -> Rows:
    """Return the items that examples name by id, and their copies, ascending."""
    items = [item_of(opened, one.id) for one in examples if one.id is not None]
    if not items:
        return np.empty(0, np.int64)
    mapping = opened.fields[IMAGE].items
    return np.unique(mapping.items_of(np.unique(mapping.row_of[np.array(items)])))
