"""`gifdex build`: scan, encode, index and publish."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gifdex.jobs.console import PathOption, print_json, print_table
from gifdex.jobs.runs import build_settings, build_table, corpus_options, run_build

_EPILOG = """\b
Examples:
  gifdex build gifs/ --workspace ws
  gifdex build 'gifs/**/*.gif' --workspace ws --frames 16
  gifdex build gifs/ --workspace ws --sampling scene --strict
  gifdex build gifs/ --workspace ws --image-encoder vgg16 --weights vgg16.h5
  gifdex build catalog.csv --workspace ws --json
  gifdex build gifs/ --workspace ws --hnsw --shards 4
  gifdex build gifs/ --workspace ws -- --runner=FlinkRunner --flink_master=host:8081
"""

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


@click.command("build", epilog=_EPILOG)
@corpus_options
@click.option("--text-encoder", help="See `gifdex encoders`.  [default: use-multilingual]")
@click.option("--projection", type=PathOption(), help="A trained projection instead of the zero-shot one.")
@click.option("--trees", type=click.IntRange(1), help="Trees of the Annoy index.  [default: 5; 50 without a reduction]")
@click.option("--hnsw", is_flag=True, default=None, help="Build a graph too, the fastest engine (extra hnsw).")
@click.option(
    "--shards",
    type=ShardCount(),
    default="auto",
    show_default=True,
    help="Parts that are built apart: a number, or auto for as few as keep each within 2 GiB of memory.",
)
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
    columns are kept as metadata. Only GIFs whose bytes were not encoded before are encoded. A GIF that cannot be
    read or decoded becomes a reject; it never fails the build. Every limit (--max-...) is for one GIF. Items that
    are encoded already stay whatever the limits; only --max-bytes is looked at again. --strict decodes nothing
    again.
    """
    summary = run_build(build_settings(corpus, workspace, beam_options, strict, checksum, options), verbose)
    if as_json:
        print_json(asdict(summary))
    else:
        print_table(build_table(summary))
