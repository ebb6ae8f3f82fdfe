"""Second stage: encode every GIF whose bytes are not in the cache yet.

Tasks are self-contained: threads read, decode and sample ahead of the model, batches of one fixed size are filled
across GIFs, and one part file is committed to the cache. Frames never leave a task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.utils.shared import Shared

from gifdex.encoders.base import ImageEncoder, fingerprint
from gifdex.encoders.feature_cache import FeatureCache
from gifdex.encoders.features import encode, features_fingerprint, features_recipe
from gifdex.encoders.frame_cache import FrameCache
from gifdex.encoders.frames.decode import FrameDecoder
from gifdex.encoders.frames.decoders import registry
from gifdex.encoders.registry import image_encoder
from gifdex.encoders.settings import EncodeSettings
from gifdex.pipeline.corpus import read_bytes
from gifdex.pipeline.settings import BuildSettings
from gifdex.pipeline.tasks import run_tasks
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas.errors import ChangedFileError, EncoderError, PipelineError
from gifdex.schemas.files import read_table
from gifdex.schemas.progress import Progress

# Task sizes are multiples of this many GIFs, so that with eight frames each they fill whole batches.
_STEP = 16
# Even a small corpus is split into about this many tasks, so that a killed run loses little work.
_TASKS = 8


@dataclass(frozen=True)
class Source:
    """A place to read the bytes with this SHA-256."""

    sha256: str
    uri: str


@dataclass(frozen=True)
class EncodeTask:
    """GIFs of one partition, sorted by key, and the part file their features go to.

    `frames` is the part file for the features of single frames, None if they are not wanted. If it is the `output`,
    the pooled features are known already.
    """

    partition: str
    sources: tuple[Source, ...]
    output: Path
    frames: Path | None = None

    @property
    def items(self) -> int:
        """How many GIFs the task encodes."""
        return len(self.sources)


@dataclass(frozen=True)
class Encoded:
    """The result of the stage: the (error, reason) of each key without features, and counts.

    `damaged` describes the damage of GIFs that were decoded in part. `tried` counts the GIFs that were not in the
    cache, `encoded` those of them that now have features, and `reused` those whose outcome was cached, rejects
    included.
    """

    rejects: dict[str, tuple[str, str]]
    damaged: dict[str, str]
    tried: int
    encoded: int
    reused: int


def acquire_encoder(settings: EncodeSettings, shared: Shared) -> ImageEncoder:
    """Return the encoder for the settings: one per process and `shared`, so that no model is loaded twice."""
    made: ImageEncoder = shared.acquire(lambda: image_encoder(settings.image_encoder, settings.encoder_options))
    return made


def open_cache(workspace: Workspace, encoder: ImageEncoder, settings: EncodeSettings) -> FeatureCache:
    """Return the cache for the features of this encoder and sampling."""
    attempt = f"gifdex {version('gifdex')}, {registry.installed()}, limits {fingerprint(asdict(settings.limits))}"
    name = features_fingerprint(encoder, settings)
    return FeatureCache(workspace.features, name, encoder.dimensions, attempt)


def plan_encode(missing: Sequence[Source], task_items: int, cache: FeatureCache) -> list[EncodeTask]:
    """Split sources into tasks of one partition and at most `task_items` GIFs each, the same ones every time.

    Partitions have enough hexadecimal digits to hold about one task's worth of GIFs each.
    """
    ordered = sorted(missing, key=lambda source: source.sha256)
    digits = 0
    while len(ordered) >= task_items * 16 ** (digits + 1):
        digits += 1
    evenly_cut = -(-len(ordered) // _TASKS)
    size = min(task_items, -(-evenly_cut // _STEP) * _STEP)
    tasks = []
    for partition, group in groupby(ordered, key=lambda source: source.sha256[:digits]):
        sources = list(group)
        for start in range(0, len(sources), size):
            part = tuple(sources[start : start + size])
            tasks.append(EncodeTask(partition, part, unused_part(cache, partition, part)))
    return tasks


def unused_part(cache: FeatureCache, partition: str, sources: Sequence[Source]) -> Path:
    """Return the path of a new part file, named after a task's keys; a retry of the same keys gets another name."""
    keys = "".join(source.sha256 for source in sources)
    tries = 0
    while True:
        path = cache.part(partition, hashlib.sha256(f"{tries} {keys}".encode()).hexdigest()[:32])
        if not path.exists():
            return path
        tries += 1


