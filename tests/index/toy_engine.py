"""An engine in one module, as a third party would write it: a scan of some coordinates, with its own file.

`registry.register(ToyKind())` adds it; no other code names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows, Shape, Tuning
from gifdex.index.vectors import map_npy
from gifdex.schemas.files import committing
from gifdex.schemas.manifest import EngineRecord, RecallRecord

NAME = "toy"


class ToyEngine:
    """Proposes the rows with the highest products over the first `coordinates` of the vectors."""

    def __init__(self, vectors: FloatArray, coordinates: int) -> None:
        self._vectors = vectors[:, :coordinates]

    def candidates(self, queries: FloatArray, count: int, without: Rows | None = None) -> Sequence[Rows]:
        """See Engine."""
        scores = queries[:, : self._vectors.shape[1]] @ self._vectors.T
        if without is not None:
            left_out = np.flatnonzero(without >= 0)
            scores[left_out, without[left_out]] = -np.inf
        found = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        own = np.full(len(queries), -1) if without is None else without
        return [rows[rows != one].astype(np.int64) for rows, one in zip(found, own, strict=True)]


class ToyKind:
    """See EngineKind; its one parameter is the number of coordinates to use, 0 for all."""

    name = NAME
    package = "numpy"
    is_exhaustive = False

    def __init__(self, target: float = 0.95) -> None:
        self.tuning = Tuning(target)

    def require(self) -> None:
        """See EngineKind: numpy is all it needs."""

    def describe(self, shape: Shape, parameters: Mapping[str, int]) -> EngineRecord:
        """See EngineKind."""
        if unknown := set(parameters) - {"coordinates"}:
            raise ValueError(f"the engine {NAME} has no parameter {min(unknown)!r}; expected coordinates")
        merged = {"coordinates": 0} | dict(parameters)
        return EngineRecord("numpy", np.__version__, "toy", shape.kept, merged, 0, RecallRecord(0, {}), None)

    def file(self, stem: str, reduced: bool) -> str:
        """See EngineKind."""
        return f"{stem}.toy.npy"

    def build(self, folder: Path, stem: str, vectors: FloatArray, record: EngineRecord) -> None:
        """See EngineKind."""
        path = folder / self.file(stem, False)
        with committing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, np.ascontiguousarray(vectors))

    def problem(self, record: EngineRecord, shape: Shape) -> str | None:
        """See EngineKind."""
        return None if record.metric == "toy" else f"has the metric {record.metric!r:.40}, not 'toy'"

    def check(self, path: Path, rows: int, record: EngineRecord) -> None:
        """See EngineKind."""
        self.open(path, rows, record)

    def open(self, path: Path, rows: int, record: EngineRecord) -> ToyEngine:
        """See EngineKind."""
        coordinates = record.parameters["coordinates"] or record.dimensions
        return ToyEngine(map_npy(path, (rows, record.dimensions), np.float32), coordinates)

    def suits(self, rows: int, record: EngineRecord, *, reduced: bool, batch: bool) -> bool:
        """See EngineKind: always."""
        return True
