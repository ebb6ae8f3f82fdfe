"""python -m tests.index.golden.make FOLDER: write a version of the current format and its answers.

Run it once for each new format, before its release, with FOLDER `tests/index/golden/format-N`. Commit the files and
never change them; test_golden.py opens them with every later gifdex.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import gifdex
from gifdex.encoders.base import FloatArray, unit
from gifdex.encoders.projections.linear import LinearProjection
from gifdex.index.build import DEFAULT_ENGINES, FieldPlan, Origin, finish_version, write_items
from gifdex.index.engines.names import ANNOY, HNSW
from gifdex.index.field_records import CAPTION, FEATURES, IMAGE
from gifdex.index.fields import JOINT_SPACE
from gifdex.schemas import tables
from gifdex.schemas.manifest import FORMAT_VERSION, EncoderRecord, SpaceRecord
from tests.index.conftest import write_field

ITEMS, SHARDS, DIMENSIONS, FEATURE_DIMENSIONS = 600, (350, 250), 72, 12
FUSIONS: tuple[dict[str, float], ...] = ({IMAGE: 1.0}, {CAPTION: 1.0}, {IMAGE: 1.0, CAPTION: 0.5}, {FEATURES: 1.0})


def drawn(random: np.random.Generator, count: int, dimensions: int) -> FloatArray:
    """Return clustered unit vectors whose spectrum falls, a tenth of them copies of others."""
    centres = random.standard_normal((count // 20, dimensions))
    vectors = centres[random.integers(0, len(centres), count)] + 0.7 * random.standard_normal((count, dimensions))
    made = unit(vectors / np.sqrt(np.arange(1, dimensions + 1)))
    for shard, first in zip(SHARDS, (0, SHARDS[0]), strict=True):  # a copy is in the same shard as its original
        copies = random.choice(shard, shard // 10, replace=False) + first
        made[copies] = made[random.integers(first, first + shard, len(copies))]
    return made


def items() -> pa.Table:
    rows = [
        {
            "id": f"gif-{row:03d}",
            "uri": f"/corpus/gif-{row:03d}.gif",
            "sha256": f"{row:064x}",
            "caption": f"caption {row}" if row % 2 else None,
            "metadata": json.dumps({"tag": ("cat", "dog", "bird")[row % 3], "year": 2000 + row}),
        }
        for row in range(ITEMS)
    ]
    return pa.Table.from_pylist(rows, schema=tables.ITEMS)


def make(version: Path, random: np.random.Generator) -> None:
    images, captions = drawn(random, ITEMS, DIMENSIONS), drawn(random, ITEMS, DIMENSIONS)
    captions[::2] = np.nan
    features = (4 * drawn(random, ITEMS, FEATURE_DIMENSIONS)).astype(np.float16)
    shapes = {"image_center": (4,), "image_map": (4, DIMENSIONS), "text_center": (8,), "text_map": (8, DIMENSIONS)}
    projection = LinearProjection(
        {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    )
    engines = {**DEFAULT_ENGINES, ANNOY: {"trees": 3}, HNSW: {"connectivity": 8, "expansion_add": 32}}
    joint = SpaceRecord(JOINT_SPACE, projection.fingerprint)
    plans = {
        IMAGE: FieldPlan(joint, engines),
        CAPTION: FieldPlan(joint, engines),
        FEATURES: FieldPlan(SpaceRecord("pixels", "3" * 16), {}),
    }
    write_items(version, items())
    for name, vectors in ((IMAGE, images), (CAPTION, captions), (FEATURES, features)):
        write_field(version, name, vectors, SHARDS, plans[name])
    encoders = EncoderRecord("pixels", "3" * 16, 4), EncoderRecord("words", "4" * 16, 8)
    origin = Origin(version.name, encoders[0], "1" * 16, encoders[1])
    finish_version(version, origin, SHARDS, plans, projection, sentences=drawn(random, ITEMS, DIMENSIONS)[:64])


def answers(version: Path, random: np.random.Generator) -> list[dict[str, Any]]:
    index, found = gifdex.open(version, verify=True), []
    for fields in FUSIONS:
        for _ in range(3):
            query = random.standard_normal(index.field(next(iter(fields))).dimensions).round(3)
            hits = index.search(query, 10, fields=fields, exact=True)
            found.append({"query": query.tolist(), "fields": fields, "hits": [hit._asdict() for hit in hits]})
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    random, version = np.random.default_rng(FORMAT_VERSION), folder / f"{FORMAT_VERSION:016d}"
    if folder.exists():
        sys.exit(f"{folder} exists already: golden files are written only once")
    make(version, random)
    text = json.dumps(answers(version, random), indent=1)
    (folder / "answers.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
