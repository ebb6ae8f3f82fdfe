"""What an engine is to the rest of the index. One module here implements each; `registry` lists them."""

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
    """An opened engine over one shard; several threads may ask it at once."""

    def candidates(self, queries: FloatArray, count: int, without: Rows | None = None) -> Sequence[Rows]:
        """Return, for each of `queries` float32 (n, r), about `count` distinct rows of the shard, in no promised order.

        r is the count of dimensions that the engine sees (`EngineRecord.dimensions`). More rows than `count` may
        come where that costs nothing, fewer where the engine found no more. `without` (n,) names, for each query, a
        row that the engine does as if it did not have; -1 for none.
        """


@dataclass(frozen=True)
class Tuning:
    """How an engine's default `num_candidates` is chosen.

    The least number whose recall@10 reaches `target`. One stored vector in `step` is asked, and twice that share of the
    sentences: fewer of an engine that answers slowly.
    """

    target: float
    step: int = 1


@dataclass(frozen=True)
class Shape:
    """What engines are built over: vectors of `dimensions`, or of a reduction.

    `scanned` and `kept` are how many of its leading directions stand for the vectors in a scan and in a graph; they
    are `dimensions` where nothing is reduced.
    """

    dimensions: int
    reduced: bool
    scanned: int
    kept: int


class EngineKind(Protocol):
    """One kind of engine: how it is built, checked, opened and chosen."""

    @property
    def name(self) -> str:
        """What manifests, Python and the command line call it."""

    @property
    def package(self) -> str:
        """The package that builds it."""

    @property
    def tuning(self) -> Tuning:
        """How its default `num_candidates` is chosen."""

    @property
    def is_exhaustive(self) -> bool:
        """Whether it looks at every row, so that it answers where the others do not find enough."""

    def require(self) -> None:
        """Raise MissingExtraError where what its build needs is not installed."""

    def describe(self, shape: Shape, parameters: Mapping[str, int]) -> EngineRecord:
        """Return the record of an engine to be built, before anything was measured of it.

        `parameters` override its defaults. Raises ValueError for one that it does not have.
        """

    def file(self, stem: str, reduced: bool) -> str:
        """Return the name of the file that it reads in a shard whose files' names begin with `stem`."""

    def build(self, folder: Path, stem: str, seen: FloatArray, record: EngineRecord) -> None:
        """Write its file from `seen`, the vectors float32 (n, record.dimensions) of a shard as it sees them.

        An engine that reads what another one writes, or the vectors themselves, does nothing.
        """

    def problem(self, record: EngineRecord, shape: Shape) -> str | None:
        """Return what a manifest says of it that cannot be, None where all fits."""

    def check(self, path: Path, rows: int, record: EngineRecord) -> None:
        """Raise CorruptIndexError where its file does not have the shard's counts, by its header and size alone."""

    def open(self, path: Path, rows: int, record: EngineRecord) -> Engine:
        """Map its file; raises CorruptIndexError where that is not what the record says."""

    def suits(self, rows: int, record: EngineRecord, *, reduced: bool, batch: bool) -> bool:
        """Tell whether it answers soonest over so many rows, one query a call or (`batch`) many.

        Kinds are asked in the registry's order, and the first that suits and finds enough is the default.
        """


def evenly_spaced(rows: int, count: int) -> Rows:
    """Return up to `count` distinct rows of `rows`, evenly spaced over all."""
    return np.unique(np.linspace(0, rows - 1, count).astype(np.int64))
