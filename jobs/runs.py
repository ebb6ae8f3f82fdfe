"""What the jobs that read a corpus share: their options, progress on stderr, and the closing summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from gifdex.jobs.console import PathOption, PlaceOption, facts_table, stage_progress
from gifdex.schemas.errors import MissingExtraError
from gifdex.schemas.files import absolute

if TYPE_CHECKING:
    from gifdex.pipeline.build import BuildSummary
    from gifdex.pipeline.embed import EmbedSummary, RunSummary
    from gifdex.pipeline.settings import BuildSettings

SAMPLINGS = ("uniform", "scene", "all", "first")
DECODERS = ("auto", "numba", "pillow", "imageio", "pyav")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# Which option is which setting: its record, and its name there.
_SETTINGS = {
    "strict": ("build", "strict"),
    "checksum": ("build", "checksum"),
    "image_encoder": ("encode", "image_encoder"),
    "weights": ("encode", "weights"),
    "precision": ("encode", "precision"),
    "batch_frames": ("encode", "batch_frames"),
    "decoder": ("encode", "decoder"),
    "threads": ("encode", "threads"),
    "sampling": ("sampling", "strategy"),
    "frames": ("sampling", "frames"),
    "max_bytes": ("limits", "bytes"),
    "max_pixels": ("limits", "pixels"),
    "max_frames": ("limits", "frames"),
    "max_total_pixels": ("limits", "total_pixels"),
    "max_seconds": ("limits", "seconds"),
    "text_encoder": ("index", "text_encoder"),
    "projection": ("index", "projection"),
    "shards": ("index", "shards"),
    "keep_features": ("index", "keep_features"),
    "trees": ("annoy", "trees"),
    "hnsw": ("engines", "hnsw"),
}
_MOST_SHARDS = 4096


class ShardCount(click.ParamType[int]):
    """A whole number of shards, or auto, which is None."""

    name = "auto|N"

    def convert(  # noqa: D102
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if value in (None, "auto"):
            return None
        if not str(value).isdecimal() or not 1 <= int(value) <= _MOST_SHARDS:
            self.fail(f"{value!r} is neither auto nor a whole number from 1 to {_MOST_SHARDS:,}.", param, ctx)
        return int(value)


Decorator = Callable[[Callable[..., None]], Callable[..., None]]
_BEAM = click.argument("beam_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- BEAM OPTIONS]")
_PLACES = (
    click.argument("corpus"),
    _BEAM,
    click.option(
        "--workspace", required=True, type=PlaceOption(), help="Where everything is written: a folder or a URL."
    ),
)
_ENCODE = (
    click.option("--image-encoder", help="See `gifdex encoders`.  [default: efficientnet-lite0]"),
    click.option("--weights", type=PathOption(), help="Weights file, for the image encoder vgg16."),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        help="What the image encoder computes in.  [default: auto, less than float32 where the device is built for it "
        "and features stay the same]",
    ),
    click.option(
        "--batch-frames",
        type=click.IntRange(1, 4096),
        help="Frames the image encoder takes at a time.  [default: 32; on a GPU 128]",
    ),
    click.option(
        "--sampling",
        type=click.Choice(SAMPLINGS),
        help="Which frames stand for a GIF: evenly spaced in time, those that differ most, all up to --frames, or the "
        "first.  [default: uniform]",
    ),
    click.option(
        "--frames",
        type=click.IntRange(1, 1024),
        help="Most frames of each GIF.  [default: 8; with --sampling all 256, with first 1]",
    ),
    click.option("--decoder", type=click.Choice(DECODERS), help="What decodes GIFs.  [default: the fastest installed]"),
    click.option(
        "--strict/--no-strict", default=None, help="Reject a GIF that is cut short or broken after some good frames."
    ),
    click.option("--threads", type=click.IntRange(1), help="Decoding threads.  [default: one a processor, up to 8]"),
    click.option(
        "--checksum/--no-checksum", default=None, help="Hash every file again instead of trusting size and time."
    ),
    click.option("--max-bytes", type=click.IntRange(1), help="Largest GIF in bytes.  [default: 64 MiB]"),
    click.option("--max-pixels", type=click.IntRange(1), help="Largest canvas in pixels.  [default: 16 Mi]"),
    click.option("--max-frames", type=click.IntRange(1), help="Most frames in a GIF.  [default: 10,000]"),
    click.option("--max-total-pixels", type=click.IntRange(1), help="Most pixels to decode.  [default: 800,000,000]"),
    click.option(
        "--max-seconds", type=click.FloatRange(0, min_open=True), help="Most seconds of decoding.  [default: 8]"
    ),
)
_INDEX = (
    click.option("--text-encoder", help="See `gifdex encoders`.  [default: use-multilingual]"),
    click.option("--projection", type=PathOption(), help="A trained projection instead of the zero-shot one."),
    click.option(
        "--trees", type=click.IntRange(1), help="Trees of the Annoy index.  [default: 5; 50 without a reduction]"
    ),
    click.option("--hnsw/--no-hnsw", default=None, help="Build a graph too, the fastest engine (extra hnsw)."),
    click.option(
        "--keep-features/--no-keep-features",
        default=None,
        help="Keep the image encoder's own vectors in the index, as the field features.",
    ),
    click.option(
        "--shards",
        type=ShardCount(),
        help="Parts that are built apart: a number, or auto for as few as keep each within 2 GiB of memory.  "
        "[default: auto]",
    ),
)
_OUTPUT = (
    click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object."),
    click.option("-v", "--verbose", is_flag=True, help="Show what Beam and TensorFlow log."),
)


def given(*options: tuple[Decorator, ...]) -> Decorator:
    """Return a decorator that gives a command some groups of arguments and options, in their order."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed([option for group in options for option in group]):
            command = option(command)
        return command

    return decorate


