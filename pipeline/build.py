"""A whole build: scan, encode, index, check, publish."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gifdex.encoders import projection as projections
from gifdex.encoders import zero_shot
from gifdex.encoders.base import ImageEncoder, TextEncoder
from gifdex.encoders.projection import Projection
from gifdex.encoders.registry import image_encoder, text_encoder
from gifdex.index import artifact, store
from gifdex.index.build import VersionFacts, finish_version
from gifdex.pipeline import embed
from gifdex.pipeline.cache import FeatureCache
from gifdex.pipeline.decoders import registry
from gifdex.pipeline.encode import Encoded, encode_missing, features_facts, open_cache
from gifdex.pipeline.scan import Scan, scan
from gifdex.pipeline.settings import BuildSettings, IndexSettings
from gifdex.pipeline.tasks import Progress, pipeline_options, run_tasks, silent
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas import tables
from gifdex.schemas.errors import ArtifactError, CorpusError, PipelineError, ProjectionError, WorkspaceError
from gifdex.schemas.files import commit_bytes, commit_table, read_table, remove_unfinished
from gifdex.schemas.manifest import FORMAT_VERSION, EncoderFacts


@dataclass
class BuildSummary:
    """What a build did; counts are of items but for `tried`, `encoded` and `reused`, which are of distinct GIFs.

    `partial` items are those of which only the frames before some damage were indexed; `example_partial` has the URI of
    the first one, and what was found. `example_rejects` has, of
    each class of error, the first reject's URI and reason. `tried` GIFs were not in the cache, and `encoded` of them
    have features now; `gifs_per_second` counts the tried.
    """

    build_id: str = ""
    store: str = ""
    items: int = 0
    partial: int = 0
    example_partial: str = ""
    rejects: int = 0
    rejects_by_error: dict[str, int] = field(default_factory=dict)
    example_rejects: dict[str, str] = field(default_factory=dict)
    unchanged: int = 0
    ignored: int = 0
    tried: int = 0
    encoded: int = 0
    reused: int = 0
    index_reused: bool = False
    engine_recall: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    gifs_per_second: float | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the seconds of a stage."""
        started = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - started, 3)


def build(settings: BuildSettings, progress: Progress = silent) -> BuildSummary:
    """Bring the workspace's index up to date with the corpus and publish it.

    Only GIFs whose bytes are not in the cache are encoded. The same items, encoders, projection and settings
    give the same build id and the same bytes. Raises a GifdexError; then the published version is untouched.
    """
    pipeline_options(settings.beam_options)  # a mistake in them should not wait for the first task
    if settings.encode.decoder != registry.AUTO:
        registry.decoder(settings.encode.decoder)
    workspace = Workspace(Path(os.path.abspath(settings.workspace.expanduser())))
    with workspace.locked():
        try:
            for folder in workspace.folders:  # not the root, which may hold files of others
                remove_unfinished(folder)
            return _build(settings, workspace, progress)
        except OSError as err:
            where = err.filename or workspace.root
            raise WorkspaceError(
                f"cannot read or write {where}: {err.strerror or err}; free space or mend the permissions, then run "
                "again: what was committed is kept"
            ) from err


