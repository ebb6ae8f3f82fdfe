"""The content-addressed cache of features: the outcome of each GIF's bytes, by encoder.

A part file `<fingerprint>/<partition>/<task>.parquet` is written once, whole, and never changed. A
partition is the first hexadecimal digits of the SHA-256, as many as the writing task needed, or "all" for none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gifdex.encoders.base import Classifier, FloatArray
from gifdex.schemas import tables
from gifdex.schemas.errors import WorkspaceError
from gifdex.schemas.files import TEMPORARY_PREFIX, commit_bytes, commit_table, read_table

CLASSIFIER_NAME = "classifier.safetensors"
_ALL = "all"


@dataclass(frozen=True)
class FrameFeatures:
    """The features float16 (n, d) of each frame of a GIF, in order of time.

    `numbers` int32 (n,) are the frames' indexes in the file, and `milliseconds` int64 (n,) when each is first shown.
    """

    features: NDArray[np.float16]
    numbers: NDArray[np.int32]
    milliseconds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one GIF: its pooled features float32 (d,), or why there are none.

    A `reason` without an `error` says why only the beginning of the GIF counts. A reject that is not due to the bytes
    (the file could not be read) is not `lasting`: the next run tries again. `canvas` is the width and the height in
    pixels. `each` are the features of its frames, if they were asked for.
    """

    sha256: str
    frames: int
    features: FloatArray | None
    error: str | None = None
    reason: str | None = None
    lasting: bool = True
    canvas: tuple[int, int] | None = None
    each: FrameFeatures | None = None


class DamagedPartError(WorkspaceError):
    """A part file could not be read, and was deleted."""


def read_part(path: Path, columns: list[str], optional: tuple[str, ...] = ()) -> pa.Table:
    """Read columns of a part file, and those of `optional` that it has.

    Raises WorkspaceError, and DamagedPartError after deleting a damaged one.
    """
    try:
        names = pq.read_schema(path).names if optional else []
        return read_table(path, [*columns, *(name for name in optional if name in names)])
    except (OSError, pa.ArrowException) as err:
        detail = " ".join(str(err).split())[:200]
        if isinstance(err, OSError) and (type(err) is not OSError or err.errno is not None):  # the file may be whole
            raise WorkspaceError(f"cannot read the cached features {path}: {detail}; fix it and run again") from err
        path.unlink(missing_ok=True)
        raise DamagedPartError(
            f"the cached features {path} were damaged ({detail}) and have been deleted: run again to encode these "
            "GIFs again"
        ) from err