def reader(source: Source, max_bytes: int) -> Callable[[], bytes]:
    """Return a function that reads a source's bytes, at most `max_bytes` + 1.

    It raises ChangedFileError if they differ from the hashed ones.
    """

    def read() -> bytes:
        data = read_bytes(source.uri, max_bytes)
        if hashlib.sha256(data).hexdigest() != source.sha256:
            raise ChangedFileError("the file changed while the corpus was indexed: run again", lasting=False)
        return data

    return read


class RunEncodeTask(beam.DoFn):  # type: ignore[misc]  # Beam has no types
    """Encode one task's GIFs and commit them. Beam's threads share one encoder and one decoder per process."""

    def __init__(self, settings: EncodeSettings, cache: FeatureCache, shared: Shared) -> None:
        self._settings = settings
        self._cache = cache
        self._shared = shared
        self._shared_decoder = Shared()

    def setup(self) -> None:
        """Get the process's encoder; raises EncoderError if it differs from the run's."""
        self._encoder = acquire_encoder(self._settings, self._shared)
        self._decode: FrameDecoder | None = self._shared_decoder.acquire(FrameDecoder)
        found = features_fingerprint(self._encoder, self._settings)
        if found != self._cache.fingerprint:
            raise EncoderError(
                f"a worker's {self._encoder.name} ({self._encoder.fingerprint}) would give features {found}, but the "
                f"run was planned for {self._cache.fingerprint}: give workers the same weights and packages"
            )

    def process(self, task: EncodeTask) -> Iterator[tuple[str, int]]:
        """Yield the part file and its count of rows."""
        max_bytes = self._settings.limits.bytes
        sources = [(source.sha256, reader(source, max_bytes)) for source in task.sources]
        assert self._decode is not None
        keep_frames = task.frames is not None
        outcomes = encode(self._encoder, sources, self._settings, self._decode, keep_frames=keep_frames)
        if task.frames is not None:  # first, because a GIF with pooled features counts as done
            FrameCache.beside(self._cache).commit(task.frames, outcomes)
        if task.output != task.frames:
            self._cache.commit(task.output, outcomes)
        yield str(task.output), len(outcomes)

    def teardown(self) -> None:
        """End the decoder's processes; threads that still use it start new ones."""
        if self._decode is not None:
            self._decode.close()
            self._decode = None


@dataclass(frozen=True)
class CacheLookup:
    """A catalog's GIFs: those that are not cached, and the cached outcomes of the others (`cache.outcomes`).

    `frames` is the same for the features of single frames, None if they are not wanted: only of GIFs whose pooled
    features are cached.
    """

    missing: list[Source]
    cached: pa.Table
    frames: CacheLookup | None = None

    @property
    def to_encode(self) -> int:
        """The number of GIFs to encode."""
        return len(self.missing) + (0 if self.frames is None else len(self.frames.missing))


def look_up(catalog: pa.Table, cache: FeatureCache, *, moments: bool = False) -> CacheLookup:
    """Look up the distinct GIFs of a catalog (schema CATALOG) in the cache, and with `moments` also their frames."""
    found = _look_up(catalog, cache)
    if not moments:
        return found
    good = found.cached.filter(pc.is_null(found.cached["error"]))["sha256"]
    pooled = catalog.filter(pc.is_in(catalog["sha256"], good.combine_chunks()))
    return replace(found, frames=_look_up(pooled, FrameCache.beside(cache)))


