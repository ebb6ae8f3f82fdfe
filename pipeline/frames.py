"""Write the field of frames of one shard: the embeddings of single frames, and when each is shown."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.encoders.feature_cache import FeatureCache
from gifdex.encoders.frame_cache import FrameCache
from gifdex.encoders.projections.base import Projection
from gifdex.index.build import write_rows
from gifdex.index.field_records import FRAMES
from gifdex.index.moments import Times, distinct_frames

# Rows per block of the projection: limits memory, and fixes the shapes of the products.
_BLOCK = 4096


def projected(features: FloatArray, projection: Projection) -> FloatArray:
    """Return the embeddings float32 (n, d) of features float32 (n, d_image)."""
    blocks = [projection.embed_images(features[at : at + _BLOCK]) for at in range(0, len(features), _BLOCK)]
    return np.concatenate(blocks)


def row_keys(vectors: NDArray[Any]) -> list[bytes]:
    """Return a hash of each of the vectors (n, d); only equal vectors have equal ones."""
    return [hashlib.blake2b(vector.tobytes(), digest_size=16).digest() for vector in vectors]


def count_frames(items: pa.Table, cache: FeatureCache) -> int:
    """Return how many frames the distinct GIFs of items (schema ITEMS) have in the cache."""
    keys = sorted(set(items["sha256"].to_pylist()))
    return int(FrameCache.beside(cache).counts(keys).sum())


def write_frames(version: Path, shard: int, keys: Sequence[str], cache: FrameCache, projection: Projection) -> None:
    """Write the field of frames for a shard whose items have the SHA-256s `keys`."""
    distinct, gifs = np.unique(np.asarray(keys, np.str_), return_inverse=True)
    names = [str(key) for key in distinct]
    counts = cache.counts(names)
    starts = np.concatenate([[0], np.cumsum(counts)])
    vectors = np.empty((int(starts[-1]), projection.dimensions), np.float32)
    times = Times(np.empty(len(vectors), np.int64), np.empty(len(vectors), np.int32))
    at = 0
    for block in cache.blocks(names):
        end = at + sum(map(len, block))
        features = np.concatenate([gif.features for gif in block]).astype(np.float32)
        vectors[at:end] = projected(features, projection)
        times.milliseconds[at:end] = np.concatenate([gif.milliseconds for gif in block])
        times.frames[at:end] = np.concatenate([gif.numbers for gif in block])
        at = end
    firsts, items, shown = distinct_frames(row_keys(vectors), times, starts.tolist(), gifs.tolist())
    write_rows(version, FRAMES, shard, vectors[firsts], items, len(keys), shown)
