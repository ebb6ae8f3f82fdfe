"""`gifdex build`: scan, encode, index and publish."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from gifdex.jobs.console import PathOption, facts_table, print_json, print_table, stage_progress
from gifdex.schemas.errors import MissingExtraError

if TYPE_CHECKING:
    from gifdex.pipeline.build import BuildSummary
    from gifdex.pipeline.settings import BuildSettings

_EPILOG = """\b
Examples:
  gifdex build gifs/ --workspace ws
  gifdex build 'gifs/**/*.gif' --workspace ws --frames 16
  gifdex build catalog.csv --workspace ws --json
  gifdex build gifs/ --workspace ws -- --runner=FlinkRunner --flink_master=host:8081
"""


@click.command("build", epilog=_EPILOG)
@click.argument("corpus")
@click.argument("beam_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- BEAM OPTIONS]")
@click.option("--workspace", required=True, type=PathOption(file_okay=False), help="Where everything is written.")
@click.option("--image-encoder", help="Name of the image encoder.  [default: efficientnet-lite0]")
@click.option("--text-encoder", help="Name of the text encoder.  [default: use-multilingual]")
@click.option("--projection", type=PathOption(), help="A trained projection instead of the zero-shot one.")
@click.option("--frames", type=click.IntRange(1, 256), help="Moments sampled from each GIF.  [default: 8]")
@click.option("--trees", type=click.IntRange(1), help="Trees of the Annoy index.  [default: 50]")
@click.option("--threads", type=click.IntRange(1), help="Decoding threads.  [default: one a processor, up to 8]")
@click.option("--checksum", is_flag=True, help="Hash every file again instead of trusting size and time.")
@click.option("--max-bytes", type=click.IntRange(1), help="Largest GIF in bytes.  [default: 64 MiB]")
@click.option("--max-pixels", type=click.IntRange(1), help="Largest canvas in pixels.  [default: 16 Mi]")
@click.option("--max-frames", type=click.IntRange(1), help="Most frames in a GIF.  [default: 10,000]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.option("-v", "--verbose", is_flag=True, help="Show what Beam and TensorFlow log.")
def command(
    corpus: str,
    beam_options: tuple[str, ...],
    workspace: Path,
    image_encoder: str | None,
    text_encoder: str | None,
    projection: Path | None,
    frames: int | None,
    trees: int | None,
    threads: int | None,
    checksum: bool,
    max_bytes: int | None,
    max_pixels: int | None,
    max_frames: int | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Bring the index of a workspace up to date with CORPUS and publish it.

    CORPUS is a folder (its .gif files, however deep), a glob, or a catalog file (.parquet, .csv or .jsonl)
    with a column `uri` and optionally `id` and `caption`; other columns are kept as metadata. Only GIFs
    whose bytes were not encoded before are encoded. A GIF that cannot be read or decoded becomes a reject;
    it never fails the build. --max-pixels and --max-frames hold for GIFs that are decoded now: features that are
    there already are used.
    """
    if not corpus:
        raise click.UsageError("CORPUS is empty; expected a folder, a glob or a catalog file")
    settings = _settings(
        corpus,
        workspace,
        beam_options,
        checksum,
        encode={"image_encoder": image_encoder, "threads": threads},
        sampling={"frames": frames},
        limits={"bytes": max_bytes, "pixels": max_pixels, "frames": max_frames},
        index={"text_encoder": text_encoder, "projection": projection},
        annoy={"trees": trees},
    )
    summary = run_build(settings, verbose)
    if as_json:
        print_json(asdict(summary))
    else:
        print_table(summary_table(summary))


def _settings(
    corpus: str, workspace: Path, beam_options: tuple[str, ...], checksum: bool, **given: dict[str, object]
) -> BuildSettings:
    """Put what was given into the records of settings, and leave the rest at its default."""
    require_pipeline()
    from gifdex.index.engine import AnnoySettings
    from gifdex.pipeline.settings import BuildSettings, EncodeSettings, IndexSettings, Limits, Sampling

    def set_only(concern: str) -> dict[str, object]:
        return {name: value for name, value in given[concern].items() if value is not None}

    return BuildSettings(
        corpus=corpus,
        workspace=workspace,
        checksum=checksum,
        encode=EncodeSettings(
            sampling=Sampling(**set_only("sampling")),  # type: ignore[arg-type]
            limits=Limits(**set_only("limits")),  # type: ignore[arg-type]
            **set_only("encode"),  # type: ignore[arg-type]
        ),
        index=IndexSettings(annoy=AnnoySettings(**set_only("annoy")), **set_only("index")),  # type: ignore[arg-type]
        beam_options=beam_options,
    )


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
        "items": f"{summary.items:,}",
        "rejects": f"{summary.rejects:,}" + _reasons(summary.rejects_by_error),
        "encoded": f"{summary.encoded:,} of {summary.tried:,} new GIFs (reused: {summary.reused:,}; "
        f"unchanged files: {summary.unchanged:,})",
        "time": seconds + speed,
        "version": f"{summary.build_id}{' (was there already)' if summary.index_reused else ''}",
        "index": summary.store,
    }
    if summary.ignored:
        facts["ignored"] = f"{summary.ignored:,} other file{'s' if summary.ignored != 1 else ''}, not .gif"
    if summary.rejects:
        facts |= {f"such as {error}": reason for error, reason in summary.example_rejects.items()}
        facts["rejects in"] = str(Path(summary.store).parent / "builds" / summary.build_id / "rejects")
    return facts_table(facts)


def _reasons(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{error}: {count:,}' for error, count in counts.items())})" if counts else ""
