"""Scan all reduced vectors by matrix products. It reads them from Annoy's file, so it has no file of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.annoy_trees import EUCLIDEAN, SUFFIX, map_vectors
from gifdex.index.engines.base import Rows, Shape, Tuning
from gifdex.index.engines.names import SCAN
from gifdex.index.scores import highest, products
from gifdex.index.vectors import NPY_SUFFIX, map_npy
from gifdex.schemas.manifest import EngineRecord, RecallRecord

METRIC = "ip"  # inner product
# Up to this many numbers read per query, a scan is faster than Annoy's trees: over reduced vectors (1,000,000 of 256
# dimensions, of which it reads about 80: 34 queries per second against 25), and over full ones (GloVe, 399,000 of 50
# dimensions: 179 against 280 at equal recall). With many queries per call, products are four times as fast.
_MAX_REDUCED_NUMBERS, _MAX_WHOLE_NUMBERS, _BATCH_GAIN = 100_000_000, 12_500_000, 4
# Scores held at a time: 64 MiB of float32.
_SCORES = 16 * 1024**2


class ScanEngine:
    """Proposes the rows whose reduced vectors float32 (rows, r) have the highest inner products with the query."""

    def __init__(self, vectors: FloatArray) -> None:
        self._vectors = vectors

    def candidates(self, queries: FloatArray, count: int, without: Rows | None = None) -> Sequence[Rows]:
        """See Engine; multiplies several queries at once."""
        if without is not None:
            found = self.candidates(queries, count + 1)
            return [rows[rows != own] for rows, own in zip(found, without, strict=True)]
        rows = len(self._vectors)
        if count >= rows:
            return [np.arange(rows)] * len(queries)
        block = max(1, _SCORES // rows)
        found = []
        for start in range(0, len(queries), block):
            scores = products(queries[start : start + block], self._vectors)
            found += [highest(row, count) for row in scores]
        return found


class ScanKind:
    """A scan of all reduced vectors: see EngineKind."""

    name = SCAN
    package = "numpy"
    tuning = Tuning(target=0.99)
    is_exhaustive = True

    def require(self) -> None:
        """A scan needs only numpy."""

    def describe(self, shape: Shape, parameters: Mapping[str, int]) -> EngineRecord:
        """See EngineKind; there are no parameters."""
        if parameters:
            raise ValueError(f"the engine {SCAN} has no parameter {min(parameters)!r}")
        return EngineRecord("numpy", np.__version__, METRIC, shape.scanned, {}, 0, RecallRecord(0, {}), None)

    def file(self, stem: str, reduced: bool) -> str:
        """See EngineKind: Annoy's file holds the reduced vectors."""
        return f"{stem}{SUFFIX if reduced else NPY_SUFFIX}"

    def build(self, folder: Path, stem: str, vectors: FloatArray, record: EngineRecord) -> None:
        """See EngineKind: there is nothing to build."""

    def problem(self, record: EngineRecord, shape: Shape) -> str | None:
        """See EngineKind."""
        return None if record.metric == METRIC else f"has the metric {record.metric!r:.40}, not {METRIC!r}"

    def check(self, path: Path, rows: int, record: EngineRecord) -> None:
        """See EngineKind."""
        self.open(path, rows, record)

    def open(self, path: Path, rows: int, record: EngineRecord) -> ScanEngine:
        """See EngineKind."""
        if path.suffix == SUFFIX:
            return ScanEngine(map_vectors(path, rows, record.dimensions, EUCLIDEAN))
        return ScanEngine(map_npy(path, (rows, record.dimensions), np.float32))

    def suits(self, rows: int, record: EngineRecord, *, reduced: bool, batch: bool) -> bool:
        """See EngineKind: up to a limit of numbers read per query."""
        numbers = _MAX_REDUCED_NUMBERS if reduced else _MAX_WHOLE_NUMBERS
        return rows * record.dimensions <= numbers * (_BATCH_GAIN if batch else 1)
