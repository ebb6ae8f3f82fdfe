"""Scan and encode: what `embed` does alone, and what a build begins with."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.utils.shared import Shared

from gifdex.encoders.base import ImageEncoder
from gifdex.encoders.feature_cache import FeatureCache
from gifdex.encoders.fixed_order import fixed_order
from gifdex.encoders.frames.decoders import registry
from gifdex.index.remote import Place
from gifdex.pipeline.encode import Encoded, Todo, acquire_encoder, encode_missing, look_up, open_cache
from gifdex.pipeline.mirror import mirror_of, mirrored
from gifdex.pipeline.plan import plan
from gifdex.pipeline.scan import Scan, scan
from gifdex.pipeline.settings import BuildSettings
from gifdex.pipeline.tasks import pipeline_options
from gifdex.pipeline.workspace import FINGERPRINT_KEY, STORE, Workspace
from gifdex.schemas import tables
from gifdex.schemas.errors import CorpusError, WorkspaceError
from gifdex.schemas.files import absolute, commit_bytes, commit_table, is_url
from gifdex.schemas.progress import Notice, Progress, silence, silent


@dataclass(frozen=True)
class Lists:
    """The catalog (schema CATALOG), the items that have features (ITEMS) and the rejects (REJECTS), each by id."""

    catalog: pa.Table
    items: pa.Table
    rejects: pa.Table


@dataclass
class RunSummary:
    """What a run did; counts are of items but for `tried`, `encoded` and `reused`, which are of distinct GIFs.

    `precision` is what the image encoder computes in.
    `partial` items are those of which only the frames before some damage count; `example_partial` has the URI of
    the first one, and what was found. `example_rejects` has, of each class of error, the first reject's URI and reason.
    `tried` GIFs were not in the cache, and `encoded` of them have features now; `gifs_per_second` counts the tried.
    """

    build_id: str = ""
    precision: str = ""
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
    seconds: dict[str, float] = field(default_factory=dict)
    gifs_per_second: float | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the seconds of a stage."""
        started = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - started, 3)

    def fill(self, build_id: str, scanned: Scan, encoded: Encoded, lists: Lists) -> None:
        """Take down what the stages did."""
        self.build_id = build_id
        self.items, self.rejects = len(lists.items), len(lists.rejects)
        partial = lists.catalog.filter(pc.is_valid(lists.catalog["damage"]))
        self.partial = len(partial)
        for row in partial.slice(0, 1).to_pylist():
            self.example_partial = f"{row['uri']}: {row['damage']}"
        self.rejects_by_error = dict(sorted(Counter(lists.rejects["error"].to_pylist()).items()))
        for row in reversed(lists.rejects.to_pylist()):
            self.example_rejects[row["error"]] = f"{row['uri']}: {row['reason']}"
        self.unchanged, self.ignored = scanned.unchanged, scanned.ignored
        self.tried, self.encoded, self.reused = encoded.tried, encoded.encoded, encoded.reused
        if encoded.tried:
            self.gifs_per_second = round(encoded.tried / self.seconds["encode"], 2)


@dataclass
class EmbedSummary(RunSummary):
    """What `embed` did; `features` is the folder of the cache that holds the features, `catalog` the file of items."""

    features: str = ""
    catalog: str = ""


@contextmanager
def held_workspace(settings: BuildSettings, progress: Progress = silent) -> Iterator[Workspace]:
    """Hold the workspace for writing while the block runs, cleared of what a killed run left unfinished.

    Of one at a URL, it is a mirror that is held. Raises what is wrong with the settings before it, and WorkspaceError
    for any OSError within.
    """
    # Now, for a mistake in them should not wait for the first task, and the corpus is listed before it.
    FileSystems.set_options(pipeline_options(settings.beam_options))
    if settings.encode.decoder != registry.AUTO:
        registry.decoder(settings.encode.decoder)
    try:
        with fixed_order(), _held(settings.workspace, progress) as workspace:
            workspace.clear_unfinished()
            yield workspace
    except OSError as err:
        where = err.filename or settings.workspace
        raise WorkspaceError(
            f"cannot read or write {where}: {err.strerror or err}; free space or mend the permissions, then run "
            "again: what was committed is kept"
        ) from err


@contextmanager
def _held(where: Path | str, progress: Progress) -> Iterator[Workspace]:
    if isinstance(where, str) and is_url(where):
        with mirrored(where, progress) as workspace:
            yield workspace
        return
    workspace = workspace_of(where)
    with workspace.locked():
        yield workspace


def workspace_of(where: Path | str) -> Workspace:
    """Return a workspace on this machine or, of one at a URL, its mirror."""
    return mirror_of(where) if isinstance(where, str) and is_url(where) else Workspace(absolute(where))


def store_name(where: Path | str) -> str:
    """Return what output calls the store of a workspace: the mirror of one at a URL is nobody's concern."""
    if isinstance(where, str) and is_url(where):
        return Place.of(where).shown(STORE)
    return str(workspace_of(where).store)


