"""Turn GIFs' bytes into features: batches of one fixed size are filled across GIFs, and the results pooled by GIF.

Threads read, decode and sample ahead of the model. A source is a key and the GIF's bytes, or a function that reads
them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray, ImageEncoder, fingerprint
from gifdex.encoders.feature_cache import FrameFeatures, Outcome
from gifdex.encoders.frames.decode import RESIZE, FrameDecoder, SampledFrames
from gifdex.encoders.frames.decoders import registry
from gifdex.encoders.settings import EncodeSettings
from gifdex.schemas.errors import DecodeError, EncoderError, GifdexError

# Increment when our own decoding, sampling or pooling changes the features.
_REVISION = 2

Reader = Callable[[], bytes]
KeyedSource = tuple[str, Reader | bytes]


def features_recipe(encoder: ImageEncoder, settings: EncodeSettings) -> dict[str, Any]:
    """Return everything that shapes features; its fingerprint names their cache."""
    recipe = {
        "image_encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint, "dimensions": encoder.dimensions},
        "sampling": {"strategy": settings.sampling.strategy, "frames": settings.sampling.count},
        "resize": RESIZE,
        "pooling": "mean over moments",
        "revision": _REVISION,
    }
    if encoder.precision != "float32":
        recipe["precision"] = encoder.precision
    if (different := registry.pixels_of(settings.decoder)) is not None:
        recipe["decoder"] = different
    return recipe


def features_fingerprint(encoder: ImageEncoder, settings: EncodeSettings) -> str:
    """Return the name of the features' cache: a hash of the recipe without the path in the encoder's name."""
    recipe = features_recipe(encoder, settings)
    kind = encoder.name.partition(":")[0]
    return fingerprint({**recipe, "image_encoder": {**recipe["image_encoder"], "name": kind}})


def encode(
    encoder: ImageEncoder,
    sources: Iterable[KeyedSource],
    settings: EncodeSettings,
    decode: FrameDecoder,
    *,
    keep_frames: bool = False,
) -> list[Outcome]:
    """Return the outcome of every source, in order: features pooled over its sampled frames, or a reject.

    With `keep_frames`, outcomes also have the features of each frame; raises EncoderError if these do not fit into
    float16. Keys must be distinct. Whatever a reader raises becomes a reject; a DecodeError keeps its message.
    """
    batcher = _Batcher(encoder, keep_frames)
    keys: list[str] = []
    decoded: dict[str, SampledFrames] = {}
    rejected: dict[str, Outcome] = {}
    for key, loaded in _loaded_ahead(sources, settings, encoder, decode):
        keys.append(key)
        if isinstance(loaded, Outcome):
            rejected[key] = loaded
        else:
            batcher.add(key, loaded)
            decoded[key] = replace(loaded, frames=loaded.frames[:0].copy())  # frees the pixels
    batcher.flush()
    return [
        rejected.get(key) or _outcome(key, decoded[key], batcher.pooled[key], batcher.kept.get(key)) for key in keys
    ]


def load(
    source: KeyedSource, settings: EncodeSettings, frame_size: tuple[int, int], decode: FrameDecoder
) -> SampledFrames | Outcome:
    """Read and decode one GIF; return its frames, or a reject."""
    key, data = source
    try:
        data = data if isinstance(data, bytes) else data()
    except DecodeError as err:
        return Outcome(key, 0, None, type(err).__name__, str(err), lasting=err.lasting)
    except Exception as err:  # noqa: BLE001  # each filesystem fails in its own way; every one ends as a reject
        reason = f"cannot read the file: {' '.join(str(err).split())[:200]}"
        return Outcome(key, 0, None, type(err).__name__, reason, lasting=False)
    try:
        return decode(data, settings.sampling, frame_size, settings.limits, settings.decoder)
    except DecodeError as err:
        return Outcome(key, 0, None, type(err).__name__, str(err), lasting=err.lasting)
    except GifdexError:
        raise  # not the GIF's fault
    except Exception as err:  # noqa: BLE001  # a defect of gifdex, but one GIF never fails a job
        reason = f"gifdex itself failed on it, please report it: {' '.join(str(err).split())[:200]}"
        return Outcome(key, 0, None, type(err).__name__, reason, lasting=False)


def _loaded_ahead(
    sources: Iterable[KeyedSource], settings: EncodeSettings, encoder: ImageEncoder, decode: FrameDecoder
) -> Iterator[tuple[str, SampledFrames | Outcome]]:
    """Yield `load`'s result for each source, in order, while threads load the next few."""
    # Enough to fill a batch, so that the threads have work while the model runs.
    max_waiting = settings.threads + encoder.batch_frames // settings.sampling.count
    waiting: deque[tuple[str, Future[SampledFrames | Outcome]]] = deque()
    with ThreadPoolExecutor(settings.threads, "gifdex-decode") as pool:
        for source in sources:
            waiting.append((source[0], pool.submit(load, source, settings, encoder.frame_size, decode)))
            if len(waiting) > max_waiting:
                key, future = waiting.popleft()
                yield key, future.result()
        while waiting:
            key, future = waiting.popleft()
            yield key, future.result()


class _Batcher:
    """Fills batches of frames across GIFs, runs the encoder on each, and pools by GIF."""

    def __init__(self, encoder: ImageEncoder, keep_frames: bool) -> None:
        self._encoder = encoder
        self._keep_frames = keep_frames
        self._frames = np.empty((encoder.batch_frames, *encoder.frame_size, 3), np.uint8)
        self._owners: list[tuple[str, float]] = []
        self.pooled: dict[str, NDArray[np.float64]] = {}
        self.kept: dict[str, list[NDArray[np.float16]]] = {}

    def add(self, key: str, sampled: SampledFrames) -> None:
        self.pooled[key] = np.zeros(self._encoder.dimensions)
        for frame, weight in zip(sampled.frames, sampled.weights, strict=True):
            self._frames[len(self._owners)] = frame
            self._owners.append((key, float(weight)))
            if len(self._owners) == len(self._frames):
                self.flush()

    def flush(self) -> None:
        if not self._owners:
            return
        features = self._encoder(self._frames[: len(self._owners)])
        for (key, weight), row in zip(self._owners, features, strict=True):
            self.pooled[key] += weight * row.astype(np.float64)
            if self._keep_frames:
                self.kept.setdefault(key, []).append(halved(row, "--moments"))
        self._owners.clear()


def _outcome(
    key: str, decoded: SampledFrames, pooled: NDArray[np.float64], kept: list[NDArray[np.float16]] | None
) -> Outcome:
    features: FloatArray = pooled.astype(np.float32)
    frames = len(decoded.numbers)
    if not np.isfinite(features).all():
        return Outcome(key, frames, None, "EncoderError", "the image encoder gave values that are not finite")
    each = None if kept is None else FrameFeatures(np.stack(kept), decoded.numbers, decoded.milliseconds)
    return Outcome(key, frames, features, reason=decoded.damage, canvas=decoded.canvas, each=each)


def halved(features: FloatArray, option: str) -> NDArray[np.float16]:
    """Return features as float16; raises EncoderError, which names the option, for finite values beyond its range."""
    with np.errstate(over="ignore"):
        result: NDArray[np.float16] = features.astype(np.float16)
    if not np.isfinite(result).all() and np.isfinite(features).all():
        raise EncoderError(
            f"the image encoder gives features up to {np.abs(features).max():,.0f}, but float16 holds at most "
            f"{np.finfo(np.float16).max:,.0f}: build without {option}"
        )
    return result