embed_options = given(_PLACES, _ENCODE, _OUTPUT)
build_options = given(_PLACES, _ENCODE, _INDEX, _OUTPUT)
encode_and_index_options = given(_ENCODE, _INDEX)
beam_and_output_options = given((_BEAM,), _OUTPUT)


def build_settings(
    corpus: str,
    workspace: Path | str,
    beam_options: tuple[str, ...],
    options: Mapping[str, Any],
) -> BuildSettings:
    """Put what was given into the records of settings, and leave the rest at its default."""
    if not corpus:
        raise click.UsageError("CORPUS is empty; expected a folder, a glob or a catalog file")
    require_pipeline()
    if isinstance(workspace, Path):
        from gifdex.pipeline.workspace import Workspace

        Workspace(absolute(workspace)).check_free()
    from gifdex.encoders.frames.limits import Limits, Sampling
    from gifdex.encoders.settings import EncodeSettings
    from gifdex.index.build import USUAL_ENGINES
    from gifdex.index.engines.names import ANNOY, HNSW
    from gifdex.pipeline.settings import BuildSettings, IndexSettings

    found: dict[str, dict[str, Any]] = {record: {} for record, _ in _SETTINGS.values()}
    for option, value in options.items():
        if value is not None:
            record, name = _SETTINGS[option]
            found[record][name] = value
    encode = EncodeSettings(sampling=Sampling(**found["sampling"]), limits=Limits(**found["limits"]), **found["encode"])
    engines = {**USUAL_ENGINES, ANNOY: found["annoy"], **({HNSW: {}} if found["engines"].get("hnsw") else {})}
    index = IndexSettings(engines=engines, **found["index"])
    return BuildSettings(corpus, workspace, encode=encode, index=index, beam_options=beam_options, **found["build"])


def require_pipeline() -> None:
    """Raise MissingExtraError where the modules that reading a corpus needs are not installed."""
    from importlib.util import find_spec

    for module in ("apache_beam", "imageio", "PIL", "tensorflow"):
        if find_spec(module) is None:
            raise MissingExtraError("reading a corpus", module, "pipeline")


def run_build(settings: BuildSettings, verbose: bool) -> BuildSummary:
    """Build with progress on stderr."""
    with stage_progress(verbose) as progress:
        from gifdex.pipeline.build import build

        return build(settings, progress, progress.notice)


def run_embed(settings: BuildSettings, verbose: bool) -> EmbedSummary:
    """Scan and encode with progress on stderr."""
    with stage_progress(verbose) as progress:
        from gifdex.pipeline.embed import embed

        return embed(settings, progress, progress.notice)


def summary_table(summary: RunSummary, workspace: str, results: Mapping[str, str]) -> Table:
    """Return the closing summary for people; `results` says what there is now, and where."""
    seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in summary.seconds.items())
    speed = f", {summary.gifs_per_second:,.1f} GIFs/s" if summary.gifs_per_second else ""
    facts = {
        "items": f"{summary.items:,}" + (f" (partial: {summary.partial:,})" if summary.partial else ""),
        "rejects": f"{summary.rejects:,}" + _reasons(summary.rejects_by_error),
        "encoded": f"{summary.encoded:,} of {summary.tried:,} new GIFs (reused: {summary.reused:,}; "
        f"unchanged files: {summary.unchanged:,})"
        + (f", in {summary.precision}" if summary.precision != "float32" else ""),
        "time": seconds + speed,
        **results,
    }
    if summary.ignored:
        facts["ignored"] = f"{summary.ignored:,} other file{'s' if summary.ignored != 1 else ''}, no animation by name"
    if summary.partial:
        facts["such as partial"] = summary.example_partial
    if summary.rejects:
        facts |= {f"such as {error}": reason for error, reason in summary.example_rejects.items()}
        facts["rejects in"] = f"{workspace}/builds/{summary.build_id}/rejects"
    return facts_table(facts)


def build_table(summary: BuildSummary) -> Table:
    """Return the closing summary of a build."""
    version = f"{summary.build_id}{' (was there already)' if summary.index_reused else ''}"
    return summary_table(summary, summary.store.rpartition("/")[0], {"version": version, "index": summary.store})


def _reasons(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{error}: {count:,}' for error, count in counts.items())})" if counts else ""
