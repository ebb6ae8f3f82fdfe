"""The interface of engines. Each has one module here; `registry` lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.schemas.manifest import EngineRecord

Rows = NDArray[np.int64]


class Engine(Protocol):
    """An opened engine over one shard; several threads may search it at once."""

    def candidates(self, queries: FloatArray, count: int, without: Rows | None = None) -> Sequence[Rows]:
        """Return about `count` distinct rows of the shard for each of `queries` float32 (n, r), in any order.

        r is the number of dimensions that the engine uses (`EngineRecord.dimensions`). May return more than `count`
        rows if that costs nothing, and fewer if the engine finds no more. `without` (n,) has one row per query that the
        engine must ignore, or -1.
        """


@dataclass(frozen=True)
class Tuning:
    """How an engine's default `num_candidates` is chosen.

    It is the smallest number whose recall@10 reaches `target`. For slow engines, only every `step`-th stored vector is
    used as a query, and twice that share of the sentences.
    """

    target: float
    step: int = 1


@dataclass(frozen=True)
class Shape:
    """What engines are built over: vectors of `dimensions`, or of a reduction.

    `scanned` and `kept` are how many of its leading directions scans and graphs use; both are `dimensions` without a
    reduction.
    """

    dimensions: int
    reduced: bool
    scanned: int
    kept: int


class EngineKind(Protocol):
    """One kind of engine: how it is built, checked, opened and chosen."""

    @property
    def name(self) -> str:
        """Its name in manifests, in Python and on the command line."""

    @property
    def package(self) -> str:
        """The package that builds it."""

    @property
    def tuning(self) -> Tuning:
        """How its default `num_candidates` is chosen."""

    @property
    def is_exhaustive(self) -> bool:
        """Whether it scores every row, so that it can replace engines that miss their target."""

    def require(self) -> None:
        """Raise MissingExtraError if a package that its build needs is not installed."""

    def describe(self, shape: Shape, parameters: Mapping[str, int]) -> EngineRecord:
        """Return the record of an engine to be built, without measurements.

        `parameters` override its defaults. Raises ValueError for an unknown one.
        """

    def file(self, stem: str, reduced: bool) -> str:
        """Return the name of its file in a shard whose file names begin with `stem`."""

    def build(self, folder: Path, stem: str, vectors: FloatArray, record: EngineRecord) -> None:
        """Write its file over a shard's `vectors` float32 (n, record.dimensions), which may be reduced.

        An engine that reads another engine's file, or the stored vectors, does nothing.
        """

    def problem(self, record: EngineRecord, shape: Shape) -> str | None:
        """Return why its record in a manifest is invalid, or None."""

    def check(self, path: Path, rows: int, record: EngineRecord) -> None:
        """Raise CorruptIndexError if the header or the size of its file does not match the shard's counts."""

    def open(self, path: Path, rows: int, record: EngineRecord) -> Engine:
        """Map its file; raises CorruptIndexError if the file differs from the record."""

    def suits(self, rows: int, record: EngineRecord, *, reduced: bool, batch: bool) -> bool:
        """Tell whether it is the fastest for this many rows, with one query per call or (`batch`) many.

        The default is the first kind in the registry's order that suits and is selective enough.
        """


def evenly_spaced(rows: int, count: int) -> Rows:
    """Return up to `count` distinct rows of `rows`, evenly spaced."""
    return np.unique(np.linspace(0, rows - 1, count).astype(np.int64))