@dataclass(frozen=True)
class FeatureCache:
    """The cache of one fingerprint. `attempt` identifies this run's decoders and limits."""

    root: Path
    fingerprint: str
    dimensions: int
    attempt: str

    @property
    def folder(self) -> Path:
        """The folder of this fingerprint's part files."""
        return self.root / self.fingerprint

    def part(self, partition: str, task_id: str) -> Path:
        """Return the part file that a task commits."""
        return self.folder / (partition or _ALL) / f"{task_id}.parquet"

    def describe(self, recipe: Mapping[str, Any], classifier: Callable[[], Classifier | None]) -> None:
        """Write, beside the features, the recipe behind the fingerprint and the classifier, if there is one."""
        weights, note = self.folder / CLASSIFIER_NAME, self.folder / "fingerprint.json"
        if not weights.exists() and (found := classifier()) is not None:
            commit_bytes(weights, found.data)
        if not note.exists():
            commit_bytes(note, (json.dumps(recipe, indent=2) + "\n").encode())

    def commit(self, path: Path, outcomes: list[Outcome]) -> None:
        """Write one part file, rows in the order given."""
        vectors = [None if o.features is None else o.features.astype("<f4").tobytes() for o in outcomes]
        rows = {**self._columns(outcomes), "features": vectors}
        commit_table(path, pa.table(rows, schema=tables.features(self.dimensions, self.fingerprint)))

    def _columns(self, outcomes: list[Outcome]) -> dict[str, list[Any]]:
        """Return the columns that part files of features, pooled or not, share."""
        return {
            "sha256": [o.sha256 for o in outcomes],
            "frames": [o.frames for o in outcomes],
            "error": [o.error for o in outcomes],
            "reason": [o.reason for o in outcomes],
            "attempt": [self.attempt if o.lasting else "" for o in outcomes],
            "width": [o.canvas and o.canvas[0] for o in outcomes],
            "height": [o.canvas and o.canvas[1] for o in outcomes],
        }

    def parts(self, first: str = "", last: str = "g") -> Iterator[Path]:
        """Yield, sorted, the part files that may hold keys from `first` to `last`."""
        if not self.folder.is_dir():
            return
        for folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            theirs = "" if folder.name == _ALL else folder.name
            if theirs <= last and first[: len(theirs)] <= theirs:
                yield from sorted(p for p in folder.glob("*.parquet") if not p.name.startswith(TEMPORARY_PREFIX))

    def outcomes(self) -> pa.Table:
        """Return sha256, error and reason of every GIF whose outcome is still valid.

        Features are always valid; a reject only for the decoders and limits it was tried with. Damaged parts are
        skipped.
        """
        columns = ["sha256", "error", "reason", "attempt"]
        parts = []
        for path in self.parts():
            with suppress(DamagedPartError):
                parts.append(read_part(path, columns))
        empty = tables.features(self.dimensions, self.fingerprint)
        table = pa.concat_tables(parts) if parts else empty.empty_table().select(columns)
        is_valid = pc.or_(pc.is_null(table["error"]), pc.equal(table["attempt"], self.attempt))
        return table.filter(is_valid).select(columns[:3]).replace_schema_metadata(None)

    def outcomes_in(self, part: Path) -> list[Outcome]:
        """Return the outcomes with features of one part file, which may come from anywhere.

        Features of another size, or with numbers that are not finite, are left out. Raises WorkspaceError if the file
        cannot be read, or has columns of other types.
        """
        table = read_part(part, ["sha256", "frames", "features", "reason"], ("width", "height"))
        expected = tables.features(self.dimensions, self.fingerprint)
        if wrong := [field.name for field in table.schema if field.type != expected.field(field.name).type]:
            raise WorkspaceError(
                f"the features {part} have {wrong[0]} of another type, or features of another size; expected what "
                "gifdex writes: delete the file"
            )
        outcomes = (_outcome(row) for row in table.to_pylist() if None not in (row["features"], row["sha256"]))
        return [o for o in outcomes if o.features is not None and np.isfinite(o.features).all() and o.frames > 0]

    def features(self, keys: list[str]) -> FloatArray:
        """Return the features of distinct `keys` (hexadecimal SHA-256s) as float32 (n, d), in their order.

        Raises KeyError with the first key that has none.
        """
        place = {key: i for i, key in enumerate(keys)}
        found = np.zeros(len(keys), bool)
        result = np.empty((len(keys), self.dimensions), np.float32)
        wanted = pa.array(keys, pa.string())
        for path in self.parts(min(keys), max(keys)) if keys else ():
            table = read_part(path, ["sha256", "features"])
            table = table.filter(pc.and_(pc.is_in(table["sha256"], wanted), pc.is_valid(table["features"])))
            for key, vector in zip(table["sha256"].to_pylist(), table["features"].to_pylist(), strict=True):
                result[place[key]] = np.frombuffer(vector, "<f4")
                found[place[key]] = True
        if not found.all():
            raise KeyError(keys[int(np.argmin(found))])
        return result

    def canvases(self, keys: list[str]) -> dict[str, int]:
        """Return the canvas in pixels of those of `keys` for which it is known; caches of older versions lack it."""
        found: dict[str, int] = {}
        wanted = pa.array(keys, pa.string())
        for path in self.parts(min(keys), max(keys)) if keys else ():
            table = read_part(path, ["sha256"], ("width", "height"))
            if table.column_names == ["sha256", "width", "height"]:
                table = table.filter(pc.and_(pc.is_in(table["sha256"], wanted), pc.is_valid(table["width"])))
                columns = (table[name].to_pylist() for name in table.column_names)
                found |= {key: width * height for key, width, height in zip(*columns, strict=True)}
        return found


def _outcome(row: Mapping[str, Any]) -> Outcome:
    """Return the outcome of one row of a part file that has features."""
    width, height = row.get("width"), row.get("height")
    canvas = (width, height) if width and height else None
    features = np.frombuffer(row["features"], "<f4")
    return Outcome(row["sha256"], row["frames"] or 0, features, reason=row["reason"], canvas=canvas)
