"""`gifdex embed`: scan and encode alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from gifdex.jobs.console import print_json, print_table
from gifdex.jobs.runs import build_settings, embed_options, run_embed, summary_table

_EPILOG = """\b
Examples:
  gifdex embed gifs/ --workspace ws
  gifdex embed gifs/ --workspace ws --image-encoder vgg16 --weights vgg16.h5 --json
"""


@click.command("embed", epilog=_EPILOG)
@embed_options
def command(
    corpus: str,
    beam_options: tuple[str, ...],
    workspace: Path | str,
    as_json: bool,
    verbose: bool,
    **options: object,
) -> None:
    """Bring the features of a workspace up to date with CORPUS, and build no index.

    Everything is as in `gifdex build`, which finds the features there afterwards and encodes nothing again. The
    features, and the catalog that says which GIF has which SHA-256, are Parquet; docs/formats.md tells how to read
    them.
    """
    summary = run_embed(build_settings(corpus, workspace, beam_options, options), verbose)
    if as_json:
        print_json(asdict(summary))
        return
    root = Path(summary.catalog).parents[3]
    print_table(summary_table(summary, str(root), {"features": summary.features, "catalog": summary.catalog}))
