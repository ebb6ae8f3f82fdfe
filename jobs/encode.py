"""`gifdex encode`: scan and encode without building an index."""

from __future__ import annotations

from pathlib import Path

import click

from gifdex.jobs.console import print_json, print_table
from gifdex.jobs.options import encode_options
from gifdex.jobs.running import build_settings, run_encode, summary_table

_EPILOG = """\b
Examples:
  gifdex encode gifs/ --workspace ws
  gifdex encode gifs/ --workspace ws --image-encoder vgg16 --weights vgg16.h5 --json
"""


@click.command("encode", epilog=_EPILOG)
@encode_options
def command(
    corpus: str,
    beam_options: tuple[str, ...],
    workspace: Path | str,
    as_json: bool,
    verbose: bool,
    **options: object,
) -> None:
    """Bring the features of a workspace up to date with CORPUS, without building an index.

    Options are those of `gifdex build`; a later build uses the features and encodes nothing again. The features, and
    the catalog with each GIF's SHA-256, are Parquet files; docs/formats.md explains how to read them.
    """
    summary = run_encode(build_settings(corpus, workspace, beam_options, options), verbose)
    if as_json:
        print_json(summary.to_json())
        return
    root = Path(summary.catalog).parents[3]
    results = {"features": summary.features, "catalog": summary.catalog}
    print_table(summary_table(summary.run, summary.run.seconds, str(root), results))
