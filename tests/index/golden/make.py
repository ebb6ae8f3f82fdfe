"""python -m tests.index.golden.make FOLDER: write versions of the current format, and what they answer.

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
from gifdex.encoders.base import Classifier, FloatArray, unit
from gifdex.encoders.projections.linear import LinearProjection
from gifdex.index import text_file
from gifdex.index.build import DEFAULT_ENGINES, FieldPlan, Origin, finish_version, write_items
from gifdex.index.engines.names import ANNOY, HNSW
from gifdex.index.field_records import CAPTION, FEATURES, FRAMES, IMAGE, TEXT, WORD
from gifdex.index.fields import JOINT_SPACE
from gifdex.schemas import tables
from gifdex.schemas.manifest import FORMAT_VERSION, EncoderRecord, FeaturesRecord, SpaceRecord
from tests.index.conftest import write_field

ITEMS, SHARDS, DIMENSIONS, FEATURE_DIMENSIONS = 600, (350, 250), 72, 12
FUSIONS: tuple[dict[str, float], ...] = (
    {IMAGE: 1.0},
    {CAPTION: 1.0},
    {IMAGE: 1.0, CAPTION: 0.5},
    {FEATURES: 1.0},
    {IMAGE: 1.0, FRAMES: 0.5},
)
SENTENCES = ("caption 17", "cat 599", '"caption 31"')
WORDS = 100


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
            "metadata": json.dumps({"tag": ("cat", "dog", "bird")[row % 3], "year": 2000 + row, "title": f"no {row}"}),
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
        FRAMES: FieldPlan(joint, {}),
    }
    write_items(version, items())
    frames = drawn(random, ITEMS, DIMENSIONS)[:, None].repeat(2, axis=1)
    frames[:, 1] = drawn(random, ITEMS, DIMENSIONS)
    frames[1::2] = np.nan
    for name, vectors in ((IMAGE, images), (CAPTION, captions), (FEATURES, features), (FRAMES, frames)):
        write_field(version, name, vectors, SHARDS, plans[name])
    encoders = EncoderRecord("pixels", "3" * 16, FEATURE_DIMENSIONS), EncoderRecord("words", "4" * 16, 8)
    made = FeaturesRecord("uniform", 8, "float32", None)
    origin = Origin(version.name, encoders[0], "1" * 16, encoders[1], made, duplicates=3)
    weights = random.standard_normal((3, FEATURE_DIMENSIONS)).astype(np.float32)
    zeros = np.zeros(FEATURE_DIMENSIONS, np.float32)
    finish_version(
        version,
        origin,
        SHARDS,
        plans,
        projection,
        sentences=drawn(random, ITEMS, DIMENSIONS)[:64],
        classifier=Classifier(weights, zeros[:3], ("cat", "dog", "bird"), zeros),
        text=text_file.write(version / text_file.TEXT_NAME, items(), ("title",)),
        scenes=drawn(random, ITEMS, DIMENSIONS)[:64],
    )


def make_words(version: Path, random: np.random.Generator) -> None:
    """Write a words index."""
    nothing = [None] * WORDS
    words = {"id": [f"word{row:02d}" for row in range(WORDS)], "uri": [""] * WORDS, "sha256": [""] * WORDS}
    write_items(version, pa.table({**words, "caption": nothing, "metadata": nothing}, schema=tables.ITEMS))
    plan = FieldPlan(SpaceRecord("glove", "5" * 16), DEFAULT_ENGINES)
    vectors = unit(random.standard_normal((WORDS, 8)))
    write_field(version, WORD, vectors, (WORDS,), plan)
    encoder = EncoderRecord("glove", "5" * 16, 8)
    finish_version(version, Origin(version.name, None, None, encoder), (WORDS,), {WORD: plan}, None)


def answers(version: Path, random: np.random.Generator) -> list[dict[str, Any]]:
    """Return queries by vectors and by words, with their answers."""
    index, found = gifdex.open(version, verify=True), []
    for fields in FUSIONS:
        for _ in range(3):
            query = random.standard_normal(index.field(next(iter(fields))).dimensions).round(3)
            hits = index.search(query, 10, fields=fields, exact=True)
            found.append({"query": query.tolist(), "fields": fields, "hits": [hit._asdict() for hit in hits]})
    for sentence in SENTENCES:
        hits = index.search(sentence, 10, fields={TEXT: 1.0})
        found.append({"query": sentence, "fields": {TEXT: 1.0}, "hits": [hit._asdict() for hit in hits]})
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    random, name = np.random.default_rng(FORMAT_VERSION), f"{FORMAT_VERSION:016d}"
    if folder.exists():
        sys.exit(f"{folder} exists already: golden files are written only once")
    make(folder / name, random)
    save(folder, answers(folder / name, random))
    words = folder.with_name(f"words-{FORMAT_VERSION}")
    make_words(words / name, random)
    index = gifdex.open(words / name, verify=True)
    save(words, [{"word": word, "words": index.words(word, 5, exact=True)} for word in ("word00", "word50")])


def save(folder: Path, found: list[dict[str, Any]]) -> None:
    (folder / "answers.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
