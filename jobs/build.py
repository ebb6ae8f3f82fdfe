"""`gifdex build`: scan, encode, index and publish."""

from __future__ import annotations

from pathlib import Path

import click

from gifdex.jobs.console import print_json, print_table
from gifdex.jobs.options import build_options
from gifdex.jobs.running import build_settings, build_table, run_build

_EPILOG = """\b
Examples:
  gifdex build gifs/ --workspace ws
  gifdex build 'gifs/**/*.gif' --workspace ws --frames 16
  gifdex build gifs/ --workspace ws --sampling scene --strict
  gifdex build gifs/ --workspace ws --image-encoder vgg16 --weights vgg16.h5
  gifdex build catalog.csv --workspace ws --json
  gifdex build gifs/ --workspace ws --hnsw --shards 4
  gifdex build gifs/ --workspace ws --inbox inbox/
  gifdex build gifs/ --workspace ws --tags 5
  gifdex build gifs/ --workspace ws -- --runner=FlinkRunner --flink_master=host:8081
"""


@click.command("build", epilog=_EPILOG)
@build_options
def command(
    corpus: str,
    beam_options: tuple[str, ...],
    workspace: Path | str,
    as_json: bool,
    verbose: bool,
    **options: object,
) -> None:
    """Bring the index of a workspace up to date with CORPUS and publish it.

    CORPUS is a folder (its .gif, .webp, .png, .apng, .mp4, .m4v, .mov, .webm and .mkv files, however deep), a glob,
    or a catalog file (.parquet, .csv or .jsonl) with a column `uri` and optionally `id` and `caption`; other
    columns are kept as metadata. Only new or changed GIFs are encoded. A GIF that cannot be read or decoded becomes a
    reject; it never fails the build. The limits (--max-...) apply to each GIF. Only --max-bytes also applies to GIFs
    that are already encoded. --strict decodes nothing again.
    """
    summary = run_build(build_settings(corpus, workspace, beam_options, options), verbose)
    if as_json:
        print_json(summary.to_json())
    else:
        print_table(build_table(summary))