def _build(settings: BuildSettings, workspace: Workspace, progress: Progress) -> BuildSummary:
    summary = BuildSummary(store=str(workspace.store))
    images, texts = image_encoder(settings.encode.image_encoder), text_encoder(settings.index.text_encoder)
    cache = open_cache(workspace, images, settings.encode)
    with summary.timed("scan"):
        scanned = scan(settings, workspace, progress)
    with summary.timed("projection"):  # before the long stage, which a projection that does not fit would waste
        progress("projection", 0, 1)
        projection_path, projection = _projection(settings.index, workspace, images, texts)
        progress("projection", 1, 1)
    with summary.timed("encode"):
        facts = features_facts(images, settings.encode)
        encoded = encode_missing(scanned.catalog, settings, cache, facts, progress)
    with summary.timed("index"):
        if settings.strict:
            encoded = _strict(encoded)
        scanned = replace(scanned, catalog=_with_damage(scanned.catalog, encoded))
        items, rejects = _split(scanned, encoded)
        version_facts = VersionFacts(
            _build_id(items, settings, cache, projection, texts), _facts(images), cache.fingerprint, _facts(texts)
        )
        _commit_lists(workspace, version_facts.build_id, scanned, items, rejects)
        summary.index_reused = _is_whole(workspace, version_facts.build_id)
        if not summary.index_reused:
            _index(settings, workspace, cache, items, version_facts, projection, projection_path, progress)
    manifest = artifact.verify(workspace.store / version_facts.build_id)
    if manifest.items != len(items):
        raise PipelineError(
            f"the version {manifest.build_id} holds {manifest.items:,} items, but {len(items):,} were planned: "
            "run again"
        )
    store.publish(workspace.store, manifest.build_id)
    _fill(summary, manifest.build_id, scanned, encoded, items, rejects)
    summary.engine_recall = manifest.quality.engine_recall
    _commit_statistics(workspace, settings, summary)
    return summary


def _facts(encoder: ImageEncoder | TextEncoder) -> EncoderFacts:
    return EncoderFacts(encoder.name, encoder.fingerprint, encoder.dimensions)


def _projection(
    settings: IndexSettings, workspace: Workspace, images: ImageEncoder, texts: TextEncoder
) -> tuple[Path, Projection]:
    """Return the projection to use and its file: the one given, the zero-shot one fitted before, or a new one."""
    if settings.projection is not None:
        given = settings.projection.expanduser().absolute()
        projection = projections.load(given)
        for kind, encoder in (("image", images), ("text", texts)):
            made_for = projection.facts.get(f"{kind}_encoder", {})
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
            path.unlink()  # it was ours and is damaged; fitting it again gives the same one
    projection = zero_shot.fit(images, texts)
    projection.save(path)
    return path, projection


def _strict(encoded: Encoded) -> Encoded:
    """Return the same with partial items as rejects."""
    partial = {
        sha256: ("DecodeError", f"only the beginning of the file is good, and --strict was asked for: it {damage}")
        for sha256, damage in encoded.damaged.items()
    }
    return replace(encoded, rejects=encoded.rejects | partial, damaged={})


def _with_damage(catalog: pa.Table, encoded: Encoded) -> pa.Table:
    """Return the catalog with what is wrong with its partial items."""
    damage = [encoded.damaged.get(sha256) for sha256 in catalog["sha256"].to_pylist()]
    place = tables.CATALOG.get_field_index("damage")
    return catalog.set_column(place, tables.CATALOG.field(place), pa.array(damage, pa.string()))


def _split(scanned: Scan, encoded: Encoded) -> tuple[pa.Table, pa.Table]:
    """Return the items that have features (schema ITEMS, by id) and the rejects of both stages (by id)."""
    failed = pc.is_in(scanned.catalog["sha256"], pa.array(encoded.rejects, pa.string()))
    items = scanned.catalog.filter(pc.invert(failed)).select(tables.ITEMS.names)
    rows = [
        {**row, "stage": "encode", "error": error, "reason": reason}
        for row in scanned.catalog.filter(failed).select(["id", "uri", "sha256"]).to_pylist()
        for error, reason in [encoded.rejects[row["sha256"]]]
    ]
    rejects = pa.concat_tables([scanned.rejects, pa.Table.from_pylist(rows, schema=tables.REJECTS)])
    if not len(items):
        examples = {row["error"]: f"{row['uri']}: {row['reason']}" for row in reversed(rejects.to_pylist())}
        counts = Counter(rejects["error"].to_pylist())
        reasons = "; ".join(f"{error} ({counts[error]:,}), such as {example}" for error, example in examples.items())
        raise CorpusError(
            f"none of the {len(rejects):,} files could be indexed, so nothing was published: {reasons}; check the "
            "corpus and the options"
        )
    return items, rejects.sort_by("id")


