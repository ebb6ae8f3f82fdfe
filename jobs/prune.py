"""`gifdex prune`: delete old versions, and what only they need."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from gifdex.jobs.console import PlaceOption, pairs_table, print_json, print_table, stage_progress

_EPILOG = """\b
Examples:
  gifdex prune ws/index --keep 3
  gifdex prune copies/index --keep 1
  gifdex prune s3://bucket/index --keep 5
"""


@click.command("prune", epilog=_EPILOG)
@click.argument("store", type=PlaceOption())
@click.option("--keep", type=click.IntRange(1), default=3, show_default=True, help="Published versions to keep.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(store: Path | str, keep: int, as_json: bool) -> None:
    """Delete old versions of STORE and, in a workspace, the builds and features that only they need.

    Keeps the current version, every one that was current within the last hour, the KEEP that were published last and
    not rolled back, and the KEEP newest of all others. Also deletes what a killed run left unfinished. Services that
    have a deleted version open continue to answer from it.
    """
    from gifdex.pipeline.prune import prune_at

    with stage_progress(False) as progress:
        summary = prune_at(store, keep, progress)
    if as_json:
        print_json(asdict(summary))
        return
    rows = {
        "kept": ", ".join(summary.kept),
        "versions deleted": ", ".join(summary.versions) or "none",
        "builds deleted": ", ".join(summary.builds) or "none",
        "parts of features": f"{summary.parts:,}",
        "unfinished files": f"{summary.unfinished:,}",
        "freed": f"{summary.bytes / 1e6:,.1f} MB",
    }
    print_table(pairs_table(rows))
