"""Write an index version: items, vectors, row maps, engine files and, last, the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gifdex.encoders.base import Classifier, FloatArray
from gifdex.encoders.projections.base import Projection
from gifdex.index import items as item_files
from gifdex.index import moments, row_items
from gifdex.index import reduction as reductions
from gifdex.index.artifact import (
    CLASSIFIER_NAME,
    ITEMS_NAME,
    PROJECTION_NAME,
    commit_manifest,
    file_records,
    moments_name,
    reduction_name,
    row_items_name,
    stem,
    vectors_name,
)
from gifdex.index.calibration import calibrated
from gifdex.index.engines import registry
from gifdex.index.engines.base import evenly_spaced
from gifdex.index.field_records import IMAGE, files
from gifdex.index.fields import JOINT_SPACE
from gifdex.index.moments import Times
from gifdex.index.reduction import SAMPLE, Reduction, fit_rows, shape_of
from gifdex.index.row_items import Items
from gifdex.index.search import Searcher, open_shards
from gifdex.index.tuning import tune
from gifdex.index.vectors import map_stored, write_npy
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.files import commit_bytes
from gifdex.schemas.manifest import (
    FORMAT,
    FORMAT_VERSION,
    EncoderRecord,
    EngineRecord,
    FeaturesRecord,
    FieldRecord,
    Manifest,
    ProjectionRecord,
    ReductionRecord,
    ShardRecord,
    SpaceRecord,
    TextRecord,
)

# Engines to build, each with the parameters that override its defaults.
Engines = Mapping[str, Mapping[str, int]]
DEFAULT_ENGINES: Engines = {name: {} for name in registry.DEFAULTS}


@dataclass(frozen=True)
class Origin:
    """The build id of a version, the encoders behind it, and the number of items left out as near duplicates.

    A words index has no image encoder and no features.
    """

    build_id: str
    image_encoder: EncoderRecord | None
    features_fingerprint: str | None
    text_encoder: EncoderRecord
    features: FeaturesRecord | None = None
    duplicates: int = 0


@dataclass(frozen=True)
class FieldPlan:
    """A field to build: its space and its engines. A field without engines is scanned."""

    space: SpaceRecord
    engines: Engines

    @property
    def answers_sentences(self) -> bool:
        """Whether sentences can be compared with its vectors."""
        return self.space.name == JOINT_SPACE


def write_items(version: Path, items: pa.Table) -> None:
    """Write the items (schema ITEMS) in the given order."""
    item_files.write(version / ITEMS_NAME, items)


def write_rows(
    version: Path,
    field: str,
    shard: int,
    vectors: NDArray[Any],
    items: Sequence[Items],
    count: int,
    times: Times | None = None,
) -> None:
    """Write one field's rows for a shard of `count` items: distinct vectors (n, d), and the items of each row.

    `vectors` are float32 unit vectors, or float16 vectors of any length. `items[i]` has the positions in the shard,
    from 0, of the items whose vector is row i. `times` are those of a field of frames, one for each pair of a row and
    an item. Without rows, no file is written. Raises ValueError for vectors that cannot be searched.
    """
    paths = [version / name(field, shard) for name in (vectors_name, row_items_name, moments_name)]
    for path in paths:  # left by an earlier attempt
        path.unlink(missing_ok=True)
    if not len(items):
        return
    if not row_items.is_identity(items, count):
        row_items.write(paths[1], items)
    if times is not None:
        moments.write(paths[2], times)
    write_npy(paths[0], vectors, f"shard {shard} of the field {field}")


def shards_with_rows(version: Path, field: str, shards: int) -> list[int]:
    """Return the numbers of the shards that have rows of a field."""
    return [shard for shard in range(shards) if (version / vectors_name(field, shard)).is_file()]


def fit_reduction(version: Path, field: str, shards: Sequence[int]) -> Reduction | None:
    """Fit a field's reduction on up to SAMPLE evenly spaced vectors, and write it.

    Returns None and writes nothing if a reduction would not help.
    """
    stored = [map_stored(version / vectors_name(field, shard)) for shard in shards]
    firsts = np.cumsum([0, *map(len, stored)])
    wanted = evenly_spaced(int(firsts[-1]), SAMPLE)
    parts = [
        (vectors, wanted[(wanted >= first) & (wanted < first + len(vectors))] - first)
        for vectors, first in zip(stored, firsts[:-1], strict=True)
    ]
    reduction, path = fit_rows(parts) if parts else None, version / reduction_name(field)
    path.unlink(missing_ok=True)
    if reduction is not None:
        reduction.save(path)
    return reduction


def load_reduction(version: Path, field: str, dimensions: int) -> Reduction | None:
    """Return the reduction that `fit_reduction` wrote, or None; raises CorruptIndexError if it is damaged."""
    path = version / reduction_name(field)
    return reductions.load(path, dimensions) if path.is_file() else None


def engine_files(version: Path, field: str, shard: int, engines: Engines, *, reduced: bool) -> list[Path]:
    """Return the files that `build_engines` writes, in order."""
    start, stored = stem(field, shard), vectors_name(field, shard)
    names = dict.fromkeys(registry.kind(name).file(start, reduced) for name in engines)
    return [version / name for name in names if name != stored]


def build_engines(version: Path, field: str, shard: int, engines: Engines) -> None:
    """Build one shard's engines over its vectors, which must be on disk."""
    vectors = map_stored(version / vectors_name(field, shard))
    reduction = load_reduction(version, field, vectors.shape[1])
    records = _engine_records(vectors.shape[1], reduction, engines)
    reduced: FloatArray = vectors
    if reduction is not None:
        reduced = vectors @ reduction.leading(max(record.dimensions for record in records.values()))
    for name, record in records.items():
        registry.kind(name).build(version, stem(field, shard), reduced[:, : record.dimensions], record)


