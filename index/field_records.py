"""A field's record in the manifest: whether it is consistent, and which files it names."""

from __future__ import annotations

from collections.abc import Iterable

from gifdex.index import calibration
from gifdex.index.engines import registry
from gifdex.index.engines.base import Shape
from gifdex.index.vectors import DTYPES
from gifdex.schemas.manifest import FieldRecord

# The fields that a build makes; every version has the first, or is a words index, whose only field is WORD.
IMAGE, CAPTION, FEATURES, FRAMES, WORD = "image", "caption", "features", "frames", "word"
TEXT = "text"  # has words instead of vectors, see text_file.py
MAX_ITEMS = 2**48  # more would overflow byte counts


def main_field(fields: Iterable[str]) -> str:
    """Return the name of the field that answers unless a query names another, and that has a row for every item."""
    return WORD if WORD in fields else IMAGE


def problem(record: FieldRecord, items: int) -> str | None:
    """Return why a field's record is inconsistent, or None."""
    if record.dtype not in DTYPES:
        return f"has vectors of {record.dtype!r:.40}; expected one of {', '.join(DTYPES)}"
    unlike = None if record.calibration is None else calibration.problem(record.calibration)
    return _count_problem(record, items) or _engine_problem(record) or unlike


def _count_problem(record: FieldRecord, items: int) -> str | None:
    counts = [record.dimensions, record.rows, *(n for shard in record.shards for n in (shard.items, shard.rows))]
    if not record.shards or min(counts) < 1 or max(counts) > MAX_ITEMS:
        return f"has {record.rows:,} rows of {record.dimensions:,} dimensions, and a shard of none or too many"
    if sum(shard.rows for shard in record.shards) != record.rows:
        return (
            f"has {record.rows:,} rows in shards of {[shard.rows for shard in record.shards][:8]}, which do not add up"
        )
    end = 0
    for shard in record.shards:
        if shard.first_item < end or (shard.row_items is None and shard.rows != shard.items):
            return f"has a shard of {shard.rows:,} rows over {shard.items:,} items from {shard.first_item:,} on"
        end = shard.first_item + shard.items
    if len({shard.moments is None for shard in record.shards}) > 1:
        return "has times in some shards only; expected them in all or in none"
    if end > items:
        return f"has rows of {end:,} items, but there are {items:,}"
    return None


def _engine_problem(record: FieldRecord) -> str | None:
    if unknown := sorted(name for name in record.engines if not registry.known(name)):
        return f"has the engine {unknown[0]!r:.40}; expected some of {', '.join(registry.names())}"
    answers = record.engine in record.engines if record.engines else record.engine is None
    if not answers:
        return f"has the default engine {record.engine!r:.40}, which is not one of its engines {sorted(record.engines)}"
    width = record.dimensions if record.reduction is None else record.reduction.dimensions
    if width > record.dimensions:
        return f"is reduced from {record.dimensions} to {width} dimensions"
    for name, engine in record.engines.items():
        fits = 1 <= engine.dimensions <= width and (record.reduction is not None or engine.dimensions == width)
        if not fits or not 1 <= engine.num_candidates <= MAX_ITEMS:
            return (
                f"says that the engine {name} uses {engine.dimensions} of {width} dimensions, with "
                f"{engine.num_candidates} candidates"
            )
        reduced = record.reduction is not None
        shape = Shape(record.dimensions, reduced, scanned=engine.dimensions, kept=width)
        if (found := registry.kind(name).problem(engine, shape)) is not None:
            return f"says that the engine {name} {found}"
    for number, shard in enumerate(record.shards):
        if set(shard.engines) != set(record.engines):
            return (
                f"has files of the engines {sorted(shard.engines)} in shard {number}, not of {sorted(record.engines)}"
            )
    return None


def files(record: FieldRecord) -> list[str]:
    """Return the names of all files of a field."""
    names = [] if record.reduction is None else [record.reduction.file]
    for shard in record.shards:
        optional = [name for name in (shard.row_items, shard.moments) if name is not None]
        names += [shard.vectors, *optional, *shard.engines.values()]
    return list(dict.fromkeys(names))