def _build_id(
    items: pa.Table, settings: BuildSettings, cache: FeatureCache, projection: Projection, texts: TextEncoder
) -> str:
    """Hash everything that the version's bytes follow from."""
    recipe = {
        "format_version": FORMAT_VERSION,
        "features": cache.fingerprint,
        "projection": projection.fingerprint,
        "text_encoder": texts.fingerprint,
        "annoy": asdict(settings.index.annoy),
        "written_by": [package_version(package) for package in ("gifdex", "annoy", "pyarrow")],
        "shard_items": settings.index.shard_items,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for batch in items.to_batches(max_chunksize=65_536):
        for row in batch.to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _commit_lists(workspace: Workspace, build_id: str, scanned: Scan, items: pa.Table, rejects: pa.Table) -> None:
    """Write the catalog and the rejects of the build; then the scan's own results are no longer needed."""
    commit_table(workspace.catalog(build_id), scanned.catalog)
    commit_table(workspace.rejects(build_id), rejects)
    for path in workspace.scan.glob("*.parquet"):
        path.unlink()


def _is_whole(workspace: Workspace, build_id: str) -> bool:
    """Tell whether a version is there already, every byte of it, and its embeddings too."""
    try:
        manifest = artifact.verify(workspace.store / build_id)
    except (ArtifactError, OSError):
        return False
    folder = workspace.embeddings(build_id)
    return all((folder / embed.embeddings_name(number)).is_file() for number in range(len(manifest.shards)))


def _index(
    settings: BuildSettings,
    workspace: Workspace,
    cache: FeatureCache,
    items: pa.Table,
    facts: VersionFacts,
    projection: Projection,
    projection_path: Path,
    progress: Progress,
) -> None:
    version = workspace.store / facts.build_id
    artifact.remove_manifest(version)  # of a damaged version: until all is written again, it does not exist
    digits = embed.partition_digits(len(items), settings.index.shard_items)
    ordered = embed.row_order(items, digits)
    commit_table(version / artifact.ITEMS_NAME, ordered)
    indexed = version / artifact.ITEMS_NAME
    embeddings = workspace.embeddings(facts.build_id)
    tasks = embed.plan(ordered, digits, indexed, projection_path, embeddings, version)
    for task in tasks:  # an interrupted or damaged one is built again
        task.output.unlink(missing_ok=True)
    run_tasks("index", tasks, lambda: embed.RunIndexTask(settings.index, cache), settings.beam_options, progress)
    for task in tasks:
        if (rows := len(read_table(task.embeddings, ["id"]))) != task.items:
            raise PipelineError(f"{task.embeddings} has {rows:,} rows, but {task.items:,} were planned: run again")
    finish_version(version, facts, ordered, [task.items for task in tasks], projection, settings.index.annoy)


def _fill(
    summary: BuildSummary, build_id: str, scanned: Scan, encoded: Encoded, items: pa.Table, rejects: pa.Table
) -> None:
    summary.build_id = build_id
    summary.items, summary.rejects = len(items), len(rejects)
    partial = scanned.catalog.filter(pc.is_valid(scanned.catalog["damage"]))
    summary.partial = len(partial)
    for row in partial.slice(0, 1).to_pylist():
        summary.example_partial = f"{row['uri']}: {row['damage']}"
    summary.rejects_by_error = dict(sorted(Counter(rejects["error"].to_pylist()).items()))
    for row in reversed(rejects.to_pylist()):
        summary.example_rejects[row["error"]] = f"{row['uri']}: {row['reason']}"
    summary.unchanged, summary.ignored = scanned.unchanged, scanned.ignored
    summary.tried, summary.encoded, summary.reused = encoded.tried, encoded.encoded, encoded.reused
    if encoded.tried:
        summary.gifs_per_second = round(encoded.tried / summary.seconds["encode"], 2)


def _commit_statistics(workspace: Workspace, settings: BuildSettings, summary: BuildSummary) -> None:
    facts: dict[str, Any] = {
        "finished": datetime.now(UTC).isoformat("T", "seconds"),
        "corpus": settings.corpus,
        **asdict(summary),
    }
    path = workspace.build(summary.build_id) / "stats.json"
    commit_bytes(path, (json.dumps(facts, indent=2) + "\n").encode())