def _look_up(catalog: pa.Table, cache: FeatureCache) -> CacheLookup:
    first_uri: dict[str, str] = {}
    for sha256, uri in zip(catalog["sha256"].to_pylist(), catalog["uri"].to_pylist(), strict=True):
        first_uri.setdefault(sha256, uri)
    cached = cache.outcomes()
    cached = cached.filter(pc.is_in(cached["sha256"], pa.array(first_uri, pa.string())))
    have = set(cached["sha256"].to_pylist())
    return CacheLookup([Source(sha256, uri) for sha256, uri in first_uri.items() if sha256 not in have], cached)


def encode_missing(
    lookup: CacheLookup,
    settings: BuildSettings,
    cache: FeatureCache,
    encoder: ImageEncoder,
    shared: Shared,
    progress: Progress,
) -> Encoded:
    """Encode the GIFs that are not cached.

    With moments, those whose frames are not cached are encoded too; they are rejects if that fails now. `encoder` is
    the one that `acquire_encoder` returned for `shared`. Raises PipelineError if the runner fails or part files differ
    from the plan.
    """
    tasks = _with_frames(plan_encode(lookup.missing, settings.encode.task_items, cache), lookup, settings, cache)
    # Resolved once, so that workers on other machines do not choose differently.
    pinned = replace(settings.encode, precision=encoder.precision)
    run_tasks("encode", tasks, lambda: RunEncodeTask(pinned, cache, shared), settings.beam_options, progress)
    cache.describe(features_recipe(encoder, settings.encode), encoder.classifier)
    results = [lookup.cached, *(_check(task) for task in tasks if task.output != task.frames)]
    outcomes = pa.concat_tables(results)
    rejects = _rejects(outcomes)
    tried = {source.sha256 for task in tasks for source in task.sources}
    if lookup.frames is not None:
        only_frames = [_check(task) for task in tasks if task.output == task.frames]
        rejects |= _rejects(pa.concat_tables([lookup.frames.cached, *only_frames]))
    damaged = outcomes.filter(pc.and_(pc.is_null(outcomes["error"]), pc.is_valid(outcomes["reason"])))
    damages = dict(zip(damaged["sha256"].to_pylist(), damaged["reason"].to_pylist(), strict=True))
    reused = set(lookup.cached["sha256"].to_pylist()) - tried
    return Encoded(rejects, damages, len(tried), len(tried - rejects.keys()), len(reused))


def _with_frames(
    tasks: list[EncodeTask], lookup: CacheLookup, settings: BuildSettings, cache: FeatureCache
) -> list[EncodeTask]:
    """Return tasks that also keep the features of single frames, and those for GIFs that lack only these."""
    if lookup.frames is None:
        return tasks
    beside = FrameCache.beside(cache)
    both = [replace(task, frames=beside.part(task.partition, task.output.stem)) for task in tasks]
    only = plan_encode(lookup.frames.missing, settings.encode.task_items, beside)
    return [*both, *(replace(task, frames=task.output) for task in only)]


def _rejects(outcomes: pa.Table) -> dict[str, tuple[str, str]]:
    """Return the error and the reason of each key that has no success.

    The cache may have both a failure and a later success with another decoder or other limits.
    """
    good = pc.is_null(outcomes["error"])
    failed = pc.and_not(pc.invert(good), pc.is_in(outcomes["sha256"], outcomes["sha256"].filter(good)))
    return {row["sha256"]: (row["error"], row["reason"]) for row in outcomes.filter(failed).to_pylist()}


def _check(task: EncodeTask) -> pa.Table:
    """Read a task's part file back and check it against the plan."""
    table = read_table(task.output, ["sha256", "error", "reason"]).replace_schema_metadata(None)
    if table["sha256"].to_pylist() != [source.sha256 for source in task.sources]:
        raise PipelineError(
            f"{task.output} does not hold the {task.items} GIFs it was planned for: delete it, run again"
        )
    return table