def prepare(
    settings: BuildSettings, workspace: Workspace, shared: Shared, progress: Progress
) -> tuple[ImageEncoder, FeatureCache]:
    """Make the image encoder and open its cache, which hashes weights, and may load the model to settle precision."""
    progress("encoder", 0, 1)
    encoder = acquire_encoder(settings.encode, shared)
    cache = open_cache(workspace, encoder, settings.encode)
    progress("encoder", 1, 1)
    return encoder, cache


def embed(settings: BuildSettings, progress: Progress = silent, notice: Notice = silence) -> EmbedSummary:
    """Bring the workspace's features up to date with the corpus; no index is built, and nothing published.

    Leaves the catalog and the rejects as a build does, under an id of their own. Raises a GifdexError.
    """
    with held_workspace(settings, progress) as workspace:
        shared = Shared()
        encoder, cache = prepare(settings, workspace, shared, progress)
        summary = EmbedSummary(features=str(cache.folder), precision=encoder.precision)
        with summary.timed("scan"):
            scanned = scan(settings, workspace, progress)
        todo = announced(scanned, workspace, cache, encoder, notice)
        with summary.timed("encode"):
            encoded = encode_missing(todo, settings, cache, encoder, shared, progress)
        lists = split(scanned, encoded, settings.strict)
        build_id = recipe_id({"features": cache.fingerprint}, lists.items)
        commit_lists(workspace, build_id, lists, cache.fingerprint)
        summary.catalog = str(workspace.catalog(build_id))
        summary.fill(build_id, scanned, encoded, lists)
        commit_statistics(workspace, settings, summary)
        return summary


def announced(scanned: Scan, workspace: Workspace, cache: FeatureCache, encoder: ImageEncoder, notice: Notice) -> Todo:
    """Return what has to be encoded, after saying so if another encoder makes it more than what is new."""
    todo = look_up(scanned.catalog, cache)
    if (said := plan(scanned, todo, workspace, cache, encoder.name).notice) is not None:
        notice(said)
    return todo


def split(scanned: Scan, encoded: Encoded, strict: bool) -> Lists:
    """Tell the items that have features from the rejects of both stages; with `strict`, partial items are rejects.

    Raises CorpusError where there is no item.
    """
    found, damaged = encoded.rejects, encoded.damaged
    if strict:
        because = "only the beginning of the file is good, and --strict was asked for: it"
        found = found | {sha256: ("DecodeError", f"{because} {damage}") for sha256, damage in damaged.items()}
        damaged = {}
    catalog = _with_damage(scanned.catalog, damaged)
    failed = pc.is_in(catalog["sha256"], pa.array(found, pa.string()))
    items = catalog.filter(pc.invert(failed)).select(tables.ITEMS.names)
    rows = [
        {**row, "stage": "encode", "error": error, "reason": reason}
        for row in catalog.filter(failed).select(["id", "uri", "sha256"]).to_pylist()
        for error, reason in [found[row["sha256"]]]
    ]
    rejects = pa.concat_tables([scanned.rejects, pa.Table.from_pylist(rows, schema=tables.REJECTS)])
    if not len(items):
        raise _nothing(rejects)
    return Lists(catalog, items, rejects.sort_by("id"))


def _with_damage(catalog: pa.Table, damaged: Mapping[str, str]) -> pa.Table:
    """Return the catalog with what is wrong with its partial items."""
    damage = [damaged.get(sha256) for sha256 in catalog["sha256"].to_pylist()]
    place = tables.CATALOG.get_field_index("damage")
    return catalog.set_column(place, tables.CATALOG.field(place), pa.array(damage, pa.string()))


def _nothing(rejects: pa.Table) -> CorpusError:
    examples = {row["error"]: f"{row['uri']}: {row['reason']}" for row in reversed(rejects.to_pylist())}
    counts = Counter(rejects["error"].to_pylist())
    reasons = "; ".join(f"{error} ({counts[error]:,}), such as {example}" for error, example in examples.items())
    return CorpusError(
        f"none of the {len(rejects):,} files could be indexed, so nothing was published: {reasons}; check the "
        "corpus and the options"
    )


def recipe_id(recipe: Mapping[str, Any], items: pa.Table) -> str:
    """Hash a recipe (JSON values) and the items (schema ITEMS) that it is applied to; 16 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for batch in items.to_batches(max_chunksize=65_536):
        for row in batch.to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def commit_lists(workspace: Workspace, build_id: str, lists: Lists, fingerprint: str) -> None:
    """Write the catalog and the rejects of the run; then the scan's own results are no longer needed."""
    catalog = lists.catalog.replace_schema_metadata({FINGERPRINT_KEY: fingerprint})
    commit_table(workspace.catalog(build_id), catalog)
    commit_table(workspace.rejects(build_id), lists.rejects)
    for path in workspace.scan.glob("*.parquet"):
        path.unlink()


def commit_statistics(workspace: Workspace, settings: BuildSettings, summary: RunSummary) -> None:
    """Write what the run did, for people and dashboards."""
    facts: dict[str, Any] = {
        "finished": datetime.now(UTC).isoformat("T", "seconds"),
        "corpus": settings.corpus,
        **asdict(summary),
    }
    commit_bytes(workspace.statistics(summary.build_id), (json.dumps(facts, indent=2) + "\n").encode())
