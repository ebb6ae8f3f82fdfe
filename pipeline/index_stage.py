"""Third stage: from indexed items and cached features to the files of an index version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from gifdex.encoders.base import Classifier, FloatArray, ImageEncoder, TextEncoder, encode_known
from gifdex.encoders.feature_cache import FeatureCache
from gifdex.encoders.projections.base import Projection
from gifdex.encoders.projections.zero_shot import PROMPT, scene_descriptions
from gifdex.index import artifact, text_file
from gifdex.index.build import (
    FieldPlan,
    Origin,
    engine_files,
    finish_version,
    fit_reduction,
    shards_with_rows,
    write_items,
)
from gifdex.index.engines.base import evenly_spaced
from gifdex.index.field_records import CAPTION, FEATURES, FRAMES, IMAGE
from gifdex.index.fields import JOINT_SPACE
from gifdex.index.tuning import MAX_SENTENCES
from gifdex.pipeline import shards
from gifdex.pipeline.frames import count_frames
from gifdex.pipeline.settings import BuildSettings, IndexSettings
from gifdex.pipeline.tagging import tagged
from gifdex.pipeline.tasks import run_tasks
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas.errors import PipelineError, UnknownWordsError
from gifdex.schemas.files import read_table
from gifdex.schemas.manifest import SpaceRecord
from gifdex.schemas.progress import Progress


@dataclass(frozen=True)
class IndexPlan:
    """What a version is built from: origin, items (schema ITEMS), projection and its file, and typical sentences.

    Engines are tuned with `sentences`, and the field of images is calibrated with `scenes`.
    """

    origin: Origin
    items: pa.Table
    projection: Projection
    projection_path: Path
    sentences: FloatArray | None
    classifier: Classifier | None
    scenes: FloatArray | None = None


def tuning_sentences(images: ImageEncoder, texts: TextEncoder, projection: Projection) -> FloatArray | None:
    """Return typical queries as unit vectors float32 (n, d), to tune engines with.

    Half of them are scene descriptions; the others name classes of the image encoder's classifier, if it has one. None
    if the text encoder knows no word of them.
    """
    scenes, classifier = scene_descriptions(), images.classifier()
    labels = [] if classifier is None else [PROMPT.format(label) for label in classifier.labels]
    chosen = [
        group[place] for group in (scenes, labels) if group for place in evenly_spaced(len(group), MAX_SENTENCES // 2)
    ]
    try:
        _, vectors = encode_known(texts, chosen)
    except UnknownWordsError:
        return None
    return projection.embed_texts(vectors)


def scene_sentences(texts: TextEncoder, projection: Projection) -> FloatArray | None:
    """Return scene descriptions as unit vectors float32 (n, d); None if the text encoder knows no word of them."""
    try:
        _, vectors = encode_known(texts, scene_descriptions())
    except UnknownWordsError:
        return None
    return projection.embed_texts(vectors)


def field_plans(plan: IndexPlan, settings: IndexSettings) -> Mapping[str, FieldPlan]:
    """Return the fields that a build makes if they have rows."""
    joint = SpaceRecord(JOINT_SPACE, plan.projection.fingerprint)
    image = plan.origin.image_encoder
    assert image is not None  # as only words indexes have none
    return {
        IMAGE: FieldPlan(joint, settings.engines),
        CAPTION: FieldPlan(joint, settings.engines),
        FEATURES: FieldPlan(SpaceRecord(image.name, image.fingerprint), {}),
        FRAMES: FieldPlan(joint, settings.engines),
    }


def write_version(
    plan: IndexPlan, settings: BuildSettings, workspace: Workspace, cache: FeatureCache, progress: Progress
) -> None:
    """Write all files of a version, the manifest last. Raises PipelineError if the results differ from the plan."""
    version = workspace.store / plan.origin.build_id
    artifact.clear(version)  # so that a damaged version does not exist while it is rewritten
    index = settings.index
    frames = count_frames(plan.items, cache) if index.moments and not index.shards else 0
    dimensions = cache.dimensions, plan.projection.dimensions
    count = index.shards or shards.automatic_shards(len(plan.items), *dimensions, frames)
    ordered = shards.row_order(plan.items, count)
    items = tagged(ordered, index, cache, plan.classifier)
    write_items(version, items)
    text = text_file.write(version / text_file.TEXT_NAME, items, index.text_columns)
    embeddings = workspace.embeddings(plan.origin.build_id)
    indexed = version / artifact.ITEMS_NAME
    tasks = shards.plan_shards(ordered, count, indexed, plan.projection_path, embeddings, version)
    for task in tasks:  # rebuild interrupted and damaged results
        task.output.unlink(missing_ok=True)
    options = shards.beam_options(settings.beam_options, len(tasks))
    run_tasks("embed", tasks, lambda: shards.RunEmbedTask(index, cache), options, progress)
    for task in tasks:
        if (rows := len(read_table(task.output, ["id"]))) != task.items:
            raise PipelineError(f"{task.output} has {rows:,} rows, but {task.items:,} were planned: run again")
    fields = field_plans(plan, index)
    engine_tasks = _plan_engines(version, fields, [task.items for task in tasks])
    options = shards.beam_options(settings.beam_options, len(engine_tasks))
    run_tasks("index", engine_tasks, lambda: shards.RunEngineTask(index.engines), options, progress)
    counts = [task.items for task in tasks]
    finish_version(
        version,
        plan.origin,
        counts,
        fields,
        plan.projection,
        sentences=plan.sentences,
        classifier=plan.classifier,
        text=text,
        scenes=plan.scenes,
    )


def _plan_engines(version: Path, fields: Mapping[str, FieldPlan], shard_items: list[int]) -> list[shards.EngineTask]:
    """Fit each field's reduction, and return one task for each of its shards that has engines to build."""
    tasks = []
    for name, field in fields.items():
        numbers = shards_with_rows(version, name, len(shard_items)) if field.engines else []
        if not numbers:
            continue
        reduced = fit_reduction(version, name, numbers) is not None
        for number in numbers:
            written = engine_files(version, name, number, field.engines, reduced=reduced)
            if written:
                tasks.append(shards.EngineTask(name, number, shard_items[number], version, written[-1]))
    return tasks