def _engine_records(dimensions: int, reduction: Reduction | None, engines: Engines) -> dict[str, EngineRecord]:
    """Return the engines' records, without measurements."""
    shape = shape_of(dimensions, reduction)
    return {name: registry.kind(name).describe(shape, parameters) for name, parameters in engines.items()}


def finish_version(
    version: Path,
    origin: Origin,
    shard_items: Sequence[int],
    fields: Mapping[str, FieldPlan],
    projection: Projection | None,
    *,
    sentences: FloatArray | None = None,
    classifier: Classifier | None = None,
    text: TextRecord | None = None,
    scenes: FloatArray | None = None,
) -> Manifest:
    """Tune the engines, write the projection, the classifier and the manifest, and return the manifest.

    `shard_items` are the shards' item counts. Fields without rows are left out. `sentences` are typical queries, unit
    vectors float32 (n, d) in the joint space; engines are tuned with these and with stored vectors. `classifier` is the
    image encoder's, `text` what `text_file.write` returned; `scenes`, vectors as `sentences`, calibrate the field of
    images. A words index has no projection. Raises CorruptIndexError if the files differ from the plan.
    """
    total = sum(shard_items)
    item_files.load(version / ITEMS_NAME, total)
    if projection is not None:
        projection.save(version / PROJECTION_NAME)
    if classifier is not None:
        commit_bytes(version / CLASSIFIER_NAME, classifier.data)
    records = {}
    for name, plan in fields.items():
        if numbers := shards_with_rows(version, name, len(shard_items)):
            records[name] = _tuned(version, _field_record(version, name, plan, shard_items, numbers), plan, sentences)
    if scenes is not None:
        records[IMAGE] = calibrated(version, records[IMAGE], scenes)
    names = [ITEMS_NAME, *([] if projection is None else [PROJECTION_NAME])]
    names += [] if classifier is None else [CLASSIFIER_NAME]
    names += [] if text is None else [text.file]
    names += [name for record in records.values() for name in files(record)]
    manifest = Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        created_by=f"gifdex {package_version('gifdex')}",
        build_id=origin.build_id,
        items=total,
        metric="cosine",
        image_encoder=origin.image_encoder,
        features_fingerprint=origin.features_fingerprint,
        text_encoder=origin.text_encoder,
        projection=None
        if projection is None
        else ProjectionRecord(projection.kind, projection.fingerprint, PROJECTION_NAME),
        items_file=ITEMS_NAME,
        fields=records,
        files=file_records(version, names),
        features=origin.features,
        classifier=None if classifier is None else CLASSIFIER_NAME,
        duplicates=origin.duplicates,
        text=text,
    )
    commit_manifest(version, manifest)
    return manifest


def _field_record(
    version: Path, field: str, plan: FieldPlan, shard_items: Sequence[int], numbers: Sequence[int]
) -> FieldRecord:
    """Return a field's record, read from its files; its engines are not measured yet."""
    stored = {number: map_stored(version / vectors_name(field, number)) for number in numbers}
    first = stored[numbers[0]]
    reduction = load_reduction(version, field, first.shape[1])
    firsts = np.cumsum([0, *shard_items]).tolist()
    shards = []
    for number, vectors in stored.items():
        start, mapped = stem(field, number), row_items_name(field, number)
        has_map = (version / mapped).is_file()
        if not has_map and len(vectors) != shard_items[number]:
            raise CorruptIndexError(
                f"{version / vectors_name(field, number)} has {len(vectors):,} rows, but the shard has "
                f"{shard_items[number]:,} items: build it again"
            )
        read = {name: registry.kind(name).file(start, reduction is not None) for name in plan.engines}
        row_map = mapped if has_map else None
        timed = moments_name(field, number)
        times = timed if (version / timed).is_file() else None
        name = vectors_name(field, number)
        shards.append(ShardRecord(firsts[number], shard_items[number], len(vectors), name, row_map, read, times))
    return FieldRecord(
        space=plan.space,
        dimensions=first.shape[1],
        dtype=str(first.dtype),
        rows=sum(shard.rows for shard in shards),
        shards=tuple(shards),
        reduction=None
        if reduction is None
        else ReductionRecord(reduction.shape.kept, reduction.sample, reduction_name(field)),
        engine=None,
        engines=_engine_records(first.shape[1], reduction, plan.engines),
    )


def _tuned(version: Path, record: FieldRecord, plan: FieldPlan, sentences: FloatArray | None) -> FieldRecord:
    """Return the record with its engines tuned and measured on the files."""
    if not record.engines:
        return record
    reduction = None
    if record.reduction is not None:
        reduction = reductions.load(version / record.reduction.file, record.dimensions)
    shards = open_shards(version, record)
    for shard in shards:
        shard.check(record.engines)
    searcher = Searcher(shards, record.engines, reduction)
    engines = tune(searcher, sentences if plan.answers_sentences else None)
    default = registry.default(engines, record.rows, len(record.shards), reduced=reduction is not None)
    return replace(record, engine=default, engines=engines)
