"""`gifdex build`: scan, encode, index and publish."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from gifdex.jobs.console import PathOption, facts_table, print_json, print_table, stage_progress
from gifdex.schemas.errors import MissingExtraError

if TYPE_CHECKING:
    from gifdex.pipeline.build import BuildSummary
    from gifdex.pipeline.settings import BuildSettings, EncodeSettings, IndexSettings

_EPILOG = """\b
Examples:
  gifdex build gifs/ --workspace ws
  gifdex build 'gifs/**/*.gif' --workspace ws --frames 16
  gifdex build gifs/ --workspace ws --sampling scene --strict
  gifdex build catalog.csv --workspace ws --json
  gifdex build gifs/ --workspace ws -- --runner=FlinkRunner --flink_master=host:8081
"""
SAMPLINGS = ("uniform", "scene", "all", "first")
DECODERS = ("auto", "numba", "pillow", "imageio", "pyav")
# Which option is which setting: its record, and its name there.
_SETTINGS = {
    "image_encoder": ("encode", "image_encoder"),
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
    "trees": ("annoy", "trees"),
}


@click.command("build", epilog=_EPILOG)
@click.argument("corpus")
@click.argument("beam_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- BEAM OPTIONS]")
@click.option("--workspace", required=True, type=PathOption(file_okay=False), help="Where everything is written.")
@click.option("--image-encoder", help="Name of the image encoder.  [default: efficientnet-lite0]")
@click.option("--text-encoder", help="Name of the text encoder.  [default: use-multilingual]")
@click.option("--projection", type=PathOption(), help="A trained projection instead of the zero-shot one.")
@click.option(
    "--sampling",
    type=click.Choice(SAMPLINGS),
    help="Which frames stand for a GIF: evenly spaced in time, those that differ most, all up to --frames, or the "
    "first.  [default: uniform]",
)
@click.option(
    "--frames",
    type=click.IntRange(1, 1024),
    help="Most frames of each GIF.  [default: 8; with --sampling all 256, with first 1]",
)
@click.option("--decoder", type=click.Choice(DECODERS), help="What decodes GIFs.  [default: the fastest installed]")
@click.option("--strict", is_flag=True, help="Reject a GIF that is cut short or broken after some good frames.")
@click.option("--trees", type=click.IntRange(1), help="Trees of the Annoy index.  [default: 50]")
@click.option("--threads", type=click.IntRange(1), help="Decoding threads.  [default: one a processor, up to 8]")
@click.option("--checksum", is_flag=True, help="Hash every file again instead of trusting size and time.")
@click.option("--max-bytes", type=click.IntRange(1), help="Largest GIF in bytes.  [default: 64 MiB]")
@click.option("--max-pixels", type=click.IntRange(1), help="Largest canvas in pixels.  [default: 16 Mi]")
@click.option("--max-frames", type=click.IntRange(1), help="Most frames in a GIF.  [default: 10,000]")
@click.option("--max-total-pixels", type=click.IntRange(1), help="Most pixels to decode.  [default: 800,000,000]")
@click.option("--max-seconds", type=click.FloatRange(0, min_open=True), help="Most seconds of decoding.  [default: 8]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.option("-v", "--verbose", is_flag=True, help="Show what Beam and TensorFlow log.")
def command(
    corpus: str,
    beam_options: tuple[str, ...],
    workspace: Path,
    strict: bool,
    checksum: bool,
    as_json: bool,
    verbose: bool,
    **options: object,
) -> None:
    """Bring the index of a workspace up to date with CORPUS and publish it.

    CORPUS is a folder (its .gif, .webp, .png, .apng, .mp4, .m4v, .mov, .webm and .mkv files, however deep), a glob,
    or a catalog file (.parquet, .csv or .jsonl) with a column `uri` and optionally `id` and `caption`; other
    columns are kept as metadata. Only GIFs whose bytes were not encoded before are encoded. A GIF that cannot be read
    or decoded becomes a reject; it never fails the build. Every limit (--max-...) is for one GIF. Items that are
    encoded already stay whatever the limits; only --max-bytes is looked at again. --strict decodes nothing again.
    """
    if not corpus:
        raise click.UsageError("CORPUS is empty; expected a folder, a glob or a catalog file")
    require_pipeline()
    from gifdex.pipeline.settings import BuildSettings

    encode, index = _records(options)
    summary = run_build(
        BuildSettings(corpus, workspace, checksum, strict, encode, index, beam_options=beam_options), verbose
    )
    if as_json:
        print_json(asdict(summary))
    else:
        print_table(summary_table(summary))


def _records(options: dict[str, object]) -> tuple[EncodeSettings, IndexSettings]:
    """Put what was given into the records of settings, and leave the rest at its default."""
    from gifdex.index.engine import AnnoySettings
    from gifdex.pipeline.settings import EncodeSettings, IndexSettings, Limits, Sampling

    given: dict[str, dict[str, Any]] = {record: {} for record, _ in _SETTINGS.values()}
    for option, value in options.items():
        if value is not None:
            record, name = _SETTINGS[option]
            given[record][name] = value
    encode = EncodeSettings(sampling=Sampling(**given["sampling"]), limits=Limits(**given["limits"]), **given["encode"])
    return encode, IndexSettings(annoy=AnnoySettings(**given["annoy"]), **given["index"])


def require_pipeline() -> None:
    """Raise MissingExtraError where the modules that building needs are not installed."""
    from importlib.util import find_spec

    for module in ("apache_beam", "imageio", "PIL", "tensorflow"):
        if find_spec(module) is None:
            raise MissingExtraError("building an index", module, "pipeline")


def run_build(settings: BuildSettings, verbose: bool) -> BuildSummary:
    """Build with progress on stderr."""
    with stage_progress(verbose) as progress:
        from gifdex.pipeline.build import build

        return build(settings, progress)


def summary_table(summary: BuildSummary) -> Table:
    """Return the closing summary for people."""
    seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in summary.seconds.items())
    speed = f", {summary.gifs_per_second:,.1f} GIFs/s" if summary.gifs_per_second else ""
    facts = {
        "items": f"{summary.items:,}" + (f" (partial: {summary.partial:,})" if summary.partial else ""),
        "rejects": f"{summary.rejects:,}" + _reasons(summary.rejects_by_error),
        "encoded": f"{summary.encoded:,} of {summary.tried:,} new GIFs (reused: {summary.reused:,}; "
        f"unchanged files: {summary.unchanged:,})",
        "time": seconds + speed,
        "version": f"{summary.build_id}{' (was there already)' if summary.index_reused else ''}",
        "index": summary.store,
    }
    if summary.ignored:
        facts["ignored"] = f"{summary.ignored:,} other file{'s' if summary.ignored != 1 else ''}, no animation by name"
    if summary.partial:
        facts["such as partial"] = summary.example_partial
    if summary.rejects:
        facts |= {f"such as {error}": reason for error, reason in summary.example_rejects.items()}
        facts["rejects in"] = str(Path(summary.store).parent / "builds" / summary.build_id / "rejects")
    return facts_table(facts)


def _reasons(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{error}: {count:,}' for error, count in counts.items())})" if counts else ""
