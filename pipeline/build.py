"""A whole build: scan, encode, index, check, publish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from gifdex.encoders import projections
from gifdex.encoders.base import ImageEncoder, TextEncoder
from gifdex.encoders.feature_cache import FeatureCache
from gifdex.encoders.features import features_recipe
from gifdex.encoders.projections import zero_shot
from gifdex.encoders.projections.base import Projection
from gifdex.encoders.registry import text_encoder
from gifdex.encoders.settings import EncodeSettings
from gifdex.index import artifact, calibration, store, text_file
from gifdex.index.build import Origin
from gifdex.index.engines import registry
from gifdex.index.field_records import IMAGE
from gifdex.index.opening import open_index
from gifdex.index.speed import queries_per_second
from gifdex.pipeline import shards, tagging
from gifdex.pipeline.dedupe import without_duplicates
from gifdex.pipeline.holding import held_workspace, store_name
from gifdex.pipeline.inbox import prune_inbox
from gifdex.pipeline.index_stage import IndexPlan, scene_sentences, tuning_sentences, write_version
from gifdex.pipeline.lists import Lists, commit_lists, recipe_id, split
from gifdex.pipeline.run import RunSummary, commit_statistics, start
from gifdex.pipeline.settings import BuildSettings, IndexSettings
from gifdex.pipeline.text_columns import check_text_columns
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas.errors import ArtifactError, PipelineError, ProjectionError
from gifdex.schemas.manifest import FORMAT_VERSION, EncoderRecord, FeaturesRecord
from gifdex.schemas.progress import QUIET, Progress


@dataclass(frozen=True)
class BuildSummary:
    """The result of a build: the summary of its run, and the version in `store` with its size in `bytes`.

    `engine_recall` is the default engine's recall@10, the lower of its two measurements. `queries_per_second`, by field
    and engine, was measured on this machine and is not stored in the version.
    """

    run: RunSummary
    store: str
    index_reused: bool
    engine: str
    engine_recall: float
    bytes: int
    queries_per_second: Mapping[str, Mapping[str, float]]

    @property
    def build_id(self) -> str:
        """The version's id."""
        return self.run.build_id

    def to_json(self) -> dict[str, Any]:
        """Return the summary as one JSON object."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "run"}
        return {**self.run.to_json(), **own}


def build(settings: BuildSettings, progress: Progress = QUIET) -> BuildSummary:
    """Bring the workspace's index up to date with the corpus and publish it.

    Only GIFs whose bytes are not in the cache are encoded. The same items, encoders, projection and settings give the
    same build id and the same bytes. If it raises a GifdexError, the published version is unchanged.
    """
    with held_workspace(settings, progress) as workspace:
        summary = make_version(settings, workspace, progress)
        artifact.verify(workspace.store / summary.build_id)
        store.publish(workspace.store, summary.build_id)
        prune_inbox(settings.inbox, workspace, summary.build_id)
        commit_statistics(workspace, settings, summary.build_id, summary.to_json())
        return summary


def make_version(settings: BuildSettings, workspace: Workspace, progress: Progress) -> BuildSummary:
    """Build a version in a locked workspace without publishing it; callers verify it before they publish it."""
    for name in settings.index.engines:
        registry.kind(name).require()
    texts = text_encoder(settings.index.text_encoder)  # first, because its errors need no loading
    run = start(settings, workspace, progress)
    images, cache = run.encoder, run.cache
    scanned = run.scan()
    check_text_columns(scanned.catalog, settings.index.text_columns)
    with run.times.timed("projection"):  # before the long stage, so that an unsuitable one fails early
        progress.stage("projection", 0, 1)
        projection_path, projection = _projection(settings.index, workspace, images, texts)
        progress.stage("projection", 1, 1)
        tagging.check(settings.index, images, scanned.catalog)
    encoded = run.encode(scanned)
    lists = split(scanned, encoded, settings.strict)
    if settings.index.dedupe is not None:
        with run.times.timed("dedupe"):
            lists = without_duplicates(
                lists, settings.index.dedupe, settings.encode, workspace, cache, projection, progress, settings.inbox
            )
    with run.times.timed("index"):
        build_id = _build_id(lists, settings, cache, projection, images, texts)
        commit_lists(workspace, build_id, lists, cache.fingerprint)
        is_there = _is_whole(workspace, build_id)
        if not is_there:
            made = _features(images, settings.encode)
            origin = Origin(build_id, _record(images), cache.fingerprint, _record(texts), made, lists.duplicates)
            sentences = tuning_sentences(images, texts, projection)
            scenes = scene_sentences(texts, projection)
            planned = IndexPlan(
                origin, lists.items, projection, projection_path, sentences, images.classifier(), scenes
            )
            write_version(planned, settings, workspace, cache, progress)
    manifest = artifact.read_manifest(workspace.store / build_id)
    if manifest.items != len(lists.items):
        raise PipelineError(
            f"the version {manifest.build_id} holds {manifest.items:,} items, but {len(lists.items):,} were planned: "
            "run again"
        )
    answering = manifest.fields[IMAGE]
    return BuildSummary(
        run.summary(build_id, scanned, encoded, lists),
        store_name(settings.workspace),
        index_reused=is_there,
        engine=answering.engine or "exact",
        engine_recall=1.0 if answering.engine is None else answering.engines[answering.engine].recall or 0.0,
        bytes=sum(file.bytes for file in manifest.files.values()),
        queries_per_second=queries_per_second(open_index(workspace.store / build_id)),
    )


def _record(encoder: ImageEncoder | TextEncoder) -> EncoderRecord:
    return EncoderRecord(encoder.name, encoder.fingerprint, encoder.dimensions)


def _features(encoder: ImageEncoder, settings: EncodeSettings) -> FeaturesRecord:
    """Return how features are made."""
    recipe, sampling = features_recipe(encoder, settings), settings.sampling
    decoder = settings.decoder if "decoder" in recipe else None
    return FeaturesRecord(sampling.strategy, sampling.count, encoder.precision, decoder)


def _projection(
    settings: IndexSettings, workspace: Workspace, images: ImageEncoder, texts: TextEncoder
) -> tuple[Path, Projection]:
    """Return the projection and its file: the one given, or the zero-shot one, fitted if necessary."""
    if settings.projection is not None:
        given = settings.projection.expanduser().absolute()
        projection = projections.load(given)
        for kind, encoder in (("image", images), ("text", texts)):
            made_for = projection.metadata.get(f"{kind}_encoder")
            if not isinstance(made_for, dict) or not made_for.get("fingerprint"):
                raise ProjectionError(
                    f"the projection {settings.projection} does not say which {kind} encoder it was made for: expected "
                    f'"{kind}_encoder": {{"name": ..., "fingerprint": ...}} in its metadata, see docs/formats.md'
                )
            if made_for.get("fingerprint") != encoder.fingerprint:
                raise ProjectionError(
                    f"the projection {settings.projection} was made for the {kind} encoder {made_for.get('name')} "
                    f"({made_for.get('fingerprint')}), but this build uses {encoder.name} ({encoder.fingerprint}): "
                    "choose that encoder or another projection"
                )
        return given, projection
    path = workspace.projections / f"zero-shot-{zero_shot.recipe_fingerprint(images, texts)}.safetensors"
    if path.exists():
        try:
            return path, projections.load(path)
        except ProjectionError:
            path.unlink()  # our own file is damaged; fitting again gives the same one
    projection = zero_shot.fit(images, texts)
    projection.save(path)
    return path, projection


def _build_id(
    lists: Lists,
    settings: BuildSettings,
    cache: FeatureCache,
    projection: Projection,
    images: ImageEncoder,
    texts: TextEncoder,
) -> str:
    """Hash everything that determines the version's bytes."""
    engines = settings.index.engines
    writers = ["gifdex", "numpy", "pyarrow", *sorted({registry.kind(name).package for name in engines} - {"numpy"})]
    recipe = {
        "format_version": FORMAT_VERSION,
        "features": cache.fingerprint,
        "encoders": [images.name, texts.name],
        "projection": projection.fingerprint,
        "text_encoder": texts.fingerprint,
        "engines": [[name, dict(parameters)] for name, parameters in engines.items()],  # in the manifest's order
        "keep_features": settings.index.keep_features,
        "text": [text_file.sqlite_version(), *settings.index.text_columns],
        "tags": [settings.index.tags, settings.index.min_tag_probability] if settings.index.tags else None,
        "calibration": calibration.recipe(zero_shot.scene_descriptions()),
        "moments": settings.index.moments,
        "written_by": [package_version(package) for package in writers],
        "shards": settings.index.shards,
        "duplicates": lists.duplicates,
    }
    return recipe_id(recipe, lists.items)


def _is_whole(workspace: Workspace, build_id: str) -> bool:
    """Tell whether an undamaged version exists already, with its embeddings."""
    try:
        manifest = artifact.verify(workspace.store / build_id)
    except (ArtifactError, OSError):
        return False
    folder = workspace.embeddings(build_id)
    return all(
        (folder / shards.embeddings_name(number)).is_file() for number in range(len(manifest.fields[IMAGE].shards))
    )
